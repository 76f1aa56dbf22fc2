"""Tasks of a Ray cluster, whose machines have the project at one path of a shared disk.

A fold is a task that does what `launch` does on one machine: same command, same records. When its
process dies or its machine is gone, Ray does the task again, where there is room: it goes on from
its last epoch. A prediction is as many tasks as there is room for, each a part of its pictures.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np

from pipeline.base.cli import UserError
from pipeline.base.config import Root, Runtime
from pipeline.base.deadline import Deadline
from pipeline.launchers import local

RETRIES = 3  # of a task, after which it is given up
PASSED_ON = [f"{name.upper()}_DIR" for name in get_args(Root)]


class Launcher(StrEnum):
    LOCAL = "local"
    RAY = "ray"


def train_folds(
    experiment: str, folds: Iterable[int], runtime: Runtime, deadline: Deadline
) -> None:
    """Raises UserError naming the folds that died more often than RETRIES, and without Ray."""
    ray = connect()
    request, _ = share(ray.nodes(), runtime)
    train = ray.remote(max_retries=RETRIES, retry_exceptions=True, **request)(train_fold)
    job, ends = (Path.cwd(), experiment, runtime), time.time() + deadline.left()
    tasks = {fold: train.remote(*job, fold, ends) for fold in folds}
    codes = {}
    for fold, task in tasks.items():
        try:
            codes[fold] = ray.get(task)
        except ray.exceptions.RayError:
            codes[fold] = local.TRACEBACK
    local.tell(codes)


def predict_shards(
    predict: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, runtime: Runtime, batch: int
) -> np.ndarray:
    """`predict(rows)`, its parts made all over the cluster.

    They are whole batches of `batch` rows: what a picture's neighbours are may change last bits.
    Raises UserError as `predict` does, when a part died more often than RETRIES, and without Ray.
    """
    ray = connect()
    request, at_a_time = share(ray.nodes(), runtime.model_copy(update={"gpus_per_fold": 1}))
    predict_part = ray.remote(max_retries=RETRIES, **request)(predict_here)
    each = batch * math.ceil(len(rows) / batch / at_a_time)
    parts = np.split(rows, range(each, len(rows), each))
    tasks = [predict_part.remote(Path.cwd(), predict, part) for part in parts]
    try:
        return np.concatenate(ray.get(tasks))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--launcher ray: a part of the pictures was lost: {reason}") from None


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


def share(nodes: list[dict[str, Any]], runtime: Runtime) -> tuple[dict[str, int], int]:
    """What a task asks for, and how many there is room for in the whole cluster.

    It asks for a fold's GPUs and the cores of a machine over the tasks on it.
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
    return {"num_gpus": gpus, "num_cpus": max(1, int(min(cores)))}, sum(at_a_time)


def train_fold(folder: Path, experiment: str, runtime: Runtime, fold: int, ends: float) -> int:
    """A task: one fold, in `folder`, until `ends` (`time.time()`); returns its exit code.

    An end and no seconds: it may have waited long for its place, or be started again.

    Raises UserError when it died.
    """
    os.chdir(folder)
    try:
        local.train_folds(experiment, [fold], runtime, Deadline(ends - time.time()))
    except SystemExit as end:  # it has said why; Ray would take this for a lost machine
        return end.code
    return 0


def predict_here(
    folder: Path, predict: Callable[[np.ndarray], np.ndarray], rows: np.ndarray
) -> np.ndarray:
    """A task: `predict(rows)` in `folder`."""
    os.chdir(folder)
    return predict(rows)
