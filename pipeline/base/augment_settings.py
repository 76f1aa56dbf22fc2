"""Settings of augmentation: a list of transforms, or the name of one that is shipped."""

from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.base.cli import did_you_mean
from pipeline.base.yaml_files import find_yaml, known_yaml


def one_transform(value: Any) -> Any:
    """A bare name in an augmentation list means "with its own defaults"."""
    return {value: {}} if isinstance(value, str) else value


def one_augmentation(value: Any) -> Any:
    """A preset's name means its list, so that a key holds what was done and not a name."""
    if not isinstance(value, str):
        return value
    known = known_yaml("augmentations")
    if value not in known:
        near = did_you_mean(value, known).removeprefix("; did you mean ").removesuffix("?")
        nearest = f" (nearest: {near})" if near else ""
        text = f"it should be a list or one of {', '.join(known)}{nearest}"
        raise PydanticCustomError("preset", "{text}", {"text": text})
    return yaml.safe_load(find_yaml(value, "augmentations").read_text())


Transform = Annotated[
    dict[str, dict[str, Any]],
    BeforeValidator(one_transform),
    Field(min_length=1, max_length=1),
]
Augmentation = Annotated[
    list[Transform], BeforeValidator(one_augmentation), Field(validate_default=True)
]
