"""Folds as tasks of a Ray cluster, whose machines have the project at one path of a shared disk.

A task does what `launch` does on one machine: same command, same records. When its process dies or
its machine is gone, Ray does the task again, where there is room: it goes on from its last epoch.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pipeline.parts import launch
from pipeline.parts.cli import UserError
from pipeline.parts.config import Root, Runtime
from pipeline.parts.deadline import Deadline

RETRIES = 3  # of a fold, after which it is given up
PASSED_ON = [f"{name.upper()}_DIR" for name in get_args(Root)]


def train_folds(
    experiment: str, folds: Iterable[int], runtime: Runtime, deadline: Deadline
) -> None:
    """Train folds on the cluster at RAY_ADDRESS, else that of this machine, else a new one here.

    Raises UserError naming the folds that died more often than RETRIES, and without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # epochs of two folds are no repetition
    try:
        import ray
    except ImportError:
        raise UserError("--launcher ray: pip install 'ray>=2.40,<3'") from None
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    ray.init(runtime_env={"env_vars": {**passed_on, "PYTHONPATH": os.pathsep.join(sys.path)}})
    options = {"max_retries": RETRIES, "retry_exceptions": True, **share(ray.nodes(), runtime)}
    train = ray.remote(**options)(train_fold)
    job = (Path.cwd(), experiment, runtime)
    tasks = {fold: train.remote(*job, fold, deadline.left()) for fold in folds}
    codes = {}
    for fold, task in tasks.items():
        try:
            codes[fold] = ray.get(task)
        except ray.exceptions.RayError:
            codes[fold] = launch.TRACEBACK
    launch.tell(codes)


def share(nodes: list[dict[str, Any]], runtime: Runtime) -> dict[str, int]:
    """What a fold asks for: its GPUs, and the cores of a machine over the folds on it.

    Raises UserError when no machine has as many GPUs.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"] and "CPU" in node["Resources"]]
    on_gpus = runtime.device == "auto" and any("GPU" in machine for machine in machines)
    gpus = runtime.gpus_per_fold if on_gpus else 0
    fit = [machine for machine in machines if machine.get("GPU", 0) >= gpus]
    if not fit:
        raise UserError(f"--gpus-per-fold {gpus}: no machine of the cluster has as many")
    at_a_time = [machine["GPU"] // gpus if gpus else runtime.processes or 1 for machine in fit]
    cores = [m["CPU"] // folds for m, folds in zip(fit, at_a_time, strict=True)]
    return {"num_gpus": gpus, "num_cpus": max(1, int(min(cores)))}


def train_fold(folder: Path, experiment: str, runtime: Runtime, fold: int, seconds: float) -> int:
    """A task: one fold, in `folder`, within `seconds`; returns its exit code.

    Raises UserError when it died.
    """
    os.chdir(folder)
    try:
        launch.train_folds(experiment, [fold], runtime, Deadline(seconds))
    except SystemExit as end:  # it has said why; Ray would take this for a lost machine
        return end.code
    return 0
