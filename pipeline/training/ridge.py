"""The closed form of heads that answer labels or numbers: ridge regression, a row for each.

It stands on the same sums as the discriminant; the products of the features are shared.
"""

from typing import NamedTuple

import numpy as np
import torch

from pipeline.training.calibrate import Calibrated, as_rows, calibrate, slope_of
from pipeline.training.discriminant import (
    CHUNK_IMAGES,
    ClassMoments,
    Fitted,
    LinearHead,
    downhill,
    held_out,
    solve_shrunk,
    summed,
)


class Settled(NamedTuple):
    loss: float
    shrinkage: float
    line: Calibrated
    logits: torch.Tensor  # of the images that judged it, of all their views


def ridge(
    features: torch.Tensor, labels: np.ndarray, classes: int, like: Fitted | None = None
) -> LinearHead:
    """Of standardised features [n, views, width] and rows [n, classes], bool or standardised.

    Shrinkage and scale are those that are given, or of the lowest loss on held-out fifths: of bool
    rows the log loss of logits, of numbers the squared error.
    """
    rows = np.column_stack([labels.astype(float), np.ones(len(labels))])  # counts what there is
    kept, rest = held_out(labels)
    moments, found = row_moments(features, rows, kept), None
    if len(rest) and not like:
        found = downhill(lambda shrinkage: settled(moments, features, labels, rest, shrinkage))
    moments += row_moments(features, rows, rest)  # may be half a gigabyte
    if not found:  # then all judge where their chances lie, and no more
        found = settled(moments, features, labels, np.append(kept, rest), *(like or (0.1, 1.0))[:2])
    weight, bias, mean = solve(moments, found.shrinkage)
    slope = slope_of(labels.dtype.kind, found.line.scale, mean)
    offset = found.line.offset if labels.dtype == bool else mean
    weight, bias = weight * slope.reshape(-1, 1), (bias - mean) * slope + offset
    held = None if like else found.logits
    return LinearHead(weight.float(), bias.float(), found.shrinkage, found.line.scale, held)


def settled(
    moments: ClassMoments,
    features: torch.Tensor,
    labels: np.ndarray,
    images: np.ndarray,
    shrinkage: float,
    scale: float | None = None,
) -> Settled:
    """Lowest loss of some `images` over the scales, or that of one that is given."""
    weight, bias, mean = solve(moments, shrinkage, torch.float)
    chunks = torch.from_numpy(images).split(CHUNK_IMAGES)
    found = torch.cat([features[i].flatten(0, 1).double() @ weight.T for i in chunks]) + bias - mean
    target = as_rows(labels[images], len(mean)).repeat_interleave(features.shape[1], 0)
    line = calibrate(labels.dtype.kind, found, target, mean, scale)
    return Settled(line.loss, shrinkage, line, line.logits(found).float())


def row_moments(features: torch.Tensor, rows: np.ndarray, images: np.ndarray) -> ClassMoments:
    """As `ClassMoments.of`; each image counts for every column of its row by the number there."""
    views, width = features.shape[1:]
    each = torch.from_numpy(rows)
    sums = torch.zeros(rows.shape[1], width, dtype=torch.double)
    products = summed(features, images, lambda i, total: sums.add_(each[i].T @ total))
    return ClassMoments(views * each[images].sum(0), sums, products)


def solve(
    moments: ClassMoments, shrinkage: float, precision: torch.dtype = torch.double
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight [classes, width] and bias of the regression, and the rows' mean [classes]."""
    n, total = moments.count[-1], moments.sums[-1]
    centre, mean = total / n, moments.count[:-1] / n
    covariance = torch.addr(moments.products, total, centre, alpha=-1).div_(n)
    with_rows = moments.sums[:-1] / n - torch.outer(mean, centre)
    weight = solve_shrunk(covariance, shrinkage, with_rows, precision)
    return weight, mean - weight @ centre, mean
