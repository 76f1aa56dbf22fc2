"""A backbone with a new head: building, learning-rate groups, saving and loading."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from timm.optim import param_groups_layer_decay
from torch import nn

from pipeline.base import records
from pipeline.base.cli import UserError, say
from pipeline.base.config import Model, Runtime, Train
from pipeline.model.backbone import as_recorded, build_backbone, layout, read_weights
from pipeline.model.fused import fuse
from pipeline.model.head import Pyramid
from pipeline.model.imagenet_names import imagenet_classes, match_names, name_start, read_mapping


def build_model(settings: Model, classes: list[str], fold: int) -> nn.Module:
    """Backbone with first weights, and a new head: random, or by the names of the classes."""
    drops = {"drop_rate": settings.drop_rate, "drop_path_rate": settings.drop_path_rate}
    model = build_backbone(settings, fold, **drops)
    start = named_head(model, settings, classes) if settings.head == "names" else None
    taps, unread = layout(settings)[1:]
    model = _with_head(model, settings.reads, len(classes), settings.drop_rate, taps, unread)
    if start is not None:
        model.get_classifier().load_state_dict(start)
    return model


def named_head(
    model: nn.Module, settings: Model, classes: list[str]
) -> dict[str, torch.Tensor | None]:
    """State of a head whose rows are those of ImageNet's classes of the same names.

    Raises UserError for weights that are not ImageNet's, and when no name is found.
    """
    if settings.weights == "none" or settings.weights.startswith("run:"):
        raise UserError(f"model.head: names needs ImageNet's weights, not {settings.weights!r}")
    known = imagenet_classes(model)
    mapping = read_mapping(Path(settings.names), classes, known) if settings.names else None
    matches = match_names(classes, known, mapping)
    say("train", matches.coverage())
    old = model.get_classifier()
    if not isinstance(old, nn.Linear):
        raise UserError(f"model.head: names needs one linear layer, not {type(old).__name__}")
    weight, bias = name_start(old.weight.detach(), old.bias.detach(), matches)
    return {"weight": weight, "bias": bias}


def preprocessing(model: nn.Module, settings: Model) -> dict[str, Any]:
    """What inference must repeat: from the backbone's own config, never typed again."""
    config = resolve_model_data_config(body(model))
    return {
        "size": settings.size,
        "fit": settings.fit,
        "interpolation": config["interpolation"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def arranged(model: nn.Module, runtime: Runtime, size: int, device: torch.device) -> nn.Module:
    """The model on its device, as fast as it can be there for pictures of `size` px.

    It has the memory format that `runtime` names and, on a CPU, fused layers (on a GPU the many
    small steps that make their weights would eat the gain); what it computes stays.
    """
    if device.type == "cpu":
        fuse(model, size)
    if not runtime.channels_last:
        model.to(memory_format=torch.contiguous_format)
        model.register_forward_pre_hook(_contiguous)  # pictures arrive channels-last
    return model.to(device)


def _contiguous(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(images.contiguous() for images in given)


def parameter_groups(model: nn.Module, settings: Train) -> list[dict[str, Any]]:
    """Groups with `lr_scale`: layer decay in the backbone, a larger rate for the head.

    No weight decay on norms and biases. Only timm's schedulers apply `lr_scale`. Call it before
    freezing: frozen parameters have no gradient, so the optimizer leaves them and their (still
    empty) state alone until they thaw.
    """
    head = list(classifier(model).parameters())
    in_head = {id(parameter) for parameter in head}
    decay, layer_decay = settings.weight_decay, settings.layer_decay
    backbone = body(model)
    spared = getattr(backbone, "no_weight_decay", set)()  # a ViT's embeddings
    groups = param_groups_layer_decay(backbone, decay, spared, layer_decay=layer_decay)
    split = []
    for group in groups:
        rest = [p for p in group["params"] if id(p) not in in_head]
        if rest:
            split.append({**group, "params": rest, "head": False})
    for matrices in (True, False):
        params = [p for p in head if (p.ndim > 1) is matrices]
        wanted = {"weight_decay": decay if matrices else 0.0, "lr_scale": settings.head_lr_mult}
        if params:
            split.append({"params": params, "head": True, **wanted})
    return split


def save_weights(model: nn.Module, path: Path) -> None:
    with records.writing(path) as tmp:
        save_file({name: v.contiguous().cpu() for name, v in model.state_dict().items()}, tmp)


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained model in eval mode and its record; needs no network and no experiment.

    Raises UserError when there is no finished model at `path`, or not the one of its record.
    """
    record = records.load(path)
    if record is None:
        raise UserError(f"{path}: no finished model; run python -m pipeline.train")
    if records.file_digest(path) != record.get("digest"):
        raise UserError(f"{path}: not the weights that its record describes: a damaged copy?")
    state = read_weights(path)
    with as_recorded(path):
        backbone = timm.create_model(record["model"]["backbone"], **record.get("arguments", {}))
        reads, classes = record["model"]["reads"], len(record["classes"])
        model = _with_head(backbone, reads, classes, taps=record.get("taps"))
        if reads == "blocks":
            cut_to(model, state)
        model.load_state_dict(state)
    return model.eval(), record


def cut_to(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Take away the layers that `state` does not hold: those behind the last that is read.

    How many of them timm takes away itself depends on its version.
    """
    for name in set(model.state_dict()) - set(state):
        parent, _, layer = name.rpartition(".")[0].rpartition(".")
        setattr(model.get_submodule(parent), layer, nn.Identity())


def head_inputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the head is given [batch, width], of a model in eval mode: its backbone's alone."""
    if isinstance(model, Pyramid):
        return model.statistics(images)
    return model.forward_head(model.forward_features(images), pre_logits=True)


def head_logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the head makes of `head_inputs`."""
    if isinstance(model, Pyramid):
        return model.from_statistics(inputs)
    return classifier(model)(inputs)


def _with_head(
    model: nn.Module,
    reads: str,
    classes: int,
    drop_rate: float = 0.0,
    taps: dict[str, int] | None = None,
    unread: Sequence[str] = (),
) -> nn.Module:
    if reads == "blocks":
        model = Pyramid(model, classes, drop_rate, taps, unread)
    else:
        model.reset_classifier(classes)
    return model.to(memory_format=torch.channels_last)


def body(model: nn.Module) -> nn.Module:
    """The timm model itself."""
    return model.backbone if isinstance(model, Pyramid) else model


def classifier(model: nn.Module) -> nn.Module:
    """Its last layer, or layers: a distilled DeiT has two."""
    head = model.get_classifier()
    return nn.ModuleList(head) if isinstance(head, tuple | list) else head
