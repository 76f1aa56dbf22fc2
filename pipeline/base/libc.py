"""What the system can do or has, and Python does not ask for."""

import ctypes
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path


def libc_function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where there is none of that name, or no Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def cores() -> int:
    """CPU cores that this process may use: SLURM, taskset and Docker give it some of them."""
    mine = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.ceil(min(mine, cpu_quota())))


def cpu_quota(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float:
    """Cores' worth of time that a container may take, though all cores are shown to it.

    The least of the control groups that it is in: of version 2, and of version 1 its own.
    """
    lines = own.read_text().splitlines() if own.is_file() else []
    inside = Path(next((line[4:] for line in lines if line.startswith("0::/")), ""))
    files = [[groups / at / "cpu.max"] for at in (inside, *inside.parents)]
    files.append([groups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")])
    found = [" ".join(file.read_text() for file in some if file.is_file()) for some in files]
    limits = [text.split() for text in found if re.fullmatch(r"\d+\s+\d+\s*", text)]
    return min((int(quota) / int(period) for quota, period in limits), default=math.inf)
