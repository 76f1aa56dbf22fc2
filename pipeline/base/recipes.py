"""The settings that suit a budget, over which an experiment lays its own: configs/recipes/."""

from functools import cache
from pathlib import Path
from typing import Any

from pipeline.base.yaml_files import find_yaml, laid_over, read_based

LONG = 10  # epochs from which on there is time to learn more than a fitted head knows


def over_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """An experiment's values over those of the recipe that it names, or of that for its epochs.

    Raises UserError for a recipe that there is not.
    """
    recipe = str(values.get("recipe") or recipe_for(values.get("train")))
    if recipe == "long" and not is_batchnorm_net(values.get("model")):
        recipe = "long-layernorm"
    below = read_based(find_recipe(recipe), find_recipe)
    below.pop("base", None)
    return {**laid_over(below, values), "recipe": recipe}


def find_recipe(name: str) -> Path:
    return find_yaml(name, "recipes")


def recipe_for(train: Any) -> str:
    """The recipe for the epochs of a `train:` section; what they may not be is told later."""
    epochs = train.get("epochs") if isinstance(train, dict) else None
    if not isinstance(epochs, int):
        return "short"
    return "long" if epochs >= LONG else "short" if epochs else "instant"


def is_batchnorm_net(model: Any) -> bool:
    """Whether the backbone of a `model:` section is; so is the default, and one that timm lacks."""
    backbone = model.get("backbone") if isinstance(model, dict) else None
    return not isinstance(backbone, str) or _is_batchnorm_net(backbone)


@cache
def _is_batchnorm_net(backbone: str) -> bool:
    import timm  # late: only backbones that are named, for long trainings, pay for it
    import torch

    if not timm.is_model(backbone):
        return True  # that there is none is told elsewhere
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        kinds = {type(layer) for layer in timm.create_model(backbone).modules()}
    norms = [kind for kind in kinds if issubclass(kind, torch.nn.LayerNorm | torch.nn.BatchNorm2d)]
    return bool(norms) and not any(issubclass(kind, torch.nn.LayerNorm) for kind in norms)
