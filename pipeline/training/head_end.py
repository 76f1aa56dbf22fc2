"""A head's last weights: the trained ones, averaged with a closed form on the trained backbone."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pipeline.base.cli import say
from pipeline.base.config import Experiment
from pipeline.base.settings import scaled, size_name
from pipeline.inference.features import MAX_IMAGES, FrozenFeatures
from pipeline.inference.tta import VIEWS
from pipeline.model.head import BlockHead
from pipeline.training import distributed
from pipeline.training.compiled import uncompile
from pipeline.training.discriminant import CHUNK_IMAGES, Fitted
from pipeline.training.head_init import (
    add_kernel,
    chosen_images,
    fit_head,
    linear_head,
    standardise,
    start_views,
    takes_kernel,
    write_linear,
)
from pipeline.training.kernel_ridge import judged, project, seconds_of_kernel

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def refits_head(how: Experiment, images: int, fitted: Fitted | None = None) -> bool:
    """Whether training on so many images ends with a closed form; before its start has `fitted`
    the head, whether it may."""
    return how.train.refit or (fitted.share < 1 if fitted else takes_kernel(how, images))


def seconds_of_end(trainer: "Trainer", epoch: float, validation: float) -> float:
    """What the last epoch will take longer than one of `epoch` seconds, `validation` included.

    The closed form's passes over the training pictures are rank 0's alone, and they and the last
    validation see pictures of `test_scale` times the size. Where none is held out, a pass takes a
    third of what training on it does.
    """
    how, n = trainer.settings, len(trainer.rows)
    if not refits_head(how, n, trainer.fitted):
        return 0.0
    held = len(trainer.valid)
    each = (validation / held if held else epoch / 3 / n) * trainer.accelerator.num_processes
    images, views, pixels = min(n, MAX_IMAGES), len(start_views(how)), how.model.test_scale**2
    passes = pixels * images * views * each + (pixels - 1) * validation
    if trainer.fitted and trainer.fitted.share < 1:
        # judged on four fifths, for half the time, and made
        passes += 1.5 * seconds_of_kernel(images, views, len(trainer.classes))
    return passes


def end_head(trainer: "Trainer") -> None:
    """Average the trained head with a closed form on the trained backbone, where one is asked."""
    if not refits_head(trainer.settings, len(trainer.rows), trainer.fitted):
        return
    model, how = trainer.final_model(), trainer.settings
    trained = trainer.predictor(model)
    size = scaled(how.model.size, how.model.test_scale)
    if size != how.model.size and not trained.refuses(size):
        trainer.preprocessing = {**trained.preprocessing, "size": size}
        uncompile(model)  # which was for pictures of training's size
    before, now = (FrozenFeatures(p, how) for p in (trained, trainer.predictor(model)))
    say("train", f"{trainer.label()}  fits the head to pictures of {size_name(now.size)} px")
    known = trainer.rows, trainer.labels, trainer.seed, trainer.fitted
    distributed.run_on_main(partial(refit_head, before, now, *known), model, trainer.accelerator)


def move_head(model: nn.Module, before: torch.Tensor, now: torch.Tensor) -> None:
    """Let a head find in pictures of another size what it learned, by their features [n, width].

    Each is brought to the mean and deviation that it had at the size of training. The statistics of
    a net's maps move with the size of what it sees (Touvron et al., NeurIPS 2019).
    """
    (was, centre), (is_now, mean) = (torch.std_mean(x.double(), 0) for x in (before, now))
    dead = was < 1e-3 * was.mean()
    ratio = torch.where(dead, 1, was / is_now.clamp(min=1e-3 * is_now.mean()))
    weight, bias = raw_inputs_head(model)
    moved = weight * ratio.to(weight.device)
    write_raw(model, moved, bias + weight @ centre.to(bias) - moved @ mean.to(bias))


def refit_head(
    before: FrozenFeatures,
    now: FrozenFeatures,
    rows: np.ndarray,
    labels: np.ndarray,
    seed: int,
    like: Fitted,
) -> None:
    """Average a trained head with the closed form on the backbone that was trained with it.

    The head was trained on features as they were `before`, and will be given those of `now`.
    The backbone knows the labels of these images by now: shrinkage and scale that they would
    choose today are far too sure, so they are those of the start. Linear heads' mean is a linear
    one; a kernel, where the start took one, is the better closed form, and the mean of both. How
    sure that is they may say again: it came out too shy rather than too sure (docs/recipe.md).
    """
    model = now.model
    rows, labels = chosen_images(now, rows, labels, seed)
    values = now.compute(rows, start_views(now.settings))
    if now.size != before.size:
        some = rows[:CHUNK_IMAGES]  # in random order
        move_head(model, before.compute(some, VIEWS["none"])[:, 0], values[: len(some), 0])
    if like.share < 1:
        near = project(values, *standardise(values), seed)
        line = judged(near.points, labels, linear_head(model).out_features).line
        add_kernel(model, near, labels, like.beside_trained(line))
        return
    trained = raw_inputs_head(model)
    fit_head(model, values, labels, "lda", like)
    fitted = raw_inputs_head(model)
    mean = [(one + other) / 2 for one, other in zip(trained, fitted, strict=True)]
    write_raw(model, *mean)


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
