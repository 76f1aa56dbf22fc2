"""The head's first weights: closed form, from one forward pass and without any training.

Fine-tuning from a random head first tears at the backbone to make up for the head (Kumar et al.,
ICLR 2022). A linear discriminant on the frozen backbone's features is a good head already.
"""

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pipeline.base.cli import UserError
from pipeline.base.config import Experiment
from pipeline.base.forms import as_array
from pipeline.inference.answers import SHARES
from pipeline.inference.features import MAX_IMAGES, FrozenFeatures, moves_batchnorm
from pipeline.inference.reliability import reliability
from pipeline.inference.tta import VIEWS, View, allowed, dihedral
from pipeline.model.freeze import training_norms
from pipeline.model.head import BlockHead
from pipeline.model.kernel import KernelRidge
from pipeline.model.taps import classifier
from pipeline.training import distributed
from pipeline.training.calibrate import as_rows
from pipeline.training.discriminant import Fitted, LinearHead, lda
from pipeline.training.kernel_ridge import MOST, Projection, choose, project, solve
from pipeline.training.log import make_row, tell
from pipeline.training.ridge import ridge

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

AUGMENTED: dict[str, list[View]] = {
    "SquareSymmetry": VIEWS["diagonals"][1:],
    "D4": VIEWS["diagonals"][1:],
    "HorizontalFlip": [partial(dihedral, turns=0, flip=True)],
    "VerticalFlip": [partial(dihedral, turns=2, flip=True)],
}


def start_head(trainer: "Trainer") -> None:
    """The head's first weights from one forward pass, scored in a log row of epoch 0."""
    started, how, model = time.monotonic(), trainer.settings, trainer.bare_model
    if moves_batchnorm(how):
        settle_batchnorm(trainer)

    def work() -> Fitted | None:
        features = FrozenFeatures(trainer.predictor(model), how)
        return init_head(features, trainer.rows, trainer.labels, trainer.seed)

    trainer.fitted = distributed.run_on_main(work, model, trainer.accelerator)
    follow(trainer, model)
    prob = trainer.validate(f"fold {trainer.fold}  head valid", untrained=True)
    trainer.log.append(make_row(trainer, prob, started))
    tell(trainer, in_words(trainer.fitted, how.train.epochs) + calibration(prob, trainer))
    if trainer.fitted and how.model.head_init == "random":  # it was fitted to be refitted
        torch.manual_seed(trainer.seed)
        classifier(model).reset_parameters()
        follow(trainer, model)


def settle_batchnorm(trainer: "Trainer") -> None:
    """Give BatchNorm that will train the mean statistics of an epoch, in the parts of its steps.

    A model in training sees by these, not by ImageNet's: a head that is fitted before, to other
    features than it will be trained on, loses in the first epoch what it knew.
    """
    trainer.set_mode()
    model, parts, ranks = trainer.bare_model, trainer.parts, trainer.accelerator.num_processes
    norms = training_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches alike

    @torch.no_grad()
    def see(images: torch.Tensor, least: int) -> None:  # of all ranks
        for part in images.tensor_split(parts.of(least)):
            model(part)

    for (pixels, _), size in zip(trainer.loader, trainer.batches.sizes, strict=True):
        work = partial(see, trainer.normalise(pixels), size // ranks)
        parts.until_it_fits(work, len(pixels), trainer.label())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def follow(trainer: "Trainer", model: nn.Module) -> None:
    """Let the average of the weights begin with those of `model`."""
    if trainer.ema:
        trainer.ema.module.load_state_dict(model.state_dict())


def init_head(
    features: FrozenFeatures, rows: np.ndarray, labels: np.ndarray, seed: int
) -> Fitted | None:
    """Give a head its first weights from training images, or standardise its inputs alone.

    `rows` [n] are those of the packed pixels, `labels` int [n] their classes. Returns what the
    closed form chose.
    """
    model, how = features.model, features.settings
    head = linear_head(model)  # before the minutes that features may take
    rows, labels = chosen_images(features, rows, labels, seed)
    # leaves-small, fold 0, D4 TTA: one view gives .798, two .844, four .849; random crops .813
    values = features.of("train", rows, start_views(how))
    kernel = takes_kernel(how, len(labels))
    closed_form = how.model.head_init == "lda" or how.train.refit or kernel
    found = fit_head(model, values, labels, "lda" if closed_form else "random")
    if not kernel:
        return found and Fitted(found.shrinkage, found.scale)
    near = project(values, model.mean, model.scale * head.in_features**0.5, seed)
    fitted = choose(near.points, labels, found)
    if fitted.share < 1 and not how.train.epochs:
        add_kernel(model, near, labels, fitted)
    return fitted


def takes_kernel(how: Experiment, images: int) -> bool:
    """Whether the head is one of blocks, and of not too many training pictures."""
    return how.model.kernel and how.model.features == "blocks" and images <= MOST


def add_kernel(model: BlockHead, near: Projection, labels: np.ndarray, how: Fitted) -> None:
    """Let the logits be a share of the linear head's, the rest of kernel ridge regression."""
    head, rest = model.head, 1 - how.share
    offset = torch.as_tensor(how.offset).to(head.bias.device)
    write_linear(head, head.weight * how.share, head.bias * how.share + rest * offset)
    weight = solve(near.points, as_rows(labels, head.out_features).float()) * (rest * how.slope)
    kernel = KernelRidge(near.basis, near.shift, near.points.flatten(0, 1), weight.float())
    model.kernel = kernel.to(model.mean.device)


def chosen_images(
    features: FrozenFeatures, rows: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of the images that a head is fitted to: without pseudo-labels, at most."""
    known = (features.prepared.rows.split == "train").to_numpy()
    labelled = np.append(known, False)[np.minimum(rows, len(known))]  # those beyond are external
    rows, labels = rows[labelled], labels[labelled]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:MAX_IMAGES]
    return rows[chosen], labels[chosen]


def in_words(found: Fitted | None, epochs: int) -> str:
    if found is None:
        return "standardised"
    kernel = ""
    if found.share < 1:
        share = (found.beside_trained() if epochs else found).share
        kernel = f", {1 - share:.0%} kernel" + " at the end" * bool(epochs)
    return f"closed form, shrinkage {found.shrinkage:g}, scale {found.scale:.2g}{kernel}"


def calibration(prob: np.ndarray, trainer: "Trainer") -> str:
    """The expected calibration error of held-out probabilities of one class each."""
    target = as_array(trainer.valid.target)
    if not len(prob) or target.ndim > 1 or trainer.answer.kind != SHARES.kind:
        return ""
    return f", ECE {reliability(prob.max(1), prob.argmax(1) == target).ece:.3f}"


def fits_features(settings: Experiment) -> bool:
    """Whether a head's start looks at the training images."""
    how = settings.model
    return how.features == "blocks" or how.head_init == "lda" or settings.train.refit


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


def linear_head(model: nn.Module) -> nn.Linear:
    head = model.get_classifier()
    if not isinstance(head, nn.Linear):  # a distilled DeiT has two, a CAFormer's is deeper
        raise UserError(
            f"model.head_init: no closed form for {type(head).__name__}; set head_init: random "
            "and train.refit: false"
        )
    return head


def start_views(settings: Experiment) -> list[View]:
    """Of each picture: as it is, and what the first such transform of the augmentation makes."""
    names = {name for transform in settings.augment for name in transform}
    found = next((AUGMENTED[name] for name in AUGMENTED if name in names), [])
    return [*VIEWS["none"], *allowed(found, settings.model.size)]
