"""Folds in processes of their own: one at a time on a CPU, one a GPU where there are GPUs.

Nothing is shared but the disk, so no fold can hang another. A fold's memory is surely freed.
A fold of several GPUs is as many processes, its ranks. They find what `torchrun` would tell them;
it does not start them as it turns every exit code into 1 and one clear line into a page.
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

from pipeline.base.cli import Terminated, UserError, say
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.base.libc import cores, libc_function

# exit codes of a fold that has said why itself; STOPPED by Ctrl-C, ENDED by SIGTERM
BAD_INPUT, PAUSED, STOPPED, ENDED = 2, 75, 130, 143
TRACEBACK = 1  # exit code of a rank that has lost another, among others
PRCTL, PR_SET_PDEATHSIG = libc_function("prctl"), 1  # found before a fork; Linux's prctl.h
GRACE = 10.0  # seconds that a stopped fold has to end by itself


def train_folds(
    experiment: str, folds: Iterable[int], runtime: Runtime, deadline: Deadline
) -> None:
    """Train folds, as many at a time as there are slots; one that dies takes no other with it.

    After bad input, Ctrl-C and the deadline no further fold is started, but the first ones are.
    Raises UserError naming the dead; exits with PAUSED when some go on next time.
    """
    waiting, codes = list(folds), {}
    free = slots(runtime, len(waiting))
    running: dict[int, tuple[Fold, dict[str, str]]] = {}
    try:
        while running or waiting:
            while waiting and free:
                fold, slot = waiting.pop(0), free.pop(0)
                running[fold] = start(experiment, fold, slot, runtime.gpus_per_fold, deadline), slot
            time.sleep(0.1)
            ended = {k: fold.poll() for k, (fold, _) in running.items()}
            for fold in [k for k, code in ended.items() if code is not None]:
                codes[fold] = ended[fold]
                free.append(running.pop(fold)[1])
            if waiting and codes and not deadline.fits(0):
                codes |= dict.fromkeys(waiting, PAUSED)
            if {BAD_INPUT, PAUSED, STOPPED, ENDED} & set(codes.values()):
                waiting = []
    except Terminated:  # Ctrl-C has reached the folds too, SIGTERM the launcher alone
        for fold, _ in running.values():
            fold.ranks[0].terminate()
        raise
    finally:
        stop([fold for fold, _ in running.values()])
    tell(codes)


def slots(runtime: Runtime, folds: int) -> list[dict[str, str]]:
    """What each of the folds that may train at the same time finds in its environment.

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
    return Fold(command, {**os.environ, **slot}, ranks)


class Fold:
    """The processes of a fold: one, or rank 0, which speaks, and others, whose errors are kept."""

    def __init__(self, command: list[str], environment: dict[str, str], ranks: int = 1):
        self.errors = [None, *(tempfile.TemporaryFile() for _ in range(1, ranks))]  # noqa: SIM115
        self.ranks = [
            subprocess.Popen(
                command,
                env=place,
                stdout=file and subprocess.DEVNULL,
                stderr=file,
                process_group=file and 0,  # Ctrl-C is for rank 0: two would wait for each other
                preexec_fn=end_with_launcher,
            )
            for place, file in zip(places(environment, ranks), self.errors, strict=True)
        ]

    def poll(self) -> int | None:
        """Its exit code, or None while it trains. Others would wait for a dead rank: they end."""
        codes = [
            STOPPED if (code := rank.poll()) == -signal.SIGINT else code for rank in self.ranks
        ]
        failed = {rank: code for rank, code in enumerate(codes) if code}
        if not failed:
            return None if None in codes else 0
        self.end()
        told = failed.get(0) in (BAD_INPUT, PAUSED, STOPPED, ENDED)
        for rank, code in failed.items():
            if rank and code not in (STOPPED, ENDED) and not told:
                self.errors[rank].seek(0)
                print(self.errors[rank].read().decode(errors="replace"), end="", file=sys.stderr)
        return next((code for code in failed.values() if code != TRACEBACK), TRACEBACK)

    def end(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()


def end_with_launcher() -> None:
    """Once the launcher is killed, its next start must not find the fold in training still."""
    if PRCTL:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def places(environment: dict[str, str], ranks: int) -> list[dict[str, str]]:
    """What each rank finds in its environment: where rank 0 is to be met, and its own number."""
    if ranks == 1:
        return [environment]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    group["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # DDP's remark that what could be frozen is not
    return [
        {**environment, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(ranks)
    ]


def stop(folds: list[Fold]) -> None:
    """They were told to end: wait until each has said so; end those that do not listen."""
    deadline = time.monotonic() + GRACE
    while (folds := [f for f in folds if f.poll() is None]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for fold in folds:
        fold.end()


def tell(codes: dict[int, int]) -> None:
    """What became of the folds. Raises UserError naming those that died."""
    for code in (STOPPED, ENDED):
        if code in codes.values():
            sys.exit(code)
    told = (0, BAD_INPUT, PAUSED)
    died = [f"{fold} (exit {code})" for fold, code in codes.items() if code not in told]
    if died:
        done = sorted(fold for fold, code in codes.items() if code == 0)
        rest = f"; folds {done} are done" if done else ""
        raise UserError(f"fold {', '.join(died)} died{rest}; the same command goes on where it was")
    for code in (BAD_INPUT, PAUSED):
        if code in codes.values():
            sys.exit(code)
