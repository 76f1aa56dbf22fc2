"""The table of all settings, made from the models that hold them: docs/experiments.md keeps it.

A key's meaning is the comment at it in the source, its values are those that pydantic checks.
`python -m docs.settings` writes the table anew.
"""

import ast
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.base.competition import Competition
from pipeline.base.config import Experiment

PAGE = Path(__file__).with_name("experiments.md")
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES = {
    "string": "text",
    "array": "list",
    "object": "mapping",
    "null": "null",
    "boolean": "true, false",
}


def main() -> None:
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n" + settings_tables() + END + after)


def settings_tables() -> str:
    """Markdown: a table per section of an experiment, then that of a competition."""
    top = table(Experiment, leave_out=set(sections()))
    parts = [f"### An experiment's own keys\n\n{top}"]
    parts += [f"### `{name}:`\n\n{table(model)}" for name, model in sections().items()]
    parts.append(f"### A competition's keys\n\n{table(Competition)}")
    return "\n" + "\n\n".join(parts) + "\n\n"


def sections() -> dict[str, type[BaseModel]]:
    """The parts of an experiment that are models of their own."""
    fields = Experiment.model_fields.items()
    # of one that may be null, what it is else
    kinds = {name: next(iter(get_args(f.annotation)), f.annotation) for name, f in fields}
    return {k: v for k, v in kinds.items() if isinstance(v, type) and issubclass(v, BaseModel)}


def table(model: type[BaseModel], leave_out: set[str] = frozenset()) -> str:
    meanings, schema = comments(model), model.model_json_schema(by_alias=False)
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if name in leave_out:
            continue
        default = "needed" if name in schema.get("required", []) else literal(field["default"])
        rows.append(f"| `{name}` | {default} | {values(field)} | {meanings[name]} |")
    return "\n".join(rows)


def comments(model: type[BaseModel]) -> dict[str, str]:
    """field -> the comment at the end of its line or, where that is full, above it; or nothing."""
    source = textwrap.dedent(inspect.getsource(model))
    lines, body = source.splitlines(), ast.parse(source).body[0].body
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and node.target.id in model.model_fields:
            above, last = lines[node.lineno - 2].strip(), lines[node.end_lineno - 1]
            comment = last.partition("  # ")[2] or above.removeprefix("# ") * above.startswith("#")
            found[node.target.id] = re.sub(r"\bNone\b", "null", comment).replace("|", r"\|")
    return found


def values(field: dict[str, Any]) -> str:
    """What a key may hold, from its JSON schema."""
    if options := field.get("anyOf"):
        return " or ".join(values(option) for option in options)
    if "enum" in field:
        return ", ".join(literal(value) for value in field["enum"])
    kind = TYPES.get(field["type"], field["type"])
    limits = [f"{sign} {field[limit]:,}" for limit, sign in SIGNS.items() if limit in field]
    return " ".join([kind, ", ".join(limits)]).strip()


def literal(value: Any) -> str:
    """As YAML would have it."""
    return f"`{value if value and isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    main()
