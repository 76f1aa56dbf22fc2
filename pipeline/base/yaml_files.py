"""YAML files of settings: found by name, read, and checked, each mistake told in one line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.base.cli import UserError, did_you_mean, listing, read_text, short, shown, warn
from pipeline.base.settings import CONFLICT, FORMER, Settings

HERE = Path(__file__).parents[1] / "configs"

Loaded = TypeVar("Loaded", bound=Settings)


def is_path(asked: str) -> bool:
    """Whether a YAML is asked for by its path, and not by a name."""
    return asked.endswith((".yaml", ".yml"))


def run_name(asked: str) -> str:
    """Of a run that is asked for by its name, or by the path of its YAML."""
    return Path(asked).stem if is_path(asked) else asked


def find_yaml(name: str, folder: str) -> Path:
    """`pipeline/FOLDER/NAME.yaml`, or `name` itself where it is a path that ends in .yaml.

    Raises UserError for a missing file, naming the nearest and all others.
    """
    here, kind = HERE / folder, folder.removesuffix("s")
    path = Path(name) if is_path(name) else here / f"{name}.yaml"
    if not path.is_file():
        known = known_yaml(folder)
        told = f"{did_you_mean(name, known)}; there are: {', '.join(known)}"
        raise UserError(f"no {kind} {shown(name)} ({short(path)}){told}")
    return path


def known_yaml(folder: str) -> list[str]:
    return sorted(file.stem for file in (HERE / folder).glob("*.yaml"))


class _Loader(yaml.SafeLoader):
    """Refuses a key that is no text, and one that stands twice: the last would win in silence."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            where = f"line {key.start_mark.line + 1}"
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                what = short(key.value) if isinstance(key, yaml.ScalarNode) else "a list"
                text = f"a key is a text, which {what} is not; put it in quotes?"
                raise UserError(f"{where}: {text}")
            if key.value in seen:
                raise UserError(f"{where}: the key {shown(key.value)} stands twice; keep one")
            seen.add(key.value)
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Raises UserError for what is not YAML, and not `key: value` lines with each key once."""
    text = read_text(path)
    try:
        values = yaml.load(text, _Loader)
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # those of values (a date, a number with a tag) are of many kinds
        raise UserError(f"{path}: not YAML: {short(error, 300)}") from None
    if not isinstance(values or {}, dict):
        raise UserError(f"{path}: expected `key: value` lines")
    return values or {}


def read_based(path: Path, find: Callable[[str], Path]) -> dict[str, Any]:
    """A file's values over those of its `base:`, section by section; that may have one as well.

    A base is a path, the name of a file beside this one, or one that `find` knows. Raises
    UserError where there is none, and where bases lead back to each other.
    """
    layers, paths = [read_yaml(path)], [path]
    while (base := layers[-1].get("base")) is not None:
        above = _base_path(paths[-1], base, find)
        if above.resolve() in [known.resolve() for known in paths]:
            way = " → ".join(known.stem for known in [*paths, above])
            raise UserError(f"{path}: base: leads back to itself: {way}")
        paths.append(above)
        layers.append({k: v for k, v in read_yaml(above).items() if k != "name"})
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = laid_over(values, layer)
    return values


def _base_path(path: Path, base: Any, find: Callable[[str], Path]) -> Path:
    if not isinstance(base, str):
        raise UserError(f"{path}: base: a name or a path is expected, not {shown(base)}")
    beside = path.parent / (base if is_path(base) else f"{base}.yaml")
    if beside.is_file() and (is_path(base) or beside.resolve() != path.resolve()):
        return beside
    try:
        return find(str(beside) if is_path(base) else base)
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None


def laid_over(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The settings of both, those of `new` where both have one; a section is no setting."""
    both = [k for k in new if isinstance(new[k], dict) and isinstance(old.get(k), dict)]
    return {**old, **new, **{k: _section_over(old[k], new[k]) for k in both}}


def _section_over(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A setting is the same under its former name."""
    other = FORMER | {former: name for name, former in FORMER.items()}
    return {**{name: old[name] for name in old if other.get(name) not in new}, **new}


def checked(cls: type[Loaded], values: dict[str, Any], path: Path | str) -> Loaded:
    """Settings of `values`, which `path` holds; `name` is the file's own.

    Raises UserError with a line per mistake.
    """
    values = {"name": Path(path).stem, **values}
    where = f"{path} (base: {values['base']})" if values.get("base") else str(path)
    try:
        found = cls(**values)
    except ValidationError as error:
        raise UserError(listing([_explain(cls, where, item) for item in error.errors()])) from None
    for section, part in found:
        fields = type(part).model_fields.items() if isinstance(part, Settings) else ()
        given = values.get(section)
        for name, field in fields:
            if isinstance(given, dict) and field.alias in given:
                text = f"{path}: {section}.{field.alias} is called {section}.{name} now"
                warn("settings", text)
    return found


def _explain(cls: type[BaseModel], path: str, item: dict[str, Any]) -> str:
    name = short(".".join(str(part) for part in item["loc"]))
    if item["type"] == "extra_forbidden":
        known = list(_section(cls, item["loc"]).model_fields)
        if item["loc"][-1] in known:
            return f"{path}: {name} stands twice, also under its former name; keep one"
        near = did_you_mean(str(item["loc"][-1]), known)
        return f"{path}: unknown key {name!r}{near}; known here: {', '.join(known)}"
    if item["type"] == "missing":
        return f"{path}: {name!r} is missing"
    if item["type"] == "retired":
        return f"{path}: {name}.{item['msg']}: remove it"
    if item["type"] == CONFLICT:
        return f"{path}: {item['msg']}"
    message = re.sub(r"^Input", "it", item["msg"])
    return f"{path}: {name}: {message}, not {shown(item['input'])}"


def _section(cls: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    for part in loc[:-1]:
        kind = cls.model_fields[part].annotation
        cls = next(iter(get_args(kind)), kind)  # of one that may be null, what it is else
    return cls
