"""A backbone with a new head: building, saving and loading."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from timm.layers import DropPath
from torch import nn

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Model, Runtime
from pipeline.base.plugins import read_plugins
from pipeline.base.runs import own_file
from pipeline.base.settings import Size
from pipeline.model.backbone import as_recorded, build_backbone, drops, layout, read_weights
from pipeline.model.depthwise import spare_compiler
from pipeline.model.fused import fuse
from pipeline.model.head import BlockHead, OwnHead, fit_end
from pipeline.model.taps import FOREIGN, classifier, final_features


def build_model(
    settings: Model, classes: int, fold: int, own: Callable[..., nn.Module] | None = None
) -> nn.Module:
    """Backbone with first weights, and a new random head for so many `classes`, or the `own` one
    of the user."""
    model, found = build_backbone(settings, fold, **drops(settings)), layout(settings)
    if settings.features == "blocks":
        model = BlockHead(model, classes, settings.drop_rate, found.taps, found.unread)
    elif own:
        model = OwnHead(model, own, classes, found.unread)
    else:
        model.reset_classifier(classes)
    for module in () if settings.drop_path_rate else model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0  # a Swin has a rate of its own; not all nets know the argument
    return model.to(memory_format=torch.channels_last)


def recompute(model: nn.Module) -> None:
    """Blocks are computed again in the backward pass, which then keeps their inputs alone."""
    try:
        body(model).set_grad_checkpointing(True)
    except FOREIGN:
        kind = type(body(model)).__name__
        raise UserError(f"train.grad_checkpointing: a {kind} has none; set it to false") from None


def preprocessing(model: nn.Module, settings: Model) -> dict[str, Any]:
    """What inference must repeat: from the backbone's own config, never typed again."""
    config = resolve_model_data_config(body(model))
    return {
        "size": settings.size,
        "fit": settings.resize,
        "interpolation": config["interpolation"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def to_device(
    model: nn.Module,
    runtime: Runtime,
    size: Size,
    device: torch.device,
    training: bool = False,
    agreed: Callable[[bool], bool] = bool,
) -> nn.Module:
    """The model on its device, as fast as it can be there for pictures of `size` px.

    It has the memory format that `runtime` names and fused layers on a CPU, or where it trains:
    PyTorch's gradient of a BatchNorm with fixed statistics is slow on a GPU (resnet50 at 224 px on
    an H200: 5,139 images/s without it, 3,320 with it), its forward pass is not. What it computes
    stays.
    """
    if device.type == "cpu" or (training and not runtime.compile):
        fuse(model, size)
    if device.type == "cpu":
        spare_strided(model)
    if device.type == "cuda" and not runtime.compile:
        spare_compiler(model, device, agreed)
    if not runtime.channels_last:
        model.to(memory_format=torch.contiguous_format)
        model.register_forward_pre_hook(_contiguous)  # pictures arrive channels-last
    return model.to(device)


def spare_strided(model: nn.Module) -> None:
    """Keep convolutions of 1 x 1 px, a stride and few channels from channels-last pictures.

    PyTorch 2.14's backward of theirs on a CPU writes beyond its memory from 96 px on: MobileOne and
    FastViT, whose stems hold one, crashed.
    """
    for conv in model.modules():
        small = isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.in_channels < 16
        if small and conv.stride != (1, 1):
            conv.to(memory_format=torch.contiguous_format)
            conv.register_forward_pre_hook(_contiguous)


def _contiguous(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(images.contiguous() for images in given)


def save_weights(model: nn.Module, path: Path) -> None:
    with records.writing(path) as tmp:
        save_file(apart(model.state_dict()), tmp)


def apart(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU as a safetensors file wants them: no two in the same memory, as those
    of the modules that a CoaT shares are."""
    seen, tensors = set(), {}
    for name, value in state.items():
        tensor = value.contiguous().cpu()
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return tensors


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained model in eval mode and its record; needs no network and no experiment.

    Raises UserError when there is no finished model at `path`, or not the one of its record.
    """
    record = records.load(path)
    if record is None:
        raise UserError(f"{path}: no finished model; run python -m pipeline.train")
    state = read_weights(path, record)
    with as_recorded(path):
        model = timm.create_model(record["model"]["backbone"], **record.get("arguments", {}))
        if record["model"]["reads"] == "blocks":
            model = BlockHead(model, len(record["classes"]), taps=record.get("taps"))
            fit_end(model.backbone, state, "backbone.", model.taps)
        elif own := own_head(path, record):
            model = OwnHead(model, own, len(record["classes"]))
        else:
            model.reset_classifier(len(record["classes"]))
        model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last).eval(), record


def own_head(path: Path, record: dict[str, Any]) -> Callable[..., nn.Module] | None:
    """The user's head of a trained model, from the file that lies beside it; None: it is linear.

    Raises UserError unless that is the file of the record: no other is run.
    """
    if (name := record["model"].get("classifier", "linear")) == "linear":
        return None
    file = own_file(path)
    if not (file.is_file() and records.file_digest(file) == record["plugins"]):
        raise UserError(f"{file}: not the plugins that the record of the model describes")
    return read_plugins(file)["head"][name]


def head_inputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the head is given [batch, width], of a model in eval mode: its backbone's alone."""
    if isinstance(model, BlockHead):
        return model.statistics(images)
    return final_features(model, images)


def head_logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the head makes of `head_inputs`."""
    if isinstance(model, BlockHead):
        return model.from_statistics(inputs)
    return classifier(model)(inputs)


def body(model: nn.Module) -> nn.Module:
    """The timm model itself."""
    return model.backbone if isinstance(model, BlockHead | OwnHead) else model
