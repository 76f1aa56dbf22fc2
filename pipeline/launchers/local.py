"""Folds in processes of their own: one at a time on a CPU, one a GPU where there are GPUs.

They share nothing but the disk, so no fold can hang another or keep its memory. A fold of several
GPUs is as many processes, its ranks, with the environment that `torchrun` would give them; it does
not start them, as it turns every exit code into 1 and one clear line into a page.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

from pipeline.base.cli import Exit, Terminated, UserError, say
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.base.libc import cores, libc_function

PRCTL, PR_SET_PDEATHSIG = libc_function("prctl"), 1  # found before a fork; Linux's prctl.h
GRACE = 10.0  # seconds that a stopped fold has to end by itself
EXPLAINED = set(Exit) - {Exit.TRACEBACK}


def train_folds(
    experiment: str, folds: Iterable[int], runtime: Runtime, deadline: Deadline
) -> None:
    """Train folds, as many at a time as there are slots; one that dies takes no other with it.

    After bad input, Ctrl-C and the deadline no further fold is started, but the first ones are.
    Raises UserError naming the dead; exits with Exit.PAUSED when some go on next time.
    """
    waiting, running, codes = list(folds), dict[int, Fold](), dict[int, int]()
    free = gpu_slots(runtime, len(waiting))
    try:
        while running or waiting:
            while waiting and free:
                k, slot = waiting.pop(0), free.pop(0)
                running[k] = start(experiment, k, slot, runtime.gpus_per_fold, deadline)
            time.sleep(0.1)
            for k, fold in list(running.items()):
                if (code := fold.poll()) is not None:
                    codes[k] = code
                    free.append(running.pop(k).slot)
            if waiting and codes and not deadline.fits(0):
                codes |= dict.fromkeys(waiting, Exit.PAUSED)
            if EXPLAINED & set(codes.values()):
                waiting = []
    except Terminated:  # Ctrl-C has reached the folds too, SIGTERM the launcher alone
        for fold in running.values():
            fold.ranks[0].terminate()
        raise
    finally:
        stop(list(running.values()))
    report(codes)


def gpu_slots(runtime: Runtime, folds: int) -> list[dict[str, str]]:
    """Environment variables of each of the folds that may train at the same time.

    `runtime.processes` of them, else as many as there are GPUs for, else one. All processes share
    the CPU's cores evenly. Raises UserError when there are too few GPUs for a fold.
    """
    ranks = runtime.gpus_per_fold
    if folds == ranks == 1:
        return [{}]
    gpus = visible_gpus() if runtime.device == "auto" else []
    if 0 < len(gpus) < ranks:
        raise UserError(f"--gpus-per-fold {ranks}: only {len(gpus)} GPUs are visible")
    count = min(folds, runtime.processes or max(1, len(gpus) // ranks))
    if count * ranks == 1:
        return [{}]
    threads = int(os.environ.get("OMP_NUM_THREADS", cores())) // (count * ranks)
    shared = {"OMP_NUM_THREADS": str(max(1, threads))}
    if count > 1:
        shared["TERM"] = "dumb"  # bars would overwrite each other
    if not gpus:
        return [shared] * count
    groups = [",".join(gpus[i : i + ranks]) for i in range(0, len(gpus) - ranks + 1, ranks)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": groups[i % len(groups)]} for i in range(count)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch  # late: a finished run need not count them

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return allowed.split(",")[:count] if allowed else [str(i) for i in range(count)]


def start(
    experiment: str, fold: int, slot: dict[str, str], ranks: int, deadline: Deadline
) -> "Fold":
    if "CUDA_VISIBLE_DEVICES" in slot:
        say("train", f"fold {fold}  on GPU {slot['CUDA_VISIBLE_DEVICES']}")
    command = [sys.executable, "-m", "pipeline.train", experiment, "--fold", str(fold)]
    command += ["--gpus-per-fold", str(ranks)]  # what was asked for here wins over its YAML
    if math.isfinite(deadline.seconds):
        command += ["--hours", str(max(0.0, deadline.left() / 3600))]
    return Fold(command, slot, ranks)


class Fold:
    """The processes of a fold: rank 0 prints, of the others only the errors are kept."""

    def __init__(self, command: list[str], slot: dict[str, str], ranks: int = 1):
        def popen(rank: dict[str, str], **options: Any) -> subprocess.Popen:
            environment = {**os.environ, **slot, **rank}
            return subprocess.Popen(command, env=environment, preexec_fn=end_with_us, **options)

        self.slot = slot
        first, *others = rank_env(ranks)
        self.errors = [tempfile.TemporaryFile() for _ in others]  # noqa: SIM115
        # Ctrl-C reaches rank 0's process group alone: two that end would wait for each other
        quiet = {"stdout": subprocess.DEVNULL, "process_group": 0}
        self.ranks = [popen(first)]
        for rank, file in zip(others, self.errors, strict=True):
            self.ranks.append(popen(rank, stderr=file, **quiet))

    def poll(self) -> int | None:
        """Its exit code, or None while it trains. Others would wait for a dead rank: they end."""
        polled = [rank.poll() for rank in self.ranks]
        codes = [Exit.INTERRUPTED if code == -signal.SIGINT else code for code in polled]
        if not any(codes):
            return None if None in codes else 0
        self.end()
        if codes[0] not in EXPLAINED:
            for code, file in zip(codes[1:], self.errors, strict=True):
                if code and code not in (Exit.INTERRUPTED, Exit.TERMINATED):
                    file.seek(0)
                    print(file.read().decode(errors="replace"), end="", file=sys.stderr)
        # a rank that has lost another ends with a traceback: the other's code tells more
        return next((c for c in codes if c and c != Exit.TRACEBACK), Exit.TRACEBACK)

    def end(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()


def end_with_us() -> None:
    """Once the launcher is killed, its next start must not find the fold in training still."""
    if PRCTL:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def rank_env(ranks: int) -> list[dict[str, str]]:
    """Environment variables of each rank: the address of rank 0, and its own number."""
    if ranks == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    group["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # DDP's remark that what could be frozen is not
    return [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def stop(folds: list[Fold]) -> None:
    """They were told to end: wait until each has said so; end those that do not listen."""
    deadline = time.monotonic() + GRACE
    while (folds := [f for f in folds if f.poll() is None]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for fold in folds:
        fold.end()


def report(codes: dict[int, int]) -> None:
    """Exit as the folds did, if they have said why. Raises UserError naming those that died."""
    found = set(codes.values())
    for code in (Exit.INTERRUPTED, Exit.TERMINATED):
        if code in found:
            sys.exit(code)
    if died := [f"{k} (exit {code})" for k, code in codes.items() if code not in {0, *EXPLAINED}]:
        done = sorted(k for k, code in codes.items() if code == 0)
        rest = f"; folds {done} are done" if done else ""
        raise UserError(f"fold {', '.join(died)} died{rest}; the same command goes on where it was")
    for code in (Exit.BAD_INPUT, Exit.PAUSED):
        if code in found:
            sys.exit(code)
