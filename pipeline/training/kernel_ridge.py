"""The closed form of a head's kernel ridge regression, and how much of it the logits take."""

import time
from typing import NamedTuple

import numpy as np
import torch

from pipeline.base.cli import UserError
from pipeline.model.kernel import gaussian, in_float32
from pipeline.training.calibrate import LOSSES, Calibrated, as_rows, calibrate
from pipeline.training.discriminant import CHUNK_IMAGES, Fitted, LinearHead, held_out

MOST = 16_384  # centres: their products are a gigabyte
DIMS = 512  # of the space in which distances are measured
POWERS = 2  # passes that find it: the log loss of three on four sets, in two thirds of the time
NEAR = 0.25  # over the median squared distance of two pictures: how wide the Gaussians are
RIDGE = 1e-3
SHARES = np.linspace(0, 1, 5)  # of the linear head's logits


class Projection(NamedTuple):
    """What a head reads of training pictures, in units in which the Gaussians are exp(-d²)."""

    points: torch.Tensor  # [n, views, dims]
    basis: torch.Tensor  # [width, dims], for features as they come
    shift: torch.Tensor  # [dims]


class Judged(NamedTuple):
    line: Calibrated  # how answers become logits
    logits: torch.Tensor  # [held-out images times views, columns]
    target: torch.Tensor  # the same, of what is right


def views_within_most(images: int, views: int) -> int:
    """How many of each image's views are centres."""
    return max(1, min(views, MOST // images))


def project(
    features: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, seed: int
) -> Projection:
    """Where they vary most, features [n, views, width] that `mean` and `scale` standardised.

    Of so many views that there are at most MOST. Subspace iteration finds it (Halko et al. 2011,
    4.4); distances are the same on any of its axes, so those of largest variance are not sought.
    """
    n, views = features.shape[:2]
    flat = features[:, : views_within_most(n, views)].flatten(0, 1)
    draw = torch.Generator().manual_seed(seed)  # a resumed run shall find the same
    axes = torch.randn(flat.shape[1], min(DIMS, *flat.shape), generator=draw)
    for _ in range(POWERS):
        axes = torch.linalg.qr(flat.T @ (flat @ axes)).Q
    points = (flat @ axes).view(n, -1, axes.shape[1])
    apart = torch.pdist(points[:CHUNK_IMAGES, 0]).square().median().clamp(min=1e-9)
    unit = (NEAR / apart).sqrt()
    basis = scale.cpu()[:, None] * axes * unit
    return Projection(points * unit, basis, mean.cpu() @ basis)


def choose(points: torch.Tensor, labels: np.ndarray, linear: LinearHead) -> Fitted:
    """How the regression's answers become logits, then the share of the linear head beside them.

    By the loss on the held-out fifth of images that the linear head was chosen by, which may say
    that the linear head alone is better.
    """
    alone = Fitted(linear.shrinkage, linear.scale)
    if not len(held_out(labels)[1]):
        return alone
    line, near, target = judged(points, labels, len(linear.weight))
    views = points.shape[1]
    far = linear.held.unflatten(0, (len(near) // views, -1))[:, :views].flatten(0, 1)
    loss = LOSSES[labels.dtype.kind]
    losses = [loss(s * far + (1 - s) * near, target).item() for s in SHARES]
    share = float(SHARES[np.argmin(losses)])
    return Fitted(*alone[:2], line.slope, share, line.offset) if share < 1 else alone


def judged(points: torch.Tensor, labels: np.ndarray, columns: int) -> Judged:
    """By the held-out fifth, of a regression on the other images."""
    (kept, rest), views = held_out(labels), points.shape[1]
    rows = as_rows(labels, columns).float()
    near = answers(points[rest], points[kept], solve(points[kept], rows[kept]))
    target = rows[rest].repeat_interleave(views, 0)
    line = calibrate(labels.dtype.kind, near, target, rows.mean(0))
    return Judged(line, line.logits(near), target)


@in_float32()
def solve(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Weights [n times views, columns] of the regression of rows [n, columns] less their means."""
    centres = points.flatten(0, 1)
    target = (rows - rows.mean(0)).repeat_interleave(points.shape[1], 0)
    gram = torch.empty(len(centres), len(centres))
    for some, found in zip(centres.split(CHUNK_IMAGES), gram.split(CHUNK_IMAGES), strict=True):
        found.copy_(gaussian(some, centres))
    for ridge in (RIDGE, 9 * RIDGE, 90 * RIDGE):  # more where roundings are larger: 10, 100 times
        gram.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if not failed:
            return torch.cholesky_solve(target, factor)
    raise UserError("model.kernel: its matrix has no root; set it to false")


def seconds_of_kernel(images: int, views: int, classes: int) -> float:
    """What `solve` will take, from that of 2,048 centres; at most, as not all of it grows with
    their cube."""
    centres = images * views_within_most(images, views)
    some, started = min(centres, 2048), time.monotonic()
    solve(torch.randn(some, 1, DIMS), torch.zeros(some, classes))
    return (time.monotonic() - started) * (centres / some) ** 3


@in_float32()
def answers(points: torch.Tensor, of: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    chunks, centres = points.flatten(0, 1).split(CHUNK_IMAGES), of.flatten(0, 1)
    return torch.cat([gaussian(some, centres) @ weight for some in chunks])
