"""Kernel ridge regression beside the linear head, against formulas in double precision."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.base.cli import UserError
from pipeline.base.config import load_experiment
from pipeline.inference.features import backbone_digest
from pipeline.model.head import BlockHead
from pipeline.model.kernel import KernelRidge, gaussian
from pipeline.training import kernel_ridge
from pipeline.training.calibrate import SCALES, as_rows
from pipeline.training.discriminant import Fitted, held_out, lda
from pipeline.training.head_end import refit_head
from pipeline.training.head_init import add_kernel, fit_head, standardise
from pipeline.training.kernel_ridge import RIDGE, Projection, answers, choose, project, solve
from pipeline.training.ridge import ridge


def rings(n: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Three classes [n, 2 views, 12], each a ring around the next: no plane parts them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    angle = rng.uniform(0, 2 * np.pi, (n, 2))
    features = rng.normal(0, 0.1, (n, 2, 12))
    features[:, :, 4] += (1 + 2 * labels[:, None]) * np.cos(angle)
    features[:, :, 9] += (1 + 2 * labels[:, None]) * np.sin(angle)
    return torch.from_numpy(features).float(), labels


def test_gaussian_is_of_the_distance() -> None:
    points, centres = torch.randn(5, 3), torch.randn(7, 3)
    expected = np.exp(-((points[:, None] - centres) ** 2).sum(2).numpy())
    np.testing.assert_allclose(gaussian(points, centres), expected, rtol=1e-4)


def test_weights_are_those_of_the_textbook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_ridge, "CHUNK_IMAGES", 7)
    points, labels = rings(20)
    flat = points.flatten(0, 1).double().numpy()
    gram = np.exp(-((flat[:, None] - flat) ** 2).sum(2))
    target = np.eye(3)[labels.repeat(2)] - np.bincount(labels) / 20
    expected = np.linalg.solve(gram + RIDGE * np.eye(40), target)
    found = solve(points, as_rows(labels, 3).float())
    np.testing.assert_allclose(gram @ found.numpy(), gram @ expected, atol=1e-4)
    own = answers(points, points, found)
    np.testing.assert_allclose(own, gram @ expected, atol=1e-3)


def test_pictures_that_are_all_one_need_a_larger_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels = torch.ones(30, 1, 4), np.arange(30) % 3
    monkeypatch.setattr(kernel_ridge, "RIDGE", 1e-8)  # 1 + 1e-8 is 1 in single precision
    assert torch.linalg.cholesky_ex(torch.ones(30, 30) + 1e-8 * torch.eye(30)).info > 0
    assert solve(points, as_rows(labels, 3).float()).isfinite().all()
    monkeypatch.setattr(kernel_ridge, "RIDGE", 0.0)
    with pytest.raises(UserError, match="its matrix has no root; set it to false"):
        solve(points, as_rows(labels, 3).float())


def standard(features: torch.Tensor) -> Projection:
    return project(features, *standardise(features), 7)


def test_distances_are_of_the_space_that_varies_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 of 40 directions carry all that is known; the rest, a tenth as wide, is noise."""
    monkeypatch.setattr(kernel_ridge, "DIMS", 16)
    draw = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(40, 40, generator=draw)).Q
    told, noise = torch.randn(200, 1, 16, generator=draw), torch.randn(200, 1, 24, generator=draw)
    near = project(
        torch.cat([told, 0.1 * noise], 2) @ turn.T, torch.zeros(40), torch.ones(40), seed=7
    )
    off = torch.pdist(near.points[:, 0]) / torch.pdist(told[:, 0])
    assert off.std() / off.mean() < 0.01, "a random space of as many has 0.13"


def test_points_in_units_of_the_median_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, _ = rings(90)
    raw = raw * 5 + 3
    monkeypatch.setattr(kernel_ridge, "DIMS", 4)
    state = torch.get_rng_state()
    near = standard(raw.clone())
    assert torch.equal(state, torch.get_rng_state()), "training goes on as without it"
    torch.testing.assert_close(raw @ near.basis - near.shift, near.points, rtol=1e-4, atol=1e-4)
    assert torch.pdist(near.points[:, 0]).square().median().item() == pytest.approx(
        kernel_ridge.NEAR
    )
    torch.testing.assert_close(standard(raw.clone()).points, near.points, rtol=0, atol=0)
    monkeypatch.setattr(kernel_ridge, "MOST", 100)
    assert standard(raw.clone()).points.shape == (90, 1, 4), "two views would be 180 centres"


def test_what_no_plane_parts_is_left_to_the_kernel() -> None:
    features, labels = rings(150)
    points = standard(features).points
    linear = lda(features, labels, 3)
    _, rest = held_out(labels)
    assert linear.held.shape == (2 * len(rest), 3)
    target = torch.from_numpy(labels[rest].repeat(2))
    assert (linear.held.argmax(1) == target).float().mean() < 0.6
    assert choose(points, labels, linear).share <= 0.25


def test_where_a_plane_parts_all_the_kernel_has_little_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One feature in sixty tells the class: most of what is near is so by chance."""
    rng = np.random.default_rng(1)
    labels = np.arange(600) % 2
    features = torch.from_numpy(rng.normal(0, 1, (600, 1, 60))).float()
    features[:, 0, 5] += torch.from_numpy(labels * 2.0)
    points = standard(features).points
    linear = lda(features, labels, 2)
    assert choose(points, labels, linear).share >= 0.75
    monkeypatch.setattr(kernel_ridge, "SHARES", [1.0])
    alone = (linear.shrinkage, linear.scale, 0.0, 1.0, 0.0)
    assert choose(points, labels, linear) == alone, "then there is none"


def circles(n: int = 400) -> tuple[torch.Tensor, np.ndarray]:
    """Places in a plane [n, 1, 2], and how far out each is."""
    places = np.random.default_rng(3).uniform(-1, 1, (n, 1, 2))
    return torch.from_numpy(places).float() * 4, np.hypot(*places[:, 0].T)


def after(fitted: Fitted, points: torch.Tensor, labels: np.ndarray, test: slice) -> np.ndarray:
    """Logits of the kernel alone, for images that it has not seen."""
    seen = np.ones(len(points), bool)
    seen[test] = False
    rows = as_rows(labels, labels.shape[1]).float()[seen]
    found = answers(points[~seen], points[seen], solve(points[seen], rows))
    return (found * fitted.slope + fitted.offset).numpy()


def test_labels_that_no_plane_parts_get_chances_that_come_true() -> None:
    """One is rare, one usual: slope and offset are each label's own."""
    points, radius = circles()
    labels = np.column_stack([radius < 0.3, radius > 0.4])
    assert labels.mean(0).tolist() == [0.0625, 0.8725]
    linear = ridge(points.clone(), labels, 2)
    fitted = choose(points, labels, linear)
    assert fitted.share <= 0.25 and fitted.slope.shape == fitted.offset.shape == (2,)
    assert fitted.slope[0] > 1.5 * fitted.slope[1] and fitted.offset[0] < 0 < fitted.offset[1]
    chance = 1 / (1 + np.exp(-after(fitted, points, labels, slice(0, 200))))
    want = labels[:200]
    np.testing.assert_array_less(np.abs(chance.mean(0) - want.mean(0)), 0.04)
    loss = -np.log(np.where(want, chance, 1 - chance)).mean(0)
    usual = labels.mean(0)
    assert (loss < -0.5 * (usual * np.log(usual) + (1 - usual) * np.log(1 - usual))).all()


def test_numbers_that_are_no_sum_of_features() -> None:
    """Their mean is not 0: it is part of what the kernel gives."""
    points, radius = circles()
    labels = np.column_stack([3 + radius, radius**2])
    fitted = choose(points, labels, ridge(points.clone(), labels, 2))
    assert fitted.share == 0 and fitted.scale == 1
    np.testing.assert_allclose(fitted.offset, labels.mean(0), rtol=1e-5)
    found = after(fitted, points, labels, slice(0, 200))
    assert (np.square(found - labels[:200]).mean(0) < 0.03 * labels.var(0)).all()


@pytest.mark.parametrize(
    ("share", "slope", "offset"),
    [
        (0.25, torch.tensor(12.0), 0.0),
        (0.5, torch.tensor([3, 12, 5.0]), torch.tensor([1, -2, 0.5])),
    ],
)
def test_the_logits_of_a_finished_head(
    share: float, slope: torch.Tensor, offset: torch.Tensor | float
) -> None:
    """Of raw inputs, in the model's and in the state dict's copy."""
    torch.manual_seed(2)
    model = BlockHead(timm.create_model("test_resnet"), 3).eval()
    labels = np.arange(60) % 3
    raw = torch.randn(60, 2, model.head.in_features) * 3 + torch.from_numpy(labels)[:, None, None]
    features = raw.clone()
    fit_head(model, features, labels, "lda")
    linear = model.from_statistics(raw[:, 1]).detach()
    near = project(features, model.mean, model.scale * model.head.in_features**0.5, 5)
    backbone = backbone_digest(model)
    add_kernel(model, near, labels, Fitted(0.1, 1.0, slope, share, offset))
    assert backbone_digest(model) == backbone, "features that are kept are found again"
    assert all(part.is_contiguous() for part in model.kernel.buffers()), "NCCL takes no others"
    own = slope * answers(
        near.points[:, 1:], near.points, solve(near.points, as_rows(labels, 3).float())
    )
    expected = share * linear + (1 - share) * (own + offset)
    found = model.from_statistics(raw[:, 1])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    copy = BlockHead(timm.create_model("test_resnet"), 3).eval()
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy.from_statistics(raw[:, 1]), found, rtol=0, atol=0)
    copy.load_state_dict(BlockHead(timm.create_model("test_resnet"), 3).state_dict())
    assert copy.kernel is None


class Ampere(TorchDispatchMode):
    """A GPU that multiplies by TF32 unless it is told not to."""

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        product = function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        if product and torch.get_float32_matmul_precision() != "highest":
            args = [*args[:-2], *(to_tf32(x) for x in args[-2:])]
        return function(*args, **(kwargs or {}))


def to_tf32(x: torch.Tensor) -> torch.Tensor:
    """Of 23 bits of a mantissa the first 10, rounded."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_weights_that_cancel_are_not_rounded_as_a_gpu_would() -> None:
    """It would: TF32 made .435 of a log loss of .209 (leaf99-binary, H200)."""
    torch.manual_seed(0)
    points, others = (torch.randn(n, 1, 6) / 4 for n in (300, 50))
    rows = F.one_hot(torch.arange(300) % 3, 3).float()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as in training
    try:
        exact = KernelRidge(torch.eye(6), torch.zeros(6), points[:, 0], solve(points, rows))
        expected = exact(others[:, 0])
        with Ampere():
            there = KernelRidge(torch.eye(6), torch.zeros(6), points[:, 0], solve(points, rows))
            made, same = there(others[:, 0]), answers(others, points, there.weight)
            off = gaussian(others[:, 0], points[:, 0]) @ there.weight
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert exact.weight.abs().mean() > 20
    torch.testing.assert_close(there.weight, exact.weight)
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(same, expected)
    assert (off - expected).abs().max() > 0.1


def test_the_model_may_be_on_another_device_than_what_it_is_fitted_to() -> None:
    model = BlockHead(timm.create_model("test_resnet"), 3).to("meta")
    points = torch.rand(30, 1, 4)
    near = Projection(points, torch.eye(model.head.in_features, 4), torch.zeros(4))
    labels = np.random.default_rng(0).random((30, 3)) < 0.4
    add_kernel(model, near, labels, Fitted(0.1, 1.0, torch.rand(3), 0.5, torch.rand(3)))
    assert model.kernel.weight.is_meta and model.kernel.weight.shape == (30, 3)


def test_how_sure_the_kernel_is_follows_the_trained_backbone(write: Callable[..., str]) -> None:
    """Not the untrained one, which knows less of the pictures; of two views of 90 pictures."""
    torch.manual_seed(1)
    model = BlockHead(timm.create_model("test_resnet"), 3).eval()
    labels = np.arange(90) % 3
    values = torch.randn(90, 2, model.head.in_features)
    values[:, :, :4] += 3 * torch.eye(4)[labels][:, None]
    features = SimpleNamespace(
        model=model,
        settings=load_experiment(write(augment=["HorizontalFlip"])),
        prepared=SimpleNamespace(rows=pd.DataFrame({"split": ["train"] * 90})),
        compute=lambda rows, views: values[rows, : len(views)],
        size=32,
    )
    before = model.from_statistics(values[:, 0]).detach()
    refit_head(features, features, np.arange(90), labels, 5, Fitted(0.1, 0.5, 1e3, 0.75))
    torch.testing.assert_close(
        0.5 * before, model.head((values[:, 0] - model.mean) * model.scale), rtol=1e-4, atol=1e-4
    )
    order = np.random.default_rng(5).permutation(90)  # a fifth of the pictures in this order
    shuffled = labels[order]
    kept, rest = held_out(shuffled)
    points = (values @ model.kernel.basis - model.kernel.shift)[order]
    rows = as_rows(shuffled, 3).float()
    found = answers(points[rest], points[kept], solve(points[kept], rows[kept]))
    target = torch.from_numpy(shuffled[rest].repeat(2))
    losses = [F.cross_entropy(found * scale, target).item() for scale in SCALES["i"]]
    slope = SCALES["i"][np.argmin(losses)]
    assert 2 < slope < 64, "on no edge"
    expected = 0.5 * slope * solve(points, rows)
    torch.testing.assert_close(model.kernel.weight, expected, rtol=1e-2, atol=1e-3)
