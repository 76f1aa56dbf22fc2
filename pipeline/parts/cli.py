"""The command line around a stage: help from its docstring, one clear line for bad input."""

import difflib
import errno
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps

import typer

UsageError = typer.BadParameter.__mro__[1]  # click's, or that of the copy in newer typers


class UserError(Exception):
    """Bad input: one clear line per problem, exit code 2, nothing already made is touched."""


def run_stage(main: Callable[..., None]) -> None:
    """Run a stage's `main` as a typer command; `--help` shows the stage's module docstring."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    paragraphs = main.__globals__["__doc__"].strip().split("\n\n")
    app.command(help="\n\n".join(f"\b\n{text}" for text in paragraphs))(guarded(main))
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        print(f"error: {error.format_message()} (--help tells more)", file=sys.stderr)
        code = 2
    sys.exit(code)


def guarded(main: Callable[..., None]) -> Callable[..., None]:
    """`main` with bad input, a full disk and Ctrl-C told in one line each, without a traceback."""

    @wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            sys.exit(2)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            print(
                "error: the disk is full; free some space, then the same command", file=sys.stderr
            )
            sys.exit(2)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on where it was", file=sys.stderr)
            sys.exit(130)

    return run


def say(stage: str, text: str) -> None:
    """One line of a stage's story, flushed so that a log shows it at once."""
    print(f"{stage:<9} {text}", flush=True)


def warn(stage: str, text: str) -> None:
    print(f"{stage:<9} warning: {text}", file=sys.stderr, flush=True)


def did_you_mean(name: str, known: Iterable[str], n: int = 1) -> str:
    """The end of a message about an unknown name: the nearest known ones, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=n)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def took(started: float) -> str:
    """Time since `started` (`time.monotonic()`), as a person reads it."""
    return duration(time.monotonic() - started)


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
