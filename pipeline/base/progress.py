"""A progress bar in a terminal, plain lines now and then in a log."""

import os
import sys
import time
from types import TracebackType
from typing import Self

LOG_EVERY = 30.0  # seconds between lines in a log


class Progress:
    """Counts `advance(n)` up to `total`; shows rate and time left. Use as a context manager."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0

    def __enter__(self) -> Self:
        self.started = self.shown = time.monotonic()
        self.bar = (
            _bar(self.unit) if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None
        )
        if self.bar:
            self.task = self.bar.add_task(self.label, total=self.total, rate="")
            self.bar.start()
        return self

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.task, advance=n, rate=f"{self.rate(now):,.0f} {self.unit}/s")
        elif now - self.shown > LOG_EVERY:
            self.shown = now
            left = (self.total - self.done) / self.rate(now)
            print(
                f"{self.label}  {self.done:,}/{self.total:,} {self.unit}, "
                f"{self.rate(now):,.0f}/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def rate(self, now: float) -> float:
        return self.done / max(now - self.started, 1e-6)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()


def _bar(unit: str):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
    )
