"""YAML files of settings: found by name, read, and checked, each mistake told in one line."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.parts.cli import UserError, did_you_mean

HERE = Path(__file__).parents[1]
TOGETHER = "together"  # type of an error of settings that do not go together

Loaded = TypeVar("Loaded", bound=BaseModel)


def find_yaml(name: str, folder: str) -> Path:
    """`pipeline/FOLDER/NAME.yaml`, or `name` itself where it is a path that ends in .yaml.

    Raises UserError for a missing file, naming the nearest and all others.
    """
    here, kind = HERE / folder, folder.removesuffix("s")
    path = Path(name) if name.endswith((".yaml", ".yml")) else here / f"{name}.yaml"
    if not path.is_file():
        known = known_yaml(folder)
        there_are = f"there are: {', '.join(known)}"
        raise UserError(f"no {kind} {name!r} ({path}){did_you_mean(name, known)}; {there_are}")
    return path


def known_yaml(folder: str) -> list[str]:
    return sorted(file.stem for file in (HERE / folder).glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Raises UserError for what is not YAML, and not `key: value` lines."""
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    return values


def load_yaml(cls: type[Loaded], path: Path) -> Loaded:
    """The settings in a file, `name` being its own. Raises UserError with a line per mistake."""
    try:
        return cls(**{"name": path.stem, **read_yaml(path)})
    except ValidationError as error:
        lines = [_explain(cls, path, item) for item in error.errors()]
        raise UserError("\n".join(lines)) from None


def _explain(cls: type[BaseModel], path: Path, item: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = list(_section(cls, item["loc"]).model_fields)
        near = did_you_mean(str(item["loc"][-1]), known)
        return f"{path}: unknown key {name!r}{near}; known here: {', '.join(known)}"
    if item["type"] == "missing":
        return f"{path}: {name!r} is missing"
    if item["type"] == TOGETHER:
        return f"{path}: {item['msg']}"
    message = re.sub(r"^Input", "it", item["msg"])
    return f"{path}: {name}: {message}, not {item['input']!r}"


def _section(cls: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    for part in loc[:-1]:
        cls = cls.model_fields[part].annotation
    return cls
