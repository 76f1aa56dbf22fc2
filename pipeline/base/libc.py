"""What the system can do or has, and Python does not ask for."""

import ctypes
import os
import sys
from collections.abc import Callable


def libc_function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where there is none of that name, or no Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def cores() -> int:
    """CPU cores that this process may use: SLURM and taskset give it some of the machine's."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
