"""What all notebooks need: one that ends in an error has no output, so no step may end it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.base import records
from pipeline.base.cli import say, warn

RESERVE = 900  # seconds of the limit that are not ours: starting, stopping, scoring
ALERT = "!!!!!!"  # what `push` looks for in a notebook's log


@contextmanager
def guard(step: str) -> Iterator[None]:
    """Report whatever goes wrong in a step, and go on: the last output written is better than none.

    Steps in a guard of their own within another's leave the rest of that to be done.
    """
    try:
        yield
    except Exception:
        traceback.print_exc()
        alert(f"{step} failed: what was written before it stands")


def alert(text: str) -> None:
    warn("notebook", f"{ALERT} {text} {ALERT}")


def say_versions() -> None:
    versions = records.provenance()["versions"]
    say("notebook", ", ".join(f"{name} {version}" for name, version in versions.items()))
