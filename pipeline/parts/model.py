"""A backbone with a new head: building, freezing, learning-rate groups, saving and loading."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from timm.optim import param_groups_layer_decay
from timm.utils import freeze
from timm.utils.model import unfreeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.parts import records
from pipeline.parts.cli import UserError
from pipeline.parts.config import Model, Train
from pipeline.parts.weights import build_backbone


def build_model(settings: Model, classes: int, fold: int) -> nn.Module:
    """Backbone with first weights, a new random head of `classes` outputs, frozen as asked."""
    drops = {"drop_rate": settings.drop_rate, "drop_path_rate": settings.drop_path_rate}
    model = build_backbone(settings, fold, **drops)
    model.reset_classifier(classes)
    if settings.freeze:
        freeze_until(model, settings.freeze)
    return model.to(memory_format=torch.channels_last)


def preprocessing(model: nn.Module, settings: Model) -> dict[str, Any]:
    """What inference must repeat: from the backbone's own config, never typed again."""
    config = resolve_model_data_config(model)
    return {
        "size": settings.size,
        "fit": settings.fit,
        "interpolation": config["interpolation"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def freeze_until(model: nn.Module, last: str) -> None:
    """Freeze all modules up to and including `last` (or all but the head for "backbone").

    BatchNorm is frozen with its running statistics: `model.train()` does not move them.
    Raises UserError for a module the backbone does not have.
    """
    head = {id(module) for module in _classifier(model).modules()}
    leaves = [name for name, module in model.named_modules() if _is_leaf(module)]
    body = [name for name in leaves if id(model.get_submodule(name)) not in head]
    if last != "backbone":
        inside = [i for i, name in enumerate(body) if f"{name}.".startswith(f"{last}.")]
        if not inside:
            tops = [name for name, _ in model.named_children()]
            raise UserError(f"model.freeze: no module {last!r}; try backbone or one of {tops}")
        body = body[: inside[-1] + 1]
    free = set(leaves) - set(body)
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        # positional embeddings and layer scales hang on modules that are no leaves
        if not owner or not any(leaf.startswith(f"{owner}.") or leaf == owner for leaf in free):
            parameter.requires_grad = False
    freeze(model, body)


def parameter_groups(model: nn.Module, settings: Train) -> list[dict[str, Any]]:
    """Groups with `lr_scale`: layer decay in the backbone, a larger rate for the head.

    No weight decay on norms and biases. Only timm's schedulers apply `lr_scale`.
    """
    head = {id(parameter) for parameter in _classifier(model).parameters()}
    decay = settings.layer_decay
    groups = param_groups_layer_decay(model, settings.weight_decay, layer_decay=decay)
    split = []
    for group in groups:
        for in_head in (False, True):
            parameters = [p for p in group["params"] if (id(p) in head) is in_head]
            scale = group["lr_scale"] * (settings.head_lr_mult if in_head else 1.0)
            if parameters:
                split.append({**group, "params": parameters, "lr_scale": scale})
    return split


def save_weights(model: nn.Module, path: Path) -> None:
    """Plain weights: frozen BatchNorm layers become ordinary ones again."""
    state = unfreeze_batch_norm_2d(model).state_dict()
    with records.writing(path) as tmp:
        save_file({name: value.contiguous().cpu() for name, value in state.items()}, tmp)


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained model in eval mode and its record; needs no network and no experiment.

    Raises UserError when there is no finished model at `path`, or not the one of its record.
    """
    record = records.load(path)
    if record is None:
        raise UserError(f"{path}: no finished model; run python -m pipeline.train")
    if records.file_digest(path) != record["digest"]:
        raise UserError(f"{path}: not the weights that its record describes: a damaged copy?")
    model = timm.create_model(record["model"]["backbone"], num_classes=len(record["classes"]))
    model.load_state_dict(load_file(path))
    return model.eval().to(memory_format=torch.channels_last), record


def _classifier(model: nn.Module) -> nn.Module:
    head = model.get_classifier()
    return nn.ModuleList(head) if isinstance(head, tuple | list) else head


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or not any(True for _ in module.children())
