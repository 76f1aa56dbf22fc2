"""The closed form of a head that tells classes apart: linear discriminant analysis, by sums."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from pipeline.training.calibrate import Calibrated

SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SCALES = np.geomspace(0.005, 2.0, 60)
CHUNK_IMAGES = 1024
BANDS = 8  # of a matrix that is its own mirror
HELD_OUT = 5  # every fifth image of a class judges shrinkage and scale

Tried = TypeVar("Tried", bound=tuple)


class LinearHead(NamedTuple):
    weight: torch.Tensor  # [classes, width], for standardised features
    bias: torch.Tensor  # [classes]
    shrinkage: float
    scale: float
    held: torch.Tensor | None = None  # logits of the held-out images' views, which chose these


class Fitted(NamedTuple):
    """What the closed form chose on held-out training pictures."""

    shrinkage: float
    scale: float
    slope: torch.Tensor | float = 0.0  # of the answers of kernel ridge regression, [] or [columns]
    share: float = 1.0  # of the linear head beside it; all: there is no kernel
    offset: torch.Tensor | float = 0.0  # of its answers

    def beside_trained(self, line: Calibrated | None = None) -> "Fitted":
        """A trained head has half at most: both read what the backbone learned.

        `line` is that of answers on the trained backbone, where there is one yet.
        """
        how = self._replace(share=min(0.5, self.share))
        return how._replace(slope=line.slope, offset=line.offset) if line else how


def lda(
    features: torch.Tensor, labels: np.ndarray, classes: int, like: Fitted | None = None
) -> LinearHead:
    """Linear discriminant analysis of standardised features [n, views, width], labels [n].

    Shrinkage of the covariance and scale of the logits (one over the temperature) are those that
    `downhill` finds by the log loss on held-out fifths of the training images, plain LDA being far
    too sure, or those that are given.
    """
    if like:
        every = ClassMoments.of(features, labels, classes, np.arange(len(labels)))
        return scaled(every, like.shrinkage, like.scale)
    kept, rest = held_out(labels)
    moments, best = ClassMoments.of(features, labels, classes, kept), (np.inf, 0.1, 1.0, None)
    if len(rest):
        best = downhill(lambda s: best_scale(moments, features, labels, rest, s))
    moments += ClassMoments.of(features, labels, classes, rest)  # each may be half a gigabyte
    return scaled(moments, *best[1:])


def held_out(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images that are kept, and every fifth of a class; its first image always stays."""
    among = labels if labels.ndim == 1 else np.zeros(len(labels))  # of rows, every fifth of all
    held = pd.Series(among).groupby(among).cumcount().to_numpy() % HELD_OUT == 1
    return np.flatnonzero(~held), np.flatnonzero(held)


def scaled(
    moments: "ClassMoments", shrinkage: float, scale: float, held: torch.Tensor | None = None
) -> LinearHead:
    weight, bias = moments.solve(shrinkage)
    return LinearHead((weight * scale).float(), (bias * scale).float(), shrinkage, scale, held)


def downhill(tried: Callable[[float], Tried]) -> Tried:
    """The lowest, by its first item, of what the shrinkages give, from the middle on.

    Losses fall and rise again along them, and each costs a factorisation of seconds.
    """
    at = cache(lambda i: tried(SHRINKAGES[i]))
    i, last = len(SHRINKAGES) // 2, len(SHRINKAGES) - 1
    for step in (-1, 1):
        while 0 <= i + step <= last and at(i + step)[0] < at(i)[0]:
            i += step
    return at(i)


def best_scale(
    moments: "ClassMoments",
    features: torch.Tensor,
    labels: np.ndarray,
    images: np.ndarray,
    shrinkage: float,
) -> tuple[float, float, float, torch.Tensor]:
    """Lowest log loss of some `images` over the scales, with its settings and their logits."""
    weight, bias = moments.solve(shrinkage, torch.float)  # to choose by, half the time will do
    chunks = torch.from_numpy(images).split(CHUNK_IMAGES)
    logits = torch.cat([features[i].flatten(0, 1).double() @ weight.T for i in chunks]) + bias
    target = torch.from_numpy(labels[images]).repeat_interleave(features.shape[1])
    losses = [F.cross_entropy(logits * scale, target).item() for scale in SCALES]
    i = int(np.argmin(losses))
    return losses[i], shrinkage, float(SCALES[i]), (logits * SCALES[i]).float()


class ClassMoments(NamedTuple):
    """Sums from which class means and the covariance within classes follow; they can be added."""

    count: torch.Tensor  # [classes], images times views
    sums: torch.Tensor  # [classes, width]
    products: torch.Tensor  # [width, width], sum of the outer products

    @classmethod
    def of(
        cls, features: torch.Tensor, labels: np.ndarray, classes: int, images: np.ndarray
    ) -> "ClassMoments":
        """Of some `images` of standardised features."""
        views, width = features.shape[1:]
        target = torch.from_numpy(labels)
        count = views * torch.bincount(target[images], minlength=classes).double()
        sums = torch.zeros(classes, width, dtype=torch.double)
        products = summed(features, images, lambda i, each: sums.index_add_(0, target[i], each))
        return cls(count, sums, products)

    def __add__(self, other: "ClassMoments") -> "ClassMoments":
        return ClassMoments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def __sub__(self, other: "ClassMoments") -> "ClassMoments":
        return ClassMoments(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def means(self) -> torch.Tensor:
        """[classes, width]; zeros for a class without images."""
        return self.sums / self.count.clamp(min=1)[:, None]

    def covariance(self) -> torch.Tensor:
        """[width, width], a new one: it is changed in place, as it may be half a gigabyte."""
        within = torch.addmm(self.products, self.sums.T, self.means, alpha=-1)
        return within.div_(max(1, self.count.sum() - len(self.count)))

    def solve(
        self, shrinkage: float, precision: torch.dtype = torch.double
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the discriminant, its covariance shrunk towards a multiple of 1.

        All classes are as likely: the imbalance of a small sample is not worth its variance.
        """
        means = self.means
        weight = solve_shrunk(self.covariance(), shrinkage, means, precision)
        return weight, -0.5 * (weight * means).sum(1)


def summed(
    features: torch.Tensor, images: np.ndarray, add: Callable[[torch.Tensor, torch.Tensor], object]
) -> torch.Tensor:
    """Sum of the outer products [width, width] of some images' features [n, views, width].

    A chunk at a time, as all would be gigabytes: multiplied in single precision, twice as fast, and
    added up in double. `add` is given a chunk's images and, over their views, their sums.
    """
    width = features.shape[2]
    products = torch.zeros(width, width, dtype=torch.double)
    edges = np.linspace(0, width, BANDS + 1, dtype=int)
    bands = [(slice(start, end), slice(end)) for start, end in pairwise(edges)]
    for chunk in torch.from_numpy(images).split(CHUNK_IMAGES):
        add(chunk, features[chunk].sum(1, dtype=torch.double))
        flat = features[chunk].flatten(0, 1)
        for rows, left in bands:  # up to the diagonal: half of all, as the rest is its mirror
            products[rows, left] += flat[:, rows].T @ flat[:, left]
    for rows, _ in bands:
        products[: rows.start, rows] = products[rows, : rows.start].T
    return products


def solve_shrunk(
    covariance: torch.Tensor, shrinkage: float, rows: torch.Tensor, precision: torch.dtype
) -> torch.Tensor:
    """Rows [n, width] times the inverse of a covariance that is shrunk towards a multiple of 1.

    Both are double, and so is the result; `precision` is that of the solution. The covariance is
    changed: it may be half a gigabyte.
    """
    covariance, rows = covariance.to(precision), rows.to(precision)
    spread = covariance.diagonal().mean()
    covariance.mul_(1 - shrinkage)
    covariance.diagonal().add_(shrinkage * spread + 1e-9)
    factor = torch.linalg.cholesky(covariance)
    del covariance
    return torch.cholesky_solve(rows.T, factor).T.double()
