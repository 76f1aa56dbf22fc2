"""A compiled step is used where it is the same step."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_train import trainer
from timm.models.resnet import ResNet

from pipeline.base.config import load_experiment
from pipeline.base.records import load, write_json
from pipeline.base.runs import model_path
from pipeline.training.compiled import compile_step
from pipeline.training.parts import Parts
from pipeline.training.trainer import Trainer

COMPILERS = {  # by what they multiply the logits of the eager step
    1.001: "",
    1.5: "its gradients differ by 50%: the model is not compiled",
    None: "no C++ compiler was found: the model is not compiled",
}

NOISY = """
from pipeline.plugins import head
from torch import nn
from torch.nn import functional as F

@head
class Noisy(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(width), nn.Linear(width, classes)

    def forward(self, maps):
        return self.fc(F.dropout(self.norm(maps.mean((2, 3))), 0.5, self.training))
"""


@pytest.fixture
def first(space: Path) -> str:
    """First weights, by their file."""
    save_file(timm.create_model("test_resnet").state_dict(), space / "first.safetensors")
    return str(space / "first.safetensors")


def invented(factor: float | None, calls: list[dict[str, Any]]) -> Callable[..., Callable]:
    def compiler(call: Callable, **options: Any) -> Callable:
        def compiled(*args: Any) -> torch.Tensor:
            if factor is None:
                raise RuntimeError("no C++ compiler\nwas found")
            calls.append(options)
            return call(*args) * factor

        return compiled

    return compiler


def test_a_step_with_other_gradients_is_not_compiled(
    write: Callable[..., str],
    split: Callable[[str], str],
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("train", split(write("eager", train={"epochs": 1})), "--fold", "0")
    steps, eager = load(model_path("eager", 0))["images"]["train"] // 8, losses("eager")
    for factor, said in COMPILERS.items():
        calls, name = [], f"times-{factor}"
        monkeypatch.setattr(torch, "compile", invented(factor, calls))
        experiment = write(name, train={"epochs": 1}, runtime={"compile": True})
        text = run("train", experiment, "--fold", "0")
        assert (said in text) if said else ("runtime.compile" not in text)
        assert len(calls) >= (0 if said else steps) + bool(factor)
        if said:  # eager, and the canary has moved nothing: neither weights nor statistics
            assert len(calls) <= 1
            assert losses(name) == eager


def test_a_head_that_draws_random_numbers_is_compiled(
    write: Callable[..., str],
    first: str,
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A compiled step draws others than an eager one: they are compared without."""

    def compiler(call: Callable, **_: Any) -> Callable:
        return lambda images: (torch.rand(1), call(images))[1]

    monkeypatch.chdir(space)
    monkeypatch.setattr(torch, "compile", compiler)
    (space / "mine.py").write_text(NOISY)
    own = {"weights": first, "batchnorm": "frozen", "classifier": "Noisy"}
    one = trainer(write(model=own, plugins="mine.py", runtime={"compile": True}))
    assert not capsys.readouterr().err
    assert one.model._compiled_call_impl
    assert all(module.training for module in one.model.head.modules())


def test_a_step_is_compared_again_once_other_layers_train(
    write: Callable[..., str],
    first: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def compiler(call: Callable, **_: Any) -> Callable:
        def compiled(images: torch.Tensor) -> torch.Tensor:
            everything = all(p.requires_grad for p in call.__self__.parameters())
            return call(images) * (1.5 if everything else 1)

        return compiled

    model = {"weights": first, "drop_path_rate": 0.3}
    model |= {"freeze": "backbone", "freeze_epochs": 1}
    monkeypatch.setattr(torch, "compile", compiler)
    ends = []
    for runtime in ({}, {"compile": True}):
        one = trainer(write(model=model, runtime=runtime))
        one.train_epoch()
        assert not capsys.readouterr().err
        one.epoch = 1
        one.train_epoch()
        assert ("gradients differ by 50%" in capsys.readouterr().err) is bool(runtime)
        ends.append(one.model.state_dict())
    torch.testing.assert_close(*ends, rtol=0, atol=0)  # what is dropped, too


def test_larger_pictures_at_the_end_are_no_work_for_the_compiler(
    write: Callable[..., str],
    split: Callable[[str], str],
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would compile each of their batches anew: of one picture, of many, of the last."""
    seen = []

    def compiler(call: Callable, **_: Any) -> Callable:
        def compiled(images: torch.Tensor) -> torch.Tensor:
            seen.append(images.shape[2])
            return call(images)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    model = {"features": "blocks", "head_init": "lda", "test_scale": 1.25}
    experiment = write(model=model, train={"epochs": 1, "refit": True}, runtime={"compile": True})
    assert "fits the head to pictures of 40 px" in run("train", split(experiment), "--fold", "0")
    assert set(seen) == {32}


@pytest.mark.parametrize(("parts", "size"), [(1, 9), (2, 5)])
def test_the_step_that_is_tried_is_one_that_comes(
    parts: int, size: int, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """27 pictures in batches of about 8 are three of 9."""
    seen = []

    def compiler(call: Callable, **_: Any) -> Callable:
        return lambda images: seen.append(len(images)) or call(images)

    monkeypatch.setattr(torch, "compile", compiler)
    experiment = write(runtime={"compile": True})
    if parts > 1:
        write_json(Parts(load_experiment(experiment)).kept, {"parts": parts})
    one = trainer(experiment, n=27)
    assert seen == [size]
    one.train_epoch()
    assert size in seen[1:]


def test_where_there_is_no_memory_for_a_step_it_is_taken_in_parts_uncompiled(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, most, real = [], [4], ResNet.forward

    def forward(self: ResNet, images: torch.Tensor) -> torch.Tensor:
        logits = real(self, images)  # which moves BatchNorm's statistics
        if len(images) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return logits

    monkeypatch.setattr(torch, "compile", invented(1.0, calls))
    first = trainer(write()).model.state_dict()
    monkeypatch.setattr(ResNet, "forward", forward)
    one = trainer(write(runtime={"compile": True}))
    text = "warning: runtime.compile: CUDA out of memory. Tried to allocate 2 GiB: the model is not"
    assert text in capsys.readouterr().err
    torch.testing.assert_close(one.model.state_dict(), first)
    one.train_epoch()
    assert one.parts.n == 2 and not calls
    most[0] = 1
    monkeypatch.setattr(Trainer, "bare_model", one.model)
    one.accelerator = SimpleNamespace(num_processes=2)
    with pytest.raises(torch.OutOfMemoryError):  # ranks would wait for the one that went on
        compile_step(one)


def losses(run: str) -> list[float]:
    scores = load(model_path(run, 0))["scores"]
    return [scores["train_loss"], scores["valid_loss"]]
