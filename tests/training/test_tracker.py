"""TensorBoard and W&B: each epoch's numbers once, a resumed fold in its own run, or one line."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.base.config import Experiment, Runtime
from pipeline.train import watch
from pipeline.training.tracker import Tracker


class Writer:
    """Stands in for W&B's run and for TensorBoard's writer."""

    def __init__(self, *where: str, **about: Any):
        self.where, self.about, self.rows, self.closed = where, about, [], 0

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.append((name, value, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1

    finish = close


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """Writers that fake packages have made."""
    found: list[Writer] = []

    def make(*where: str, **about: Any) -> Writer:
        found.append(Writer(*where, **about))
        return found[-1]

    for name, function in (("wandb", "init"), ("torch.utils.tensorboard", "SummaryWriter")):
        module = ModuleType(name)
        setattr(module, function, make)
        monkeypatch.setitem(sys.modules, name, module)
    return found


def settings(kind: str, **changes: Any) -> Experiment:
    return Experiment(name="exp", competition="demo", runtime=Runtime(tracker=kind), **changes)


def test_rows_go_once_and_none_of_before_a_resume(made: list[Writer], tmp_path: Any) -> None:
    log = [{"epoch": 0, "train_loss": None, "valid_score": 0.5}]
    tracker = Tracker(settings("wandb"), 1, tmp_path, log)
    tracker(False)
    log.append({"epoch": 1, "train_loss": 0.9, "valid_score": 0.7})
    tracker(False)
    log.append({"epoch": 2, "train_loss": None, "valid_score": 0.8})
    tracker(True)
    [run] = made
    assert run.rows == [
        {"epoch": 1, "train_loss": 0.9, "valid_score": 0.7},
        {"epoch": 2, "valid_score": 0.8},
    ]
    assert run.closed == 1
    assert run.about["project"] == "demo" and run.about["name"] == "exp fold 1"
    assert run.about["config"]["train"]["epochs"] == 5


def test_a_resumed_fold_is_the_same_run_and_others_are_not(
    made: list[Writer], tmp_path: Any
) -> None:
    for one, fold in (
        (settings("wandb"), 0),
        (settings("wandb"), 0),
        (settings("wandb"), 1),
        (settings("wandb", train={"epochs": 9}), 0),
    ):
        Tracker(one, fold, tmp_path, [])
    same, again, *others = [run.about["id"] for run in made]
    assert same == again and len({same, *others}) == 3


def test_tensorboard_is_given_each_number_with_its_epoch(made: list[Writer], tmp_path: Any) -> None:
    log: list[dict[str, float]] = []
    tracker = Tracker(settings("tensorboard"), 0, tmp_path, log)
    log.append({"epoch": 3, "valid_score": 0.7})
    tracker(True)
    assert made[0].where == (str(tmp_path),)
    assert made[0].rows == [("epoch", 3, 3), ("valid_score", 0.7, 3)]
    assert made[0].closed == 1


def test_a_tracker_that_cannot_begin_is_told_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**about: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=True))
    trainer = SimpleNamespace(settings=settings("wandb"), fold=0, log=[], metric="accuracy")
    watchers = watch(trainer, tmp_path / "exp" / "fold0")
    assert "warning: runtime.tracker: no network" in capsys.readouterr().err
    trainer.log.append({"epoch": 1, "valid_score": 0.7})
    watchers(True)
    assert not capsys.readouterr().err


def test_a_row_that_is_not_taken_is_told_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def log(row: dict[str, float]) -> None:
        raise ConnectionError("no network")

    made = SimpleNamespace(log=log, finish=lambda: None)
    fake = SimpleNamespace(init=lambda **about: made, __spec__=True)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    trainer = SimpleNamespace(settings=settings("wandb"), fold=0, log=[], metric="accuracy")
    watchers = watch(trainer, tmp_path / "exp" / "fold0")
    trainer.log.append({"epoch": 1, "valid_score": 0.7})
    watchers(True)
    assert "warning: Tracker: no network" in capsys.readouterr().err


def test_training_tells_its_tracker(
    made: list[Writer],
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = split(write(runtime={"tracker": "wandb"}))
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    text = run("train", experiment, "--fold", "0", expect=2)
    assert text.endswith("error: runtime.tracker: pip install wandb, or set it to none\n")
    monkeypatch.setitem(
        sys.modules,
        "wandb",
        SimpleNamespace(
            init=lambda **about: made.append(Writer(**about)) or made[-1], __spec__=True
        ),
    )
    run("train", experiment, "--fold", "0")
    assert [row["epoch"] for row in made[0].rows] == [1, 2]
    assert all(row["train_loss"] > 0 for row in made[0].rows)
