"""One pool of processes: as many at a time as there are GPUs, one where there are none.

`train` gives it folds, `predict` too, the notebook a model's share of the pictures. They share
nothing but the disk, so none can hang another or keep its memory; one that dies is replaced once,
and goes on from what the first has left there. A job on several GPUs is as many processes, its
ranks, with the environment that `torchrun` would give them; it does not start them, as it turns
every exit code into 1 and one clear line into a page.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pipeline.base.cli import Exit, Terminated, UserError, warn
from pipeline.base.config import Runtime
from pipeline.base.libc import cores, libc_function

Job = TypeVar("Job", bound=Hashable)
Slot = dict[str, str]  # environment variables of a process: which GPUs, how many threads
PRCTL, PR_SET_PDEATHSIG = libc_function("prctl"), 1  # found before a fork; Linux's prctl.h
GRACE = 10.0  # seconds that a stopped process has to end by itself
WORKER = "PIPELINE_WORKER"  # environment variable of the processes: what concerns all was said once
EXPLAINED = set(Exit) - {Exit.TRACEBACK}


def run_jobs(
    jobs: Iterable[Job], slots: list[Slot], start: Callable[[Job, Slot], "Process"]
) -> Iterator[tuple[Job, int]]:
    """Start each job on a slot that is free; yield it and its exit code when it has ended.

    The next job is asked for when there is a slot for it: that may depend on what has ended. One
    that dies, an end it has not explained, is started once more on its slot.
    """
    waiting, free, again = iter(jobs), list(slots), set[Job]()
    running: dict[Job, Process] = {}
    try:
        while True:
            for job in islice(waiting, len(free)):
                running[job] = start(job, free.pop(0))
            if not running:
                return
            ended = {job: process.poll() for job, process in running.items()}
            for job, code in ended.items():
                if code is None:
                    continue
                slot = running.pop(job).slot
                if code in {0, *EXPLAINED} or job in again:
                    free.append(slot)
                    yield job, code
                else:
                    again.add(job)
                    warn("pool", f"a process died (exit {code}); another does its work")
                    running[job] = start(job, slot)
            if set(ended.values()) == {None}:
                time.sleep(0.1)
    except Terminated:  # Ctrl-C has reached the processes too, SIGTERM this one alone
        for process in running.values():
            process.ranks[0].terminate()
        raise
    finally:
        stop(list(running.values()))


def gpu_slots(runtime: Runtime, jobs: int) -> list[Slot]:
    """One for each of the jobs that may run at the same time.

    `runtime.processes` of them, else as many as there are GPUs for, else one. All processes share
    the CPU's cores evenly. Raises UserError when there are too few GPUs for a job.
    """
    ranks = runtime.gpus_per_fold
    if jobs == ranks == 1:
        return [{}]
    gpus = visible_gpus() if runtime.device == "auto" else []
    if 0 < len(gpus) < ranks:
        raise UserError(f"--gpus-per-fold {ranks}: only {len(gpus)} GPUs are visible")
    count = min(jobs, runtime.processes or max(1, len(gpus) // ranks))
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


class Process:
    """A command on a slot, as a process a rank: rank 0 prints, of the others errors are kept."""

    def __init__(self, command: list[str], slot: Slot, ranks: int = 1):
        def popen(rank: dict[str, str], **options: Any) -> subprocess.Popen:
            environment = {**os.environ, **slot, **rank, WORKER: "1"}
            python = [sys.executable, *command]
            return subprocess.Popen(python, env=environment, preexec_fn=end_with_us, **options)

        self.slot = slot
        first, *others = rank_env(ranks)
        self.errors = [tempfile.TemporaryFile() for _ in others]  # noqa: SIM115
        # Ctrl-C reaches rank 0's process group alone: two that end would wait for each other
        quiet = {"stdout": subprocess.DEVNULL, "process_group": 0}
        self.ranks = [popen(first)]
        for rank, file in zip(others, self.errors, strict=True):
            self.ranks.append(popen(rank, stderr=file, **quiet))

    def poll(self) -> int | None:
        """Its exit code, or None while it works. Others would wait for a dead rank: they end."""
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
    """Once the launcher is killed, its next start must not find the work going on still."""
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


def stop(processes: list[Process]) -> None:
    """They were told to end: wait until each has said so; end those that do not listen."""
    deadline = time.monotonic() + GRACE
    while (left := [p for p in processes if p.poll() is None]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.end()
