"""The head's first weights: closed form, from one forward pass and without any training.

Fine-tuning from a random head first tears at the backbone to make up for the head (Kumar et al.,
ICLR 2022). A linear discriminant on the frozen backbone's features is a good head already.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.base.cli import UserError
from pipeline.base.config import Experiment
from pipeline.inference.features import MAX_IMAGES, FrozenFeatures
from pipeline.inference.tta import VIEWS, View, dihedral
from pipeline.model.head import BlockHead

AUGMENTED: dict[str, list[View]] = {
    "SquareSymmetry": VIEWS["diagonals"][1:],
    "D4": VIEWS["diagonals"][1:],
    "HorizontalFlip": [partial(dihedral, turns=0, flip=True)],
    "VerticalFlip": [partial(dihedral, turns=2, flip=True)],
}
SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SCALES = np.geomspace(0.005, 2.0, 60)
CHUNK_IMAGES = 1024
HELD_OUT = 5  # every fifth image of a class judges shrinkage and scale


class LinearHead(NamedTuple):
    weight: torch.Tensor  # [classes, width], for standardised features
    bias: torch.Tensor  # [classes]
    shrinkage: float
    scale: float


class Fitted(NamedTuple):
    """What the closed form chose on held-out training pictures."""

    shrinkage: float
    scale: float


def init_head(
    features: FrozenFeatures, rows: np.ndarray, labels: np.ndarray, seed: int, closed_form: bool
) -> Fitted | None:
    """Give a head its first weights from training images, or standardise its inputs alone.

    `rows` [n] are those of the packed pixels, `labels` int [n] their classes. Returns what the
    closed form chose.
    """
    linear_head(features.model)  # before the minutes that features may take
    rows, labels = chosen_images(features, rows, labels, seed)
    # leaves-small, fold 0, D4 TTA: one view gives .798, two .844, four .849; random crops .813
    values = features.of("train", rows, start_views(features.settings))
    found = fit_head(features.model, values, labels, "lda" if closed_form else "random")
    return found and Fitted(found.shrinkage, found.scale)


def refit_head(
    features: FrozenFeatures, rows: np.ndarray, labels: np.ndarray, seed: int, like: Fitted
) -> None:
    """Average a trained head with the closed form on the backbone that was trained with it.

    The backbone knows the labels of these images by now: shrinkage and scale that they would
    choose today are far too sure, so they are those of the start. The mean of the two heads'
    logits is that of one linear layer.
    """
    model = features.model
    rows, labels = chosen_images(features, rows, labels, seed)
    values = torch.stack(features.compute(rows, start_views(features.settings)), 1)
    trained = raw_inputs_head(model)
    fit_head(model, values, labels, "lda", like)
    fitted = raw_inputs_head(model)
    mean = [(one + other) / 2 for one, other in zip(trained, fitted, strict=True)]
    write_raw(model, *mean)


def chosen_images(
    features: FrozenFeatures, rows: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of the images that a head is fitted to: without pseudo-labels, at most."""
    labelled = (features.prepared.rows.split == "train").to_numpy()[rows]
    rows, labels = rows[labelled], labels[labelled]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:MAX_IMAGES]
    return rows[chosen], labels[chosen]


def start_views(settings: Experiment) -> list[View]:
    return [*VIEWS["none"], *augmented_views(settings)]


def in_words(found: Fitted | None) -> str:
    if found is None:
        return "standardised"
    return f"closed form, shrinkage {found.shrinkage:g}, scale {found.scale:.2g}"


def fits_features(settings: Experiment) -> bool:
    """Whether a head's start looks at the training images."""
    how = settings.model
    return how.features == "blocks" or how.head_init == "lda" or settings.train.refit


def lda(
    features: torch.Tensor, labels: np.ndarray, classes: int, like: Fitted | None = None
) -> LinearHead:
    """Linear discriminant analysis of standardised features [n, views, width], labels [n].

    Shrinkage of the covariance and scale of the logits (one over the temperature) are those of
    the lowest log loss on held-out fifths of the training images, plain LDA being far too sure,
    or those that are given.
    """
    if like:
        every = ClassMoments.of(features, labels, classes, np.arange(len(labels)))
        return scaled(*every.solve(like.shrinkage), like)
    rank = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    held = rank % HELD_OUT == 1  # the first image of a class always stays
    kept, rest = np.flatnonzero(~held), np.flatnonzero(held)
    moments, best = ClassMoments.of(features, labels, classes, kept), (np.inf, 0.1, 1.0)
    if len(rest):
        best = min(best_scale(moments, features, labels, rest, s) for s in SHRINKAGES)
    moments += ClassMoments.of(features, labels, classes, rest)  # each may be half a gigabyte
    chosen = Fitted(*best[1:])
    return scaled(*moments.solve(chosen.shrinkage), chosen)


def scaled(weight: torch.Tensor, bias: torch.Tensor, how: Fitted) -> LinearHead:
    return LinearHead((weight * how.scale).float(), (bias * how.scale).float(), *how)


def best_scale(
    moments: "ClassMoments",
    features: torch.Tensor,
    labels: np.ndarray,
    images: np.ndarray,
    shrinkage: float,
) -> tuple[float, float, float]:
    """Lowest log loss of some `images` over the scales, with its settings."""
    weight, bias = moments.solve(shrinkage)
    chunks = torch.from_numpy(images).split(CHUNK_IMAGES)
    logits = torch.cat([features[i].flatten(0, 1).double() @ weight.T for i in chunks]) + bias
    target = torch.from_numpy(labels[images]).repeat_interleave(features.shape[1])
    losses = [F.cross_entropy(logits * scale, target).item() for scale in SCALES]
    i = int(np.argmin(losses))
    return losses[i], shrinkage, float(SCALES[i])


class ClassMoments(NamedTuple):
    """Sums from which class means and the covariance within classes follow; they can be added."""

    count: torch.Tensor  # [classes], images times views
    sums: torch.Tensor  # [classes, width]
    products: torch.Tensor  # [width, width], sum of the outer products

    @classmethod
    def of(
        cls, features: torch.Tensor, labels: np.ndarray, classes: int, images: np.ndarray
    ) -> "ClassMoments":
        """Of some `images` of standardised features, a chunk at a time: all would be gigabytes.

        A chunk is multiplied in single precision, twice as fast, and added up in double.
        """
        views, width = features.shape[1:]
        target = torch.from_numpy(labels)
        count = views * torch.bincount(target[images], minlength=classes).double()
        sums = torch.zeros(classes, width, dtype=torch.double)
        products = torch.zeros(width, width, dtype=torch.double)
        for chunk in torch.from_numpy(images).split(CHUNK_IMAGES):
            sums.index_add_(0, target[chunk], features[chunk].sum(1, dtype=torch.double))
            flat = features[chunk].flatten(0, 1)
            products += flat.T @ flat
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

    def solve(self, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the discriminant, its covariance shrunk towards a multiple of 1.

        All classes are as likely: the imbalance of a small sample is not worth its variance.
        """
        means, shrunk = self.means, self.covariance()
        spread = shrunk.diagonal().mean()
        shrunk.mul_(1 - shrinkage)
        shrunk.diagonal().add_(shrinkage * spread + 1e-9)
        factor = torch.linalg.cholesky(shrunk)
        del shrunk
        weight = torch.cholesky_solve(means.T, factor).T
        return weight, -0.5 * (weight * means).sum(1)


def fit_head(
    model: nn.Module,
    features: torch.Tensor,
    labels: np.ndarray,
    start: str,
    like: Fitted | None = None,
) -> LinearHead | None:
    """Standardise a BlockHead's inputs and, for start "lda", write the closed form into the head.

    `features` [n, views, width] are the head's inputs, `labels` [n] or rows [n, classes] those of
    its images; they are standardised in place. Returns the closed form. Raises UserError for a head
    that is not one linear layer.
    """
    head = linear_head(model)
    mean, scale = standardise(features)
    found = None
    if start == "lda":
        from pipeline.training.ridge import ridge  # late: it stands on the sums that are here

        closed_form = lda if labels.ndim == 1 else ridge
        found = closed_form(features, labels, head.out_features, like)
    if isinstance(model, BlockHead):
        # vectors of length 1 on average: a step of Adam, which moves all weights alike, does not
        # turn the logits over because there are thousands of them
        length = head.in_features**0.5
        model.mean.copy_(mean)
        model.scale.copy_(scale / length)
        mean, scale = torch.zeros_like(mean), torch.full_like(scale, length)
    if found:
        write_linear(head, found.weight * scale, found.bias - found.weight @ (mean * scale))
    return found


def standardise(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In place, as they may fill gigabytes; returns the mean and the factor [width] of each."""
    deviation, mean = torch.std_mean(features.flatten(0, 1), 0)
    if not (deviation.isfinite().all() and deviation.any()):
        raise UserError(
            "model.head_init: no closed form of features that are all one, or not finite"
        )
    scale = 1 / deviation.clamp(min=0.1 * deviation.mean())  # a dead channel must stay dead
    features.sub_(mean).mul_(scale)
    return mean, scale


@torch.no_grad()
def write_linear(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)


def raw_inputs_head(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [classes, width] and bias of a head, for inputs that are not standardised."""
    head = linear_head(model)
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    if isinstance(model, BlockHead):
        weight = weight * model.scale
        bias = bias - weight @ model.mean.double()
    return weight, bias


def write_raw(model: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """The reverse of `raw_inputs_head`."""
    if isinstance(model, BlockHead):
        bias = bias + weight @ model.mean.double()
        weight = weight / model.scale
    write_linear(linear_head(model), weight, bias)


def linear_head(model: nn.Module) -> nn.Linear:
    head = model.get_classifier()
    if not isinstance(head, nn.Linear):  # a distilled DeiT has two, a CAFormer's is deeper
        raise UserError(
            f"model.head_init: no closed form for {type(head).__name__}; set head_init: random "
            "and train.refit: false"
        )
    return head


def augmented_views(settings: Experiment) -> list[View]:
    """Views that the augmentation turns pictures into: those of the first such transform."""
    names = {name for transform in settings.augment for name in transform}
    return next((AUGMENTED[name] for name in AUGMENTED if name in names), [])
