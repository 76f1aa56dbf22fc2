"""YAML files of settings: found by name, read, and checked, each mistake told in one line."""

import itertools
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.base.cli import UserError, did_you_mean, listing, read_text, short, shown, warn
from pipeline.base.settings import TOGETHER, Settings

HERE = Path(__file__).parents[1] / "configs"
MOST = 100_000  # values in a file of settings

Loaded = TypeVar("Loaded", bound=Settings)


def find_yaml(name: str, folder: str) -> Path:
    """`pipeline/FOLDER/NAME.yaml`, or `name` itself where it is a path that ends in .yaml.

    Raises UserError for a missing file, naming the nearest and all others.
    """
    here, kind = HERE / folder, folder.removesuffix("s")
    path = Path(name) if name.endswith((".yaml", ".yml")) else here / f"{name}.yaml"
    if not path.is_file():
        known = known_yaml(folder)
        there_are = f"there are: {', '.join(known)}"
        raise UserError(
            f"no {kind} {shown(name)} ({short(path)}){did_you_mean(name, known)}; {there_are}"
        )
    return path


def known_yaml(folder: str) -> list[str]:
    return sorted(file.stem for file in (HERE / folder).glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Raises UserError for what is not YAML, and not `key: value` lines with each key once."""
    loader = yaml.SafeLoader(read_text(path))
    try:
        node = loader.get_single_node()
        _weigh(node, path, {})
        values = {} if node is None else loader.construct_document(node)
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{path}: brackets within brackets, too deep for settings") from None
    except Exception as error:  # those of values (a date, a number with a tag) are of many kinds
        raise UserError(f"{path}: not YAML: {short(error, 300)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    return values


def _weigh(node: yaml.Node | None, path: Path, known: dict[int, int]) -> int:
    """How many values a node holds, each alias counted in full.

    Raises UserError for too many (a few aliases of aliases are billions), for a key that is no
    text and for one that stands twice, of which the last would win in silence.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST  # within itself it has no end
    if isinstance(node, yaml.ScalarNode) and re.search("[\0\ud800-\udfff]", node.value):
        line = node.start_mark.line + 1
        raise UserError(f"{path} line {line}: {shown(node.value)} holds what is no character")
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        _refuse_keys([key for key, _ in parts], path)
        parts = itertools.chain(*parts)
    size = 1 + sum(_weigh(part, path, known) for part in parts)
    if size >= MOST:
        raise UserError(f"{path}: over {MOST:,} values, aliases (*) counted: these are no settings")
    known[id(node)] = size
    return size


def _refuse_keys(keys: list[yaml.Node], path: Path) -> None:
    seen = set()
    for key in keys:
        where = f"{path} line {key.start_mark.line + 1}"
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            what = short(key.value) if isinstance(key, yaml.ScalarNode) else "a list"
            raise UserError(f"{where}: a key is a text, which {what} is not; put it in quotes?")
        if key.value in seen:
            raise UserError(f"{where}: the key {shown(key.value)} stands twice; keep one")
        seen.add(key.value)


def load_yaml(cls: type[Loaded], path: Path) -> Loaded:
    """The settings in a file, `name` being its own. Raises UserError with a line per mistake."""
    values = {"name": path.stem, **read_yaml(path)}
    try:
        found = cls(**values)
    except ValidationError as error:
        raise UserError(listing([_explain(cls, path, item) for item in error.errors()])) from None
    for section in set(values) & set(cls.model_fields):
        part = getattr(found, section)
        if isinstance(part, Settings):
            for former in sorted(set(part.former_names()) & set(values[section])):
                name = f"{section}.{part.former_names()[former]}"
                warn("settings", f"{path}: {section}.{former} is called {name} now")
    return found


def _explain(cls: type[BaseModel], path: Path, item: dict[str, Any]) -> str:
    name = short(".".join(str(part) for part in item["loc"]))
    if item["type"] == "extra_forbidden":
        known = list(_section(cls, item["loc"]).model_fields)
        near = did_you_mean(str(item["loc"][-1]), known)
        return f"{path}: unknown key {name!r}{near}; known here: {', '.join(known)}"
    if item["type"] == "missing":
        return f"{path}: {name!r} is missing"
    if item["type"] == "retired":
        return f"{path}: {name}.{item['msg']}: remove it"
    if item["type"] == TOGETHER:
        return f"{path}: {item['msg']}"
    message = re.sub(r"^Input", "it", item["msg"])
    return f"{path}: {name}: {message}, not {shown(item['input'])}"


def _section(cls: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    for part in loc[:-1]:
        cls = cls.model_fields[part].annotation
    return cls
