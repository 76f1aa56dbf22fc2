"""Depthwise convolutions that spare cuDNN's compiler: the same answers, for few pictures alone."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import timm
import torch
from torch import nn

from pipeline.base.records import load
from pipeline.base.runs import model_path
from pipeline.model import depthwise
from pipeline.model.depthwise import FEW, expect, expecting, spare_compiler
from pipeline.model.fused import fuse

DEVICE = torch.device("cpu")
PICTURES = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What cuDNN was told each time; this machine's would compile."""
    told = []

    @contextmanager
    def flags(enabled: bool) -> Iterator[None]:
        told.append(enabled)
        yield

    monkeypatch.setattr(torch.backends.cudnn, "flags", flags)
    monkeypatch.setattr(depthwise, "compiles", lambda device: True)
    return told


def answer(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the gradient of a weight before the depthwise ones."""
    model.zero_grad()
    logits = model(PICTURES.to(memory_format=torch.channels_last))
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), model.conv_stem.weight.grad.clone()


@pytest.mark.parametrize("fused", [False, True])
def test_few_pictures_get_the_same_answers_by_other_kernels(fused: bool, without: list) -> None:
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", num_classes=5).eval()
    model.to(memory_format=torch.channels_last)
    if fused:
        fuse(model, 40)
    before, wide = answer(model), len(depthwise.depthwise(model))
    spare_compiler(model, DEVICE)
    for each in (model, copy.deepcopy(model)):
        without.clear()
        torch.testing.assert_close(answer(each), before, rtol=1e-3, atol=1e-4)
        assert without == [False] * wide == [False] * 16
    expect(model, FEW)
    without.clear()
    torch.testing.assert_close(answer(model), before, rtol=1e-3, atol=1e-4)
    assert not without, "many pictures repay the compiler"
    with expecting(model, FEW - 1):
        answer(model)
        assert len(without) == 16
    without.clear()
    answer(model)
    assert not without, "training goes on with its own"


def test_weights_ask_for_no_channels_last_gradient(without: list) -> None:
    conv = nn.Conv2d(6, 6, 3, groups=6).to(memory_format=torch.channels_last)
    spare_compiler(conv, DEVICE)
    assert conv.weight.stride() == (9, 9, 3, 1)
    seen = []
    conv.register_forward_hook(lambda _, given, out: seen.append(out.is_contiguous()))
    conv(torch.randn(2, 6, 8, 9).to(memory_format=torch.channels_last))
    assert seen == [True]


def test_others_stay_and_so_do_all_where_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(depthwise, "compiles", lambda device: False)
    convs = [nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 3, groups=3), nn.Conv2d(1, 1, 3)]
    model = nn.Sequential(*convs)
    assert depthwise.depthwise(model) == convs[:1]
    spare_compiler(model, DEVICE)
    assert not any("forward" in vars(conv) for conv in convs)


def test_trainings_and_predictions_tell_what_is_coming(
    write: Callable[..., str],
    split: Callable[[str], str],
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr("pipeline.training.trainer.expect", lambda model, n: told.append(n))
    monkeypatch.setattr(
        "pipeline.inference.predictor.expecting",
        lambda model, n: told.append(n) or nullcontext(),
    )
    run("train", split(write(train={"epochs": 3})), "--fold", "0")
    images = load(model_path("tiny", 0))["images"]
    assert told == [3 * images["train"] * 32**2] + 3 * [images["valid"] * 32**2]
