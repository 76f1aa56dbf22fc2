"""Folds in processes of their own: one at a time on a CPU, one a GPU where there are GPUs.

Nothing is shared but the disk, so no fold can hang another. A fold's memory is surely freed.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable

from pipeline.parts.cli import UserError, say
from pipeline.parts.config import Runtime
from pipeline.parts.deadline import Deadline

BAD_INPUT, PAUSED, STOPPED = 2, 75, 130  # exit codes of a fold that has said why itself
GRACE = 10.0  # seconds that a stopped fold has to end by itself


def train_folds(
    experiment: str, folds: Iterable[int], runtime: Runtime, deadline: Deadline
) -> None:
    """Train folds, as many at a time as there are slots; one that dies takes no other with it.

    After bad input, Ctrl-C and the deadline no further fold is started, but the first ones are.
    Raises UserError naming the dead; exits with PAUSED when some go on next time.
    """
    waiting, codes = list(folds), {}
    free = slots(runtime) if len(waiting) > 1 else [{}]
    running: dict[int, tuple[subprocess.Popen, dict[str, str]]] = {}
    try:
        while running or waiting:
            while waiting and free:
                fold, slot = waiting.pop(0), free.pop(0)
                running[fold] = start(experiment, fold, slot, deadline), slot
            time.sleep(0.1)
            for fold in [k for k, (process, _) in running.items() if process.poll() is not None]:
                process, slot = running.pop(fold)
                codes[fold] = process.returncode
                free.append(slot)
            if waiting and codes and not deadline.fits(0):
                codes |= dict.fromkeys(waiting, PAUSED)
            if {BAD_INPUT, PAUSED, STOPPED} & set(codes.values()):
                waiting = []
    finally:
        stop([process for process, _ in running.values()])
    tell(codes)


def slots(runtime: Runtime) -> list[dict[str, str]]:
    """What each process that may run at the same time finds in its environment.

    `runtime.processes` of them, else one a GPU, else one. They share the CPU's cores evenly.
    """
    gpus = visible_gpus() if runtime.device == "auto" else []
    count = runtime.processes or max(1, len(gpus))
    if count == 1:
        return [{}]
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())) // count)
    shared = {"OMP_NUM_THREADS": str(threads), "TERM": "dumb"}  # bars would overwrite each other
    devices = [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(count)]
    return [{**shared, **device} for device in devices]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch  # late: a finished run need not count them

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return allowed.split(",")[:count] if allowed else [str(i) for i in range(count)]


def start(experiment: str, fold: int, slot: dict[str, str], deadline: Deadline) -> subprocess.Popen:
    if "CUDA_VISIBLE_DEVICES" in slot:
        say("train", f"fold {fold}  on GPU {slot['CUDA_VISIBLE_DEVICES']}")
    command = [sys.executable, "-m", "pipeline.train", experiment, "--fold", str(fold)]
    if math.isfinite(deadline.seconds):
        command += ["--hours", str(max(0.0, deadline.left() / 3600))]
    return subprocess.Popen(command, env={**os.environ, **slot})


def stop(processes: list[subprocess.Popen]) -> None:
    """Ctrl-C reached them too: wait until each has said so; end those that do not listen."""
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def tell(codes: dict[int, int]) -> None:
    """What became of the folds. Raises UserError naming those that died."""
    if STOPPED in codes.values():
        sys.exit(STOPPED)
    told = (0, BAD_INPUT, PAUSED)
    died = [f"{fold} (exit {code})" for fold, code in codes.items() if code not in told]
    if died:
        done = sorted(fold for fold, code in codes.items() if code == 0)
        rest = f"; folds {done} are done" if done else ""
        raise UserError(f"fold {', '.join(died)} died{rest}; the same command goes on where it was")
    for code in (BAD_INPUT, PAUSED):
        if code in codes.values():
            sys.exit(code)
