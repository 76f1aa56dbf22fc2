"""A head's last weights: the trained ones, averaged with a closed form on the trained backbone."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pipeline.inference.features import FrozenFeatures
from pipeline.model.head import BlockHead
from pipeline.training import distributed
from pipeline.training.discriminant import Fitted
from pipeline.training.head_init import (
    add_kernel,
    chosen_images,
    fit_head,
    linear_head,
    standardise,
    start_views,
    write_linear,
)
from pipeline.training.kernel_ridge import project

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def end_head(trainer: "Trainer") -> None:
    """Average the trained head with a closed form on the trained backbone, where one is asked."""
    if not (trainer.settings.train.refit or (trainer.fitted and trainer.fitted.share < 1)):
        return
    model = trainer.final_model()

    def work() -> None:
        features = FrozenFeatures(trainer.predictor(model), trainer.settings)
        refit_head(features, trainer.rows, trainer.labels, trainer.seed, trainer.fitted)

    distributed.run_on_main(work, model, trainer.accelerator)


def refit_head(
    features: FrozenFeatures, rows: np.ndarray, labels: np.ndarray, seed: int, like: Fitted
) -> None:
    """Average a trained head with the closed form on the backbone that was trained with it.

    The backbone knows the labels of these images by now: shrinkage and scale that they would
    choose today are far too sure, so they are those of the start. Linear heads' mean is a linear
    one; a kernel, where the start took one, is the better closed form, and the mean of both.
    """
    model = features.model
    rows, labels = chosen_images(features, rows, labels, seed)
    values = torch.stack(features.compute(rows, start_views(features.settings)), 1)
    if like.share < 1:
        near = project(values, *standardise(values), seed)
        add_kernel(model, near, labels, like.beside_trained())
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
