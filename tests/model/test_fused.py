"""BatchNorm in its convolution: the same answers, gradients and parameters, and faster."""

import copy

import pytest
import timm
import torch
from torch import nn

from pipeline.base.config import Runtime
from pipeline.model.build import to_device
from pipeline.model.freeze import train_mode
from pipeline.model.fused import fuse
from pipeline.model.head import BlockHead
from pipeline.model.pooling import MeanAndDeviation

PICTURES = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def worn(name: str) -> nn.Module:
    """A net whose BatchNorms have seen something: statistics, γ and β that are not 0 and 1."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "share"),
    [("tf_efficientnet_lite0", 1), ("resnet18", 1), ("test_efficientnet", 1), ("densenet121", 0.4)],
)
def test_answers_stay_and_norms_compute_nothing(name: str, share: float) -> None:
    model = worn(name)
    with torch.no_grad():
        before = model(PICTURES)
        fuse(model, 48)
        after = model(PICTURES)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * before.abs().max().item())
    x = torch.rand(1, 1, 2, 2)  # positive: no activation changes it
    idle = [norm for norm in norms(model) if "forward" in vars(norm) and norm(x) is x]
    assert len(idle) >= share * len(norms(model))


def test_a_norm_behind_an_activation_stays_where_it_is() -> None:
    """While it is fresh it changes nothing, wherever it stands: only later would answers differ."""
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.GELU()]
    model = nn.Sequential(*layers, nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 2)).eval()
    plain, pictures = copy.deepcopy(model), torch.randn(3, 3, 5, 5)
    fuse(model, 5)
    assert ["forward" in vars(layer) for layer in norms(model)] == [True, False]
    for each in (model, plain):
        for norm in norms(each):
            norm.running_mean.fill_(0.5)
            norm.bias.data.fill_(-0.7)
    torch.testing.assert_close(model(pictures), plain(pictures))


def test_a_norm_behind_a_sum_stays_where_it_is() -> None:
    """RepViT's blocks add to what a convolution gives before it is normed."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x) + x)

    model = Sum().eval()
    fresh, plain = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    fuse(model, 48)
    torch.testing.assert_close(model.state_dict(), fresh, rtol=0, atol=0)
    for each in (model, plain):
        each.norm.running_var.fill_(4)
        each.norm.running_mean.fill_(0.5)
    torch.testing.assert_close(model(PICTURES), plain(PICTURES))


@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
def test_training_is_the_same(batchnorm: str) -> None:
    plain = BlockHead(worn("test_efficientnet"), 5)
    fused = copy.deepcopy(plain)
    fuse(fused, 48)
    results = []
    for model in (plain, fused, copy.deepcopy(fused)):
        train_mode(model, batchnorm)
        loss = nn.functional.cross_entropy(model(PICTURES), torch.tensor([0, 3, 1, 4]))
        loss.backward()
        results.append((loss, model))
    for loss, model in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        assert model.state_dict().keys() == plain.state_dict().keys()
        for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)
        for (name, mine), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, msg=name)
        with torch.no_grad():  # by the statistics of now, not those that it was fused with
            torch.testing.assert_close(model.eval()(PICTURES), plain.eval()(PICTURES))


def test_strided_convolutions_of_few_channels_see_no_channels_last_pictures() -> None:
    """PyTorch's backward of these corrupts memory: MobileOne's training crashed."""
    layers, seen = [nn.Conv2d(3, 16, 1, 2), nn.Conv2d(16, 4, 1, 2), nn.Conv2d(4, 4, 3, 2)], []
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    before = model(PICTURES)
    to_device(model, Runtime(), 48, torch.device("cpu"))
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    images = PICTURES.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), before)
    assert seen[0], "the stem of a MobileOne"
    assert not any(seen[2:])


def test_a_pair_that_is_none_is_undone() -> None:
    class Apart(nn.Module):
        """Lists a norm after a convolution that it does not follow."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(0.7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(x).relu())

    model = Apart().eval()
    before = model(PICTURES)
    fuse(model, 48)
    torch.testing.assert_close(model(PICTURES), before)
    assert "forward" not in vars(model.conv)


def test_mean_and_deviation_and_their_gradient() -> None:
    x = torch.randn(3, 7, 2, dtype=torch.double, requires_grad=True)
    mean, deviation = MeanAndDeviation.apply(x)
    torch.testing.assert_close(mean, x.mean(1))
    torch.testing.assert_close(deviation, (x.var(1, correction=0) + 1e-6).sqrt())
    assert torch.autograd.gradcheck(MeanAndDeviation.apply, (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mean_and_deviation_of_half_precision_are_summed_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    exact = (torch.randn(2, 3000, 5, dtype=torch.double) + 4).to(dtype).double()
    x, exact = exact.to(dtype).requires_grad_(), exact.requires_grad_()
    weights = torch.randn(2, 5, dtype=torch.double)
    gradients = []
    for given in (x, exact):
        mean, deviation = MeanAndDeviation.apply(given)
        assert mean.dtype == deviation.dtype == (torch.double if given is exact else torch.float32)
        torch.testing.assert_close(mean.double(), exact.mean(1), rtol=1e-5, atol=0)
        torch.testing.assert_close(
            deviation.double(), exact.std(1, correction=0), rtol=1e-4, atol=0
        )
        (weights * (mean + 2 * deviation)).sum().backward()
        gradients.append(given.grad.double())
    step = torch.finfo(dtype).eps * exact.abs().max() * (weights.abs().max() / 3000)
    assert (gradients[0] - gradients[1]).abs().max() < 4 * step


@pytest.mark.parametrize(
    ("device", "training", "compiled", "folds"),
    [
        ("cpu", False, False, True),
        ("meta", True, False, True),
        ("meta", False, False, False),
        ("meta", True, True, False),  # a compiler folds by itself
    ],
)
def test_norms_are_folded_where_that_is_faster(
    device: str, training: bool, compiled: bool, folds: bool
) -> None:
    """Any device but a CPU stands for a GPU."""
    model, how = worn("test_efficientnet"), Runtime(compile=compiled)
    to_device(model, how, 32, torch.device(device), training)
    assert hasattr(model.conv_stem, "fused") is folds
