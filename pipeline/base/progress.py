"""A progress bar in a terminal, plain lines now and then in a log."""

import os
import sys

from tqdm import tqdm

LOG_EVERY = 30.0  # seconds between lines in a log


class Progress(tqdm):
    """Counts `advance(n)` up to `total`; shows rate and time left. Use as a context manager."""

    monitor_interval = 0  # no thread of tqdm's: loader workers are forked while a bar is open
    advance = tqdm.update

    def __init__(self, label: str, total: int, unit: str) -> None:
        how = {"dynamic_ncols": True}
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            line = "{desc}  {n_fmt}/{total_fmt}{unit}, {rate_fmt}, {remaining} left"
            pace = {"mininterval": LOG_EVERY, "delay": LOG_EVERY}
            how = {"file": _Log(), "bar_format": line, **pace}
        super().__init__(
            desc=label, total=total, unit=f" {unit}", leave=False, miniters=1, smoothing=0, **how
        )


class _Log:
    """What tqdm draws over and over in a terminal, as lines."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Every line is flushed already."""
