"""Tasks of a Ray cluster, whose machines have the project at one path of a shared disk.

A fold is a task that does what `local` does on one machine: same command, same records. When its
worker dies or its machine is gone, Ray does the task again, where there is room: it goes on from
its last epoch. A process of the fold that dies is replaced as elsewhere.
"""

import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from pipeline.base.cli import Exit, UserError
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.base.settings import Root
from pipeline.launchers import local

RETRIES = 3  # of a task whose machine was lost, after which it is given up
PASSED_ON = [f"{name.upper()}_DIR" for name in get_args(Root)]


class Launcher(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def train_folds(jobs: dict[local.Fold, local.Key], runtime: Runtime, deadline: Deadline) -> None:
    """Raises UserError naming the folds that died for good, and without Ray."""
    ray = connect()
    request = resources_per_task(ray.nodes(), runtime)
    train = ray.remote(max_retries=RETRIES, **request)(train_fold)
    ends = time.time() + deadline.left()
    tasks = {job: train.remote(Path.cwd(), {job: jobs[job]}, runtime, ends) for job in jobs}
    codes = {}
    for job, task in tasks.items():
        try:
            codes[job] = ray.get(task)
        except ray.exceptions.RayError:
            codes[job] = Exit.TRACEBACK
    local.report(codes)


def connect() -> ModuleType:
    """Ray, joined to the cluster at RAY_ADDRESS, else that of this machine, else a new one here.

    Raises UserError without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # epochs of two folds are no repetition
    try:
        import ray
    except ImportError:
        raise UserError("--launcher ray: pip install 'ray>=2.40,<3'") from None
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if not ray.is_initialized():
        ray.init(runtime_env={"env_vars": {**passed_on, "PYTHONPATH": os.pathsep.join(sys.path)}})
    return ray


def resources_per_task(nodes: list[dict[str, Any]], runtime: Runtime) -> dict[str, int]:
    """What a task asks for: a fold's GPUs and the cores of a machine over the tasks on it.

    Raises UserError when no machine has as many GPUs.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"] and "CPU" in node["Resources"]]
    on_gpus = runtime.device == "auto" and any("GPU" in machine for machine in machines)
    gpus = runtime.gpus_per_fold if on_gpus else 0
    fit = [machine for machine in machines if machine.get("GPU", 0) >= gpus]
    if not fit:
        raise UserError(f"--gpus-per-fold {gpus}: no machine of the cluster has as many")
    at_a_time = [int(machine["GPU"] // gpus if gpus else runtime.processes or 1) for machine in fit]
    cores = [m["CPU"] // tasks for m, tasks in zip(fit, at_a_time, strict=True)]
    return {"num_gpus": gpus, "num_cpus": max(1, int(min(cores)))}


def train_fold(
    folder: Path, job: dict[local.Fold, local.Key], runtime: Runtime, ends: float
) -> int:
    """A task: one fold, in `folder`, until `ends` (`time.time()`); returns its exit code.

    An end and no seconds: it may have waited long for its place, or be started again.
    Raises UserError when it died.
    """
    os.chdir(folder)
    try:
        local.train_folds(job, runtime, Deadline(ends - time.time()))
    except SystemExit as end:  # it has said why; Ray would take this for a lost machine
        return end.code
    return 0
