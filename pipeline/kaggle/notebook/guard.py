"""What all notebooks need at night: no step may end one in an error and lose its output."""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pipeline.base import records
from pipeline.base.cli import say, warn

RESERVE = 900  # seconds of the limit that are not ours: starting, stopping, scoring
ALARM = "!!!!!!"  # what `push` looks for in a notebook's log
Arguments, Result = ParamSpec("Arguments"), TypeVar("Result")


def night_proof(step: Callable[Arguments, Result]) -> Callable[Arguments, Result | None]:
    """A step that goes wrong in any way tells it, and the notebook goes on with what stands.

    A notebook that ends in an error has no output at all: the last one written is better.
    """

    @wraps(step)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | None:
        try:
            return step(*args, **kwargs)
        except Exception:
            traceback.print_exc()
            loud(f"{step.__name__} failed: what was written before it stands")
            return None

    return run


def loud(text: str) -> None:
    warn("kernel", f"{ALARM} {text} {ALARM}")


def tell_versions() -> None:
    say("kernel", ", ".join(f"{name} {v}" for name, v in records.provenance()["versions"].items()))
