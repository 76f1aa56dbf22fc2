"""A recorded step is played back where it is the same step. What records is invented: no GPU."""

import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.base.records import load
from pipeline.base.runs import model_path
from pipeline.training import graph
from pipeline.training.graph import Graph

MODEL = {"weights": "first.safetensors", "batchnorm": "frozen"}
NECK = """
from pipeline.plugins import head
from torch import nn

@head
def neck(width, classes):
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*pooled, nn.BatchNorm1d(width), nn.Linear(width, classes))
"""
STEEP = """
from pipeline.plugins import loss
from torch.nn import functional as F

@loss
def steep(logits, target):
    return 1000 * F.cross_entropy(logits, target, reduction="none")
"""


class Recorder:
    """Stands for torch.cuda.make_graphed_callables: takes pictures of one shape, times `factor`."""

    def __init__(self, factor: float | None):
        self.factor, self.recorded, self.played, self.constants = factor, [], [], []

    def __call__(self, step: Callable, given: tuple[torch.Tensor], **_: Any) -> Callable:
        if self.factor is None:
            raise RuntimeError("operation not permitted when stream is capturing")
        [shape] = {images.shape for images in given}
        self.recorded.append(len(given[0]))
        with torch.enable_grad():  # it is tried, which moves BatchNorm's statistics
            step(given[0])
        norms = [m for m in step.modules() if vars(m).get("statistics")]
        read = [weakref.ref(norm.statistics[3][0]) for norm in norms]
        self.constants += read

        def play(images: torch.Tensor) -> torch.Tensor:
            assert images.shape == shape
            assert all(one() is not None for one in read), "a graph would read freed memory"
            self.played.append(len(images))
            return step(images) * self.factor

        return play


@pytest.fixture
def trained(
    write: Callable[..., str],
    split: Callable[[str], str],
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    space: Path,
) -> Callable[..., tuple[Recorder, str, list[float]]]:
    """Train fold 0 with a recorder: it, what was printed, and the losses of the last epoch."""

    torch.manual_seed(0)  # of first weights by chance, another in each order of the tests
    save_file(timm.create_model("test_resnet").state_dict(), space / MODEL["weights"])
    split(write())

    def train(name: str, factor: float | None = 1.0, **changes: Any) -> tuple[Recorder, str, list]:
        recorder = Recorder(factor)
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
        monkeypatch.setattr(graph, "is_on_gpu", lambda trainer: True)
        monkeypatch.chdir(space)
        changes = {"model": MODEL, "train": {"epochs": 1}} | changes
        text = run("train", write(name, **changes), "--fold", "0")
        scores = load(model_path(name, 0))["scores"]
        return recorder, text, [scores["train_loss"], scores["valid_loss"]]

    return train


def batch_sizes(name: str, batch: int = 8) -> list[int]:
    n = load(model_path(name, 0))["images"]["train"]
    return [len(part) for part in np.array_split(np.arange(n), round(n / batch))]


def test_a_recorded_step_is_the_same_step(trained: Callable) -> None:
    epochs = {"train": {"epochs": 2}}
    none, _, eager = trained("eager", **epochs, runtime={"graph": False})
    recorder, text, losses = trained("played", **epochs, runtime={"graph": True})
    sizes = batch_sizes("eager")
    assert len(set(sizes)) == 2, "the smaller ones are filled up"
    assert not none.recorded
    assert recorder.recorded == [max(sizes)] and recorder.constants
    assert recorder.played == [max(sizes)] * (2 * len(sizes) + 1), "and once to compare gradients"
    assert losses == pytest.approx(eager, rel=1e-5)
    assert "runtime.graph" not in text


def test_another_step_is_not_played_back(trained: Callable) -> None:
    # what is dropped is drawn as it would have been
    changes = {"model": MODEL | {"drop_rate": 0.3}, "train": {"epochs": 2}}
    *_, eager = trained("eager", **changes)
    for factor, said in {
        1.5: "its gradients differ by 50%",
        None: "operation not permitted when stream is",
    }.items():
        changes["runtime"] = {"graph": True}
        recorder, text, losses = trained(f"times-{factor}", factor, **changes)
        assert f"runtime.graph: {said}" in text
        assert text.count("not played back") == 1, "nor tried in each epoch"
        assert len(recorder.played) == (1 if factor else 0)
        assert losses == eager, "and being tried it has moved nothing"


def test_a_recording_that_fails_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    back = []
    numbers = SimpleNamespace(clone_state=lambda: "numbers", graphsafe_set_state=back.append)
    monkeypatch.setattr(graph, "gpus_in_use", lambda: [0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda gpu: f"stream of {gpu}")
    monkeypatch.setattr(torch.cuda, "default_generators", (numbers,))
    monkeypatch.setattr(torch.cuda, "set_stream", back.append)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", Recorder(None))
    accelerator = SimpleNamespace(mixed_precision="no")
    trainer = SimpleNamespace(bare_model=torch.nn.Flatten(), accelerator=accelerator)
    with pytest.raises(RuntimeError, match="not permitted"):
        Graph.recorded(SimpleNamespace(trainer=trainer), torch.zeros(1))
    assert back == ["stream of 0", "numbers"]


@pytest.mark.parametrize("own", [{"batchnorm": "train"}, {"classifier": "neck"}])
def test_statistics_that_train_are_of_the_pictures_alone(
    trained: Callable, own: dict[str, str], space: Path
) -> None:
    (space / "mine.py").write_text(NECK)
    changes = {"model": MODEL | own, "plugins": "mine.py"}
    *_, eager = trained("eager", **changes)
    recorder, _, losses = trained("played", **changes, runtime={"graph": True})
    sizes = batch_sizes("eager")
    assert len(recorder.played) == 1 + sizes.count(max(sizes))
    assert losses == pytest.approx(eager, rel=1e-5)


def test_layers_that_begin_to_train_are_recorded_anew(trained: Callable) -> None:
    model = MODEL | {"freeze": "backbone", "freeze_epochs": 1}
    changes = {"model": model, "train": {"epochs": 2}}
    *_, eager = trained("eager", **changes)
    recorder, _, losses = trained("played", **changes, runtime={"graph": True})
    assert recorder.recorded == [max(batch_sizes("eager"))] * 2
    assert losses == pytest.approx(eager, rel=1e-5)


def test_gradients_of_the_last_step_are_not_compared(trained: Callable, space: Path) -> None:
    """They are 1,000 times those of the step that is tried."""
    (space / "mine.py").write_text(STEEP)
    model = MODEL | {"freeze": "backbone", "freeze_epochs": 1}
    train = {"epochs": 2, "loss": "steep", "lr": 1e-6}
    changes = {"model": model, "plugins": "mine.py", "train": train}
    recorder, text, _ = trained("steep", **changes, runtime={"graph": True})
    assert len(recorder.recorded) == 2
    assert "runtime.graph" not in text


@pytest.mark.parametrize("changes", [{"train": {"epochs": 1, "accumulate": 2}}, {"parts": 2}])
def test_steps_of_parts_are_not_recorded(
    trained: Callable, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if parts := changes.pop("parts", 0):
        monkeypatch.setattr("pipeline.training.trainer.Parts", lambda settings: Fixed(parts))
    recorder, text, _ = trained("parts", **changes, runtime={"graph": True})
    assert not recorder.recorded
    assert "runtime.graph" not in text


class Fixed:
    def __init__(self, n: int):
        self.n = n

    def begin_epoch(self, model: torch.nn.Module) -> None:
        pass

    def of(self, images: int) -> int:
        return self.n

    def until_it_fits(self, work: Callable, images: int, label: str) -> torch.Tensor:
        return work()
