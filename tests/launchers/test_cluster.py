"""Folds on a Ray cluster: what dies is done again and goes on, and nothing is lost."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.launchers import ray_cluster


def node(alive: bool = True, **resources: float) -> dict[str, object]:
    return {"Alive": alive, "Resources": resources}


def test_a_fold_asks_for_its_gpus_and_their_share_of_the_cores() -> None:
    nodes = [node(CPU=8.0, GPU=2.0), node(CPU=64.0, GPU=8.0), node(False, CPU=2.0, GPU=1.0)]
    assert ray_cluster.resources_per_task(nodes, Runtime()) == {"num_gpus": 1, "num_cpus": 4}
    assert ray_cluster.resources_per_task(nodes, Runtime(gpus_per_fold=4)) == {
        "num_gpus": 4,
        "num_cpus": 32,
    }
    assert ray_cluster.resources_per_task(nodes, Runtime(device="cpu")) == {
        "num_gpus": 0,
        "num_cpus": 8,
    }
    with pytest.raises(UserError, match="no machine of the cluster has as many"):
        ray_cluster.resources_per_task(nodes, Runtime(gpus_per_fold=16))
    wanted = {"num_gpus": 0, "num_cpus": 1}
    assert ray_cluster.resources_per_task([node(CPU=2.0)], Runtime(processes=4)) == wanted


class LazyRay:
    """Ray with one place: a task begins when the one before has ended, an hour later."""

    exceptions = type("", (), {"RayError": RuntimeError})

    def nodes(self) -> list[dict[str, object]]:
        return [node(CPU=2.0)]

    def remote(self, **_: object) -> Callable:
        return lambda function: type("", (), {"remote": lambda *args: (function, args)})

    def get(self, task: tuple) -> int:
        self.now += 3600
        return task[0](*task[1])


def test_a_fold_that_waited_for_its_place_ends_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray, left, keys = LazyRay(), [], []

    def train(job: dict, _: Runtime, deadline: Deadline) -> None:
        keys.extend(job.values())
        left.append(round(deadline.left() / 3600, 3))

    ray.now = time.time()
    monkeypatch.setattr(ray_cluster, "connect", lambda: ray)
    monkeypatch.setattr(ray_cluster, "time", type("", (), {"time": lambda: ray.now}))
    monkeypatch.setattr(ray_cluster.local, "train_folds", train)
    ray_cluster.train_folds(
        {("tiny", k): {"fold": k} for k in range(3)}, Runtime(device="cpu"), Deadline(2.5 * 3600)
    )
    assert left == [1.5, 0.5, -0.5]
    assert keys == [{"fold": k} for k in range(3)], "the launcher's, however long they wait"
    left.clear()
    ray_cluster.train_folds({("tiny", 0): {}}, Runtime(device="cpu"), Deadline())
    assert left == [math.inf]


def test_without_ray_one_line_says_what_to_install(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = run("train", split(write()), "--launcher", "ray", expect=2)
    assert said.endswith("\nerror: --launcher ray: pip install 'ray>=2.40,<3'\n")


def test_a_killed_fold_and_a_killed_worker_are_made_up_for(
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process of a fold is killed after an epoch, and after another the Ray worker."""
    pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(space))  # where Ray leaves a token
    experiment = split(write(train={"epochs": 8}, runtime={"device": "cpu"}))
    folder = space / "runs" / "tiny" / "fold0"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", experiment, "--launcher", "ray", "--fold", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killed, seen, deadline = 0, 0, time.monotonic() + 300
    while killed < 2 and process.poll() is None and time.monotonic() < deadline:
        _, saved = records.stat_of(folder / "last.pt")
        if saved > seen:
            os.kill(trainer(experiment, 0, parent=killed == 1), signal.SIGKILL)
            killed, seen = killed + 1, saved
        time.sleep(0.01)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert killed == 2
    assert said.count("goes on after epoch") == 2, said
    assert records.load(folder / "model.safetensors")["key"]["fold"] == 0
    assert len(list(folder.glob("[!.]*"))) == 3


def workers_of(ancestor: int, name: str) -> list[int]:
    """Processes of that name below this one: other Ray workers run on this machine too."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = parent_of(path)
        except OSError:
            continue  # it has just ended

    def below(process: int) -> bool:
        return process == ancestor or (process in parents and below(parents[process]))

    return [process for process in parents if below(process) and title(process).startswith(name)]


def parent_of(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def title(process: int) -> str:
    try:
        return Path("/proc", str(process), "cmdline").read_text()
    except OSError:
        return ""


def trainer(experiment: str, fold: int, parent: bool) -> int:
    """Process that trains the fold of this test's experiment, or the Ray worker that started it.

    The whole path must match: other runs on this machine train folds of that number too.
    """
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text().split("\0")
            if words[1:6] == ["-m", "pipeline.train", experiment, "--fold", str(fold)]:
                worker = parent_of(path)
                assert title(worker).startswith("ray::"), title(worker)
                return worker if parent else int(path.name)
        except OSError:
            continue  # it has just ended
    raise AssertionError(f"nothing trains fold {fold} of {experiment}")
