"""A person's own file of losses, metrics, transforms, heads and optimizers: run, and kept by name.

What such a file imports is pipeline/plugins.py.
"""

import sys
from collections.abc import Callable
from functools import cache, partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.base import records
from pipeline.base.cli import PLUGINS, UserError, did_you_mean, explain, read_text, short, shown

Own = dict[str, dict[str, Any]]  # by kind, then by name
KINDS = ("loss", "metric", "transform", "head", "optimizer")
METRICS: dict[str, Callable[..., float]] = {}  # of the competitions that were loaded
LOWER_IS_BETTER: set[str] = set()  # names of metrics
_reading: list[Own] = []


def _register(kind: str, what: Any) -> Any:
    if _reading:
        _reading[-1][kind][what.__name__] = what
    return what


loss = partial(_register, "loss")
transform = partial(_register, "transform")
head = partial(_register, "head")
optimizer = partial(_register, "optimizer")


def metric(function: Any = None, *, lower_is_better: bool = False) -> Any:
    """Of a target and predictions as in pipeline/inference/metrics.py."""
    if function is None:
        return partial(metric, lower_is_better=lower_is_better)

    @wraps(function)
    def number(*given: Any) -> float:
        return float(function(*given))  # one of NumPy's goes into no record, nor is it resumed from

    number.lower_is_better = lower_is_better
    _register("metric", number)
    return function


def score_by(own: dict[str, Any]) -> None:
    """Let the metrics of a competition's file count from now on; those of an experiment's never do:
    `submit` and `compare`, which know no experiment, must score as `train` does."""
    METRICS.update(own)
    LOWER_IS_BETTER.difference_update(own)
    LOWER_IS_BETTER.update(name for name in own if own[name].lower_is_better)


def refuse_unknown(where: str, name: str, known: list[str]) -> None:
    """Raises UserError for a name that is none of the `known` ones, ours and those of plugins.

    Of many the nearest are told, of few all.
    """
    if name not in known:
        near = did_you_mean(name, known, n=3)
        every = "" if near and len(known) > 20 else f"; there are: {short(', '.join(known))}"
        raise UserError(f"{where}: no {shown(name)}{near}{every}")


def read_plugins(path: Path | str | None) -> Own:
    """What a file registers; nothing of none. Raises UserError for a file that cannot be run."""
    if path is None:
        return {kind: {} for kind in KINDS}
    if not Path(path).is_file():
        raise UserError(f"plugins: no file {str(path)!r}; it is named relative to the project")
    return _run(Path(path), records.file_digest(Path(path)))


@cache
def _run(path: Path, digest: str) -> Own:
    """The file of that digest, run once a process."""
    found: Own = {kind: {} for kind in KINDS}
    module = ModuleType(f"plugins_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # its classes are looked up there
    PLUGINS.add(str(path))
    _reading.append(found)
    try:
        exec(compile(read_text(path), str(path), "exec"), vars(module))
    except SyntaxError as error:
        raise UserError(f"{error.filename} line {error.lineno}: {error.msg}") from None
    except Exception as error:  # the user's own code may raise anything
        raise UserError(explain(error)) from None
    finally:
        _reading.pop()
    return found
