"""The settings that suit a budget, over which an experiment lays its own: configs/recipes/.

They depend on the backbone, as its own size does. What timm says of one is kept: to import it takes
longer than all that an up-to-date stage does.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.base import records
from pipeline.base.cli import UserError, did_you_mean, shown
from pipeline.base.settings import root
from pipeline.base.yaml_files import find_yaml, laid_over, read_based

LONG = 10  # epochs from which on there is time to learn more than a fitted head knows
Answer = TypeVar("Answer", bool, int)


def over_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """An experiment's values over those of the recipe that it names, or of that for its epochs.

    Raises UserError for a recipe that there is not.
    """
    recipe = str(values.get("recipe") or recipe_for(values.get("train")))
    if recipe == "long" and not is_batchnorm_net(values.get("model")):
        recipe = "long-layernorm"
    below = read_based(find_recipe(recipe), find_recipe)
    below.pop("base", None)
    if "depthwise" in below.get("model", {}) and not is_pretrained_cnn(values.get("model")):
        del below["model"]["depthwise"]
    return {**laid_over(below, values), "recipe": recipe}


def find_recipe(name: str) -> Path:
    return find_yaml(name, "recipes")


def recipe_for(train: Any) -> str:
    """The recipe for the epochs of a `train:` section; what they may not be is told later."""
    try:  # as the setting is read: "20" and 20.0 are 20
        epochs = TypeAdapter(int).validate_python(train["epochs"])
    except (KeyError, TypeError, ValidationError):
        return "short"
    return "long" if epochs >= LONG else "short" if epochs else "instant"


def is_batchnorm_net(model: Any) -> bool:
    """Whether the backbone of a `model:` section is; so is the default, and one that timm lacks."""
    backbone = model.get("backbone") if isinstance(model, dict) else None
    return not isinstance(backbone, str) or has_batchnorm(backbone)


def is_pretrained_cnn(model: Any) -> bool:
    """Whether depthwise kernels may stay as they came; ConvNeXt's are what sees shapes there."""
    weights = model.get("weights") if isinstance(model, dict) else None
    return weights != "none" and is_batchnorm_net(model)


def kept(ask: Callable[[str], Answer]) -> Callable[[str], Answer]:
    """A question to timm about a backbone, whose answer is kept in runs/_tune/."""

    @cache
    @wraps(ask)
    def answer(backbone: str) -> Answer:
        path = root("runs") / "_tune" / f"timm-{version('timm')}.json"
        known, question = records.read_json(path) if path.is_file() else {}, ask.__name__
        answers = known.get(question, {})
        if backbone not in answers:
            answers = {**answers, backbone: ask(backbone)}
            with suppress(OSError):  # another's folder, or a full disk: it is asked again then
                records.write_json(path, {**known, question: answers})
        return answers[backbone]

    return answer


@kept
def has_batchnorm(backbone: str) -> bool:
    """And no LayerNorm."""
    import timm
    import torch

    if not timm.is_model(backbone):
        return True  # that there is none is told elsewhere, and so is a tag behind the name
    name = backbone.partition(".")[0]
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        kinds = {type(layer) for layer in timm.create_model(name).modules()}
    norms = [kind for kind in kinds if issubclass(kind, torch.nn.LayerNorm | torch.nn.BatchNorm2d)]
    return bool(norms) and not any(issubclass(kind, torch.nn.LayerNorm) for kind in norms)


@kept
def own_size(backbone: str) -> int:
    """Side of the pictures it was made for, px. Raises UserError for an unknown one."""
    import timm

    try:
        known = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    except RuntimeError:  # the model is known, the tag behind its name is not
        known = None
    if known is None:
        near = did_you_mean(backbone, timm.list_models() + timm.list_pretrained(), n=3)
        raise UserError(f"model.backbone: timm has no {shown(backbone)}{near}")
    return known.input_size[-1]
