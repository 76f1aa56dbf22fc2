"""The settings that suit a budget, over which an experiment lays its own: configs/recipes/."""

from typing import Any

from pipeline.base.yaml_files import find_yaml, laid_over, read_yaml

LONG = 10  # epochs from which on there is time to learn more than a fitted head knows


def over_recipe(values: dict[str, Any]) -> dict[str, Any]:
    """An experiment's values over those of the recipe that it names, or of that for its epochs.

    Raises UserError for a recipe that there is not.
    """
    recipe = str(values.get("recipe") or recipe_for(values.get("train")))
    return {**laid_over(read_yaml(find_yaml(recipe, "recipes")), values), "recipe": recipe}


def recipe_for(train: Any) -> str:
    """The recipe for the epochs of a `train:` section; what they may not be is told later."""
    epochs = train.get("epochs") if isinstance(train, dict) else None
    if not isinstance(epochs, int):
        return "short"
    return "long" if epochs >= LONG else "short" if epochs else "instant"
