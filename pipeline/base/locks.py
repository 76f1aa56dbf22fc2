"""One process at a time in a folder."""

import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.base.cli import UserError

LOCK = ".lock"  # in the folder it is for; it stays


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """One process at a time makes what lies in `folder`; a second says who does and waits.

    The operating system holds the lock and lets go of that of a dead process. Raises UserError
    instead of waiting where there is no `wait`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = holder(file) or "another process"
            if not wait:
                raise UserError(f"{folder}: {who} works there; wait for it, or stop it") from None
            print(f"{folder}: {who} works there; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network disks have none: as it was before there were locks
            text = f"{folder}: no locks there ({error.strerror}): run one at a time"
            print(text, file=sys.stderr)
        file.truncate(0)
        since = time.strftime("%H:%M:%S")
        file.write(f"process {os.getpid()} of {platform.node()}, since {since},")
        file.flush()
        yield


def holder(file: IO[str]) -> str:
    """What the process that holds the lock wrote down, which it does just after it has it."""
    for _ in range(20):
        file.seek(0)
        if text := file.read().strip():
            return text
        time.sleep(0.01)
    return ""
