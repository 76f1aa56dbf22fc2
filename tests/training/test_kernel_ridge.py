"""Kernel ridge regression beside the linear head, against formulas in double precision."""

import numpy as np
import pytest
import timm
import torch

from pipeline.base.cli import UserError
from pipeline.inference.features import backbone_digest
from pipeline.model.head import BlockHead
from pipeline.model.kernel import gaussian
from pipeline.training import kernel_ridge
from pipeline.training.discriminant import held_out, lda
from pipeline.training.head_init import add_kernel, fit_head, standardise
from pipeline.training.kernel_ridge import RIDGE, Projection, answers, choose, project, solve


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
    found = solve(points, labels, 3)
    np.testing.assert_allclose(gram @ found.numpy(), gram @ expected, atol=1e-4)
    own = answers(points, points, found)
    np.testing.assert_allclose(own, gram @ expected, atol=1e-3)


def test_pictures_that_are_all_one_need_a_larger_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels = torch.ones(30, 1, 4), np.arange(30) % 3
    monkeypatch.setattr(kernel_ridge, "RIDGE", 1e-8)  # 1 + 1e-8 is 1 in single precision
    assert torch.linalg.cholesky_ex(torch.ones(30, 30) + 1e-8 * torch.eye(30)).info > 0
    assert solve(points, labels, 3).isfinite().all()
    monkeypatch.setattr(kernel_ridge, "RIDGE", 0.0)
    with pytest.raises(UserError, match="its matrix has no root; set it to false"):
        solve(points, labels, 3)


def standard(features: torch.Tensor) -> Projection:
    return project(features, *standardise(features), 7)


def test_principal_axes_in_units_of_the_median_distance(monkeypatch: pytest.MonkeyPatch) -> None:
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
    variance = near.points.flatten(0, 1).var(0)
    assert (variance.diff() < 0).all(), "the first axis is that of the widest spread"
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
    assert choose(points, labels, linear)[1] <= 0.25


def test_where_a_plane_parts_all_the_kernel_has_little_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One feature in sixty tells the class: most of what is near is so by chance."""
    rng = np.random.default_rng(1)
    labels = np.arange(600) % 2
    features = torch.from_numpy(rng.normal(0, 1, (600, 1, 60))).float()
    features[:, 0, 5] += torch.from_numpy(labels * 2.0)
    points = standard(features).points
    assert choose(points, labels, lda(features, labels, 2))[1] >= 0.75
    monkeypatch.setattr(kernel_ridge, "SHARES", [1.0])
    assert choose(points, labels, lda(features, labels, 2)) == (0.0, 1.0), "then there is none"


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_logits_of_a_finished_head(share: float) -> None:
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
    add_kernel(model, near, labels, 12.0, share)
    assert backbone_digest(model) == backbone, "features that are kept are found again"
    own = 12 * answers(near.points[:, 1:], near.points, solve(near.points, labels, 3))
    expected = share * linear + (1 - share) * own
    found = model.from_statistics(raw[:, 1])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    copy = BlockHead(timm.create_model("test_resnet"), 3).eval()
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy.from_statistics(raw[:, 1]), found, rtol=0, atol=0)
    copy.load_state_dict(BlockHead(timm.create_model("test_resnet"), 3).state_dict())
    assert copy.kernel is None
