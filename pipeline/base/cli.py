"""The command line around a stage: help from its docstring, one clear line for bad input."""

import difflib
import errno
import math
import os
import re
import reprlib
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import cache, wraps
from pathlib import Path
from traceback import walk_tb
from types import FrameType

import typer

from pipeline import exit_at_once

UsageError = typer.BadParameter.__mro__[1]  # click's, or that of the copy in newer typers

SPEAKER = "PIPELINE_SPEAKER"  # environment variable: what a process's lines begin with, or nothing
PLUGINS: set[str] = set()  # a person's own files that were run
MOST_PROBLEMS = 20  # named in full before "and N more"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a file over the size that is allowed, too
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 20, 20
_REPR.maxstring = _REPR.maxother = 120


class Exit(IntEnum):
    """How a command ends that is not done; all but TRACEBACK come with a line that says why."""

    TRACEBACK = 1
    BAD_INPUT = 2
    PAUSED = 75  # the deadline came first; the same command goes on
    INTERRUPTED = 130  # Ctrl-C
    TERMINATED = 143  # SIGTERM


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
        code = Exit.BAD_INPUT
    sys.exit(code)


def guarded(main: Callable[..., None]) -> Callable[..., None]:
    """`main` with what is no defect of the program told in one line each, without a traceback."""

    @wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        if hasattr(sys.stdout, "reconfigure"):  # what the terminal's encoding lacks ends nothing
            sys.stdout.reconfigure(errors="replace")
        try:
            main(*args, **kwargs)
        except BrokenPipeError:  # the reader of our output has gone: `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except (KeyboardInterrupt, Exception) as error:
            if stopped := interrupt_behind(error):
                print("\nstopped; the same command goes on where it was", file=sys.stderr)
                sys.exit(Exit.TERMINATED if isinstance(stopped, Terminated) else Exit.INTERRUPTED)
            if (text := explain(error)) is None:
                raise
            for line in text.splitlines():
                print(f"error: {line}", file=sys.stderr)
            sys.exit(Exit.BAD_INPUT)

    return run


class Terminated(KeyboardInterrupt):
    """SIGTERM: a cluster or a shell ends us, and all is put in order as after Ctrl-C."""


def stop(number: int, frame: FrameType | None) -> None:
    """Handles Ctrl-C and SIGTERM. An exception in the midst of torch's import would abort it."""
    outer = frame
    while outer:
        if outer.f_code.co_filename.startswith("<frozen importlib"):
            exit_at_once(number, frame)
        outer = outer.f_back
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal that led to `error`: a file that torch.save writes is closed by one of its own."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def explain(error: Exception) -> str | None:
    """What a person can do about an error, a line each; None for a defect of the program.

    Bad input; a disk that is full; a file or folder that cannot be written or read; memory.
    """
    if isinstance(error, UserError):  # without the traceback that a loader's worker puts before it
        worker = r"\ACaught \w+ in DataLoader worker(.|\n)*\n[\w.]+Error: "
        return re.sub(worker, "", str(error)).strip()
    if found := in_plugins(error):
        return found
    if is_full(error):
        return "the disk is full; free some space, then the same command"
    if isinstance(error, OSError):
        if isinstance(error, FileExistsError | NotADirectoryError):
            return f"{os.fsdecode(error.filename)}: a file lies where a folder should be"
        if error.filename is not None and error.strerror:
            return f"{short(os.fsdecode(error.filename), 400)}: {error.strerror}"
    if str(error).startswith(("DataLoader ", "Pin memory thread")):
        text = "out of memory? set runtime.workers: 0, or in Docker give it --shm-size=2g"
        return f"a loader process is lost ({short(error, 120)}): {text}"
    scarce = re.search(r"out of memory|can't allocate|Insufficient memory", str(error))
    if isinstance(error, MemoryError) or scarce:
        text = "lower train.batch_size and raise train.accumulate by as much; for predictions lower"
        return f"not enough memory: {text} runtime.predict_batch ({short(error, 120)})"
    return None


def in_plugins(error: BaseException) -> str | None:
    """An error of a person's own file, with its line in it; None for one from elsewhere."""
    places = [(f.f_code.co_filename, n, f.f_code.co_name) for f, n in walk_tb(error.__traceback__)]
    # a loader's worker sends its traceback as text
    places += re.findall(r'File "(.+?)", line (\d+), in (\S+)', str(error))
    if not (places := [place for place in places if place[0] in PLUGINS]):
        return None
    text = str(error).rstrip().rpartition("\n")[2] if "Traceback" in str(error) else str(error)
    kind = "" if text != str(error) else f"{type(error).__name__}: "
    return "{} line {}, in {}: ".format(*places[-1]) + kind + short(text, 400)


def is_full(error: BaseException | None) -> bool:
    """Whether the disk was full; torch.save and safetensors raise errors of their own then."""
    if error is None or isinstance(error, OSError):
        return error is not None and error.errno in FULL
    if code := re.search(r"\(os error (\d+)\)", str(error)):
        return int(code[1]) in FULL
    return is_full(error.__context__)


def say(stage: str, text: str) -> None:
    """One line of a stage's story, flushed so that a log shows it at once."""
    print(f"{stage:<9} {os.environ.get(SPEAKER, '')}{text}", flush=True)


say_once = cache(say)  # a process


def warn(stage: str, text: str) -> None:
    text = f"{stage:<9} {os.environ.get(SPEAKER, '')}warning: {text}"
    print(text, file=sys.stderr, flush=True)


warn_once = cache(warn)  # a process


def print_table(
    rows: Iterable[Iterable[str]],
    head: Iterable[str] = (),
    title: str | None = None,
    whole: Iterable[str] = (),
) -> None:
    """At most as wide as the terminal. Long names break, but in `whole` columns; none is markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(head))
    for name in head:
        table.add_column(Text(name), overflow="fold", no_wrap=name in whole)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(*([Text(f"\n{title}")] if title else []), table)


def did_you_mean(name: str, known: Iterable[str], n: int = 1) -> str:
    """The end of a message about an unknown name: the nearest known ones, or nothing."""
    lower = {other.lower(): other for other in known}  # LABEL is near to label
    near = [lower[found] for found in difflib.get_close_matches(name.lower()[:99], lower, n=n)]
    return f"; did you mean {' or '.join(map(shown, near))}?" if near else ""


def short(text: object, most: int = 200) -> str:
    """`text` on one line of a message, however long or multi-lined it is."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def shown(value: object) -> str:
    """The repr of a value from outside, cut where it is long or deep."""
    return short(_REPR.repr(value), 400)


def listing(problems: list[str]) -> str:
    """All problems, or the first MOST_PROBLEMS and a count, one a line."""
    more = len(problems) - MOST_PROBLEMS
    return "\n".join(problems[:MOST_PROBLEMS] + ([f"... and {more:,} more"] if more > 0 else []))


def read_text(path: Path) -> str:
    """Raises UserError for a file that is no text in UTF-8, naming the line where it ends to be."""
    data = path.read_bytes()
    try:
        text, bad = data.decode("utf-8-sig"), data.find(b"\0")
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        line = data.count(b"\n", 0, bad) + 1
        raise UserError(f"{path} line {line}: not text in UTF-8; save it as UTF-8")
    return text


def took(started: float) -> str:
    """Time since `started` (`time.monotonic()`), as a person reads it."""
    return duration(time.monotonic() - started)


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def mean_std(scores: list[float]) -> str:
    """Mean and sample standard deviation over folds; of a single one just its score.

    Both are nan where a metric is undefined on one, as AUC without a positive.
    """
    if not scores:
        return "none"
    if len(scores) == 1:
        return f"{scores[0]:.4f}"
    spread = statistics.stdev(scores) if all(map(math.isfinite, scores)) else math.nan
    return f"{statistics.mean(scores):.4f} ± {spread:.4f}"
