"""What bench chooses: the faster of what it measured, in time, and never over the user's word."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.base.cli import UserError
from pipeline.base.config import Experiment, Runtime, Train
from pipeline.base.device import tune_path, tuned
from pipeline.model.build import to_device
from pipeline.tuning.budget import cuts
from pipeline.tuning.search import Choices, Measured, images_per_s, search

EXPERIMENT = Experiment(competition="demo", model={"backbone": "test_resnet", "size": 32})
STEP = {
    "no": 100.0,
    "bf16": 180.0,
    "fp16": 120.0,
}  # images/s by precision, and with channels_last below
BOTH = {0: 150.0, 1: 154.0, 2: 175.0, 4: 170.0, 8: 160.0}
FORWARD = {64: 400.0, 128: 500.0, 256: 501.0, 512: 502.0}
DEVICE = {"type": torch.device("cpu")}  # of the invented Trainers


def with_runtime(**runtime: Any) -> Experiment:
    return EXPERIMENT.model_copy(update={"runtime": Runtime(**runtime)})


class Invented(SimpleNamespace):
    """A Trainer, which also refers to itself."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measured]:
    """A finished search whose Trainers and rates are invented; they are built one by one."""
    built: list[weakref.ref] = []

    def build(runtime: Runtime) -> Invented:
        assert not any(trainer() for trainer in built), "another one still holds its memory"
        precision = "no" if runtime.precision == "auto" else runtime.precision
        trainer = Invented(
            settings=SimpleNamespace(train=Train(batch_size=64), runtime=runtime),
            accelerator=SimpleNamespace(device=DEVICE["type"], mixed_precision=precision),
            steps=1000,
            loader=[(torch.zeros(64), torch.zeros(64))],
            step=None,
        )
        trainer.itself = trainer
        built.append(weakref.ref(trainer))
        return trainer

    def step_rate(trainer: Any, *_: Any) -> float:
        factor = 1.0 if trainer.settings.runtime.channels_last else 0.9
        factor *= 1.3 if trainer.settings.runtime.compile else 1.0
        return factor * STEP[trainer.accelerator.mixed_precision]

    def load_rate(trainer: Any, size: int, count: int, use: Any) -> float:
        return BOTH[count] if use is trainer.step else 900.0

    monkeypatch.setattr("pipeline.tuning.search.step_rate", step_rate)
    monkeypatch.setattr("pipeline.tuning.search.load_rate", load_rate)
    monkeypatch.setattr(
        "pipeline.tuning.search.forward_rate",
        lambda _, batch, *tta: FORWARD[batch] / (1 + len(tta)),
    )
    monkeypatch.setattr("pipeline.tuning.search.cores", lambda: 4)

    return lambda **runtime: search(with_runtime(**runtime), build)


def test_the_faster_is_chosen_and_a_small_gain_is_not(measured: Callable[..., Measured]) -> None:
    found = measured()
    assert found.choices.chosen == {
        "precision": "bf16",
        "channels_last": True,
        "workers": 2,
        "predict_batch": 64,
    }
    assert found.rates == {
        "model": 180.0,
        "both": 175.0,
        "loader": 900.0,
        "forward": 400.0,
        "tta": 400.0 / 3,
    }
    assert ("workers", 1, 154.0) in found.choices.tried, "3 % over the default are noise"
    assert found.trainer.settings.runtime.precision == "bf16", "the rest is measured with it"
    assert not any(name == "compile" for name, *_ in found.choices.tried), "for GPUs"


def test_a_machine_that_speeds_up_makes_no_choice_better() -> None:
    choices, rates = Choices(Runtime()), iter([100.0, 150.0, 145.0])
    assert choices.choose("workers", 0, [2], lambda _: next(rates)) == 100.0
    assert choices.chosen == {"workers": 0}


def test_what_the_experiment_says_is_not_tried(measured: Callable[..., Measured]) -> None:
    found = measured(precision="no", workers=1, channels_last=False)
    assert found.choices.chosen["channels_last"] is False
    assert found.rates["model"] == 90.0
    assert found.choices.chosen["precision"] == "no"
    assert found.choices.chosen["workers"] == 1
    assert [
        value for name, value, _ in found.choices.tried if name in ("precision", "workers")
    ] == [
        "no",
        1,
    ]


def test_without_time_the_defaults_stay(
    measured: Callable[..., Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tuning.search.LIMIT", -1.0)
    found = measured()
    assert (found.choices.chosen["precision"], found.choices.chosen["workers"]) == ("no", 0)
    assert ("precision", "bf16", None) in found.choices.tried


def test_a_cpu_keeps_its_batch(measured: Callable[..., Measured]) -> None:
    found = measured()
    assert [value for name, value, _ in found.choices.tried if name == "predict_batch"] == [64]


def test_a_batch_without_room_is_not_chosen(
    measured: Callable[..., Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward_rate(_: Any, batch: int, *tta: Any) -> float:
        if batch > 128:
            raise torch.OutOfMemoryError
        return FORWARD[batch]

    monkeypatch.setitem(DEVICE, "type", torch.device("cuda"))
    monkeypatch.setattr("pipeline.tuning.search.forward_rate", forward_rate)
    found = measured(workers=2)
    assert found.choices.chosen["predict_batch"] == 128
    assert found.choices.tried[-1] == ("predict_batch", 256, 0.0)


@pytest.mark.parametrize(("compiles", "compiled"), [(700.0, False), (600.0, True)])
def test_a_gpu_has_more_choices_and_compiles_where_training_is_long(
    measured: Callable[..., Measured],
    monkeypatch: pytest.MonkeyPatch,
    compiles: float,
    compiled: bool,
) -> None:
    """A fold of 1000 steps of 64 images takes 640 s at 100 images/s."""
    monkeypatch.setitem(DEVICE, "type", torch.device("cuda"))
    monkeypatch.setattr("pipeline.tuning.search.COMPILES", compiles)
    found = measured(workers=2)
    assert ("precision", "fp16", 120.0) in found.choices.tried
    assert found.choices.chosen.get("compile", False) is compiled
    assert found.choices.chosen["predict_batch"] == 128


def test_images_per_s_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 12.0, 12.0])  # after the warm-up, after each group, at the end
    monkeypatch.setattr("pipeline.tuning.search.time.monotonic", lambda: next(clock))
    group, seen = [(torch.zeros(6), torch.zeros(6))], []
    rate = images_per_s([group] * 9, lambda _, n: seen.append(n), 1.5, torch.device("cpu"))
    assert rate == 12 / 2
    assert seen == [6, 6, 6], "one to warm up, two within the time"


def test_tuned_takes_what_bench_wrote_and_the_experiment_wins(space: Path) -> None:
    path = tune_path(EXPERIMENT)
    assert tuned(EXPERIMENT) == EXPERIMENT, "nothing was measured"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"runtime": {"precision": "bf16", "predict_batch": 256}}))
    chosen = tuned(with_runtime(predict_batch=8))
    assert (chosen.runtime.precision, chosen.runtime.predict_batch) == ("bf16", 8)
    assert chosen.key() == EXPERIMENT.key()
    assert tuned(with_runtime(tune="off")).runtime.precision == "auto"
    other = EXPERIMENT.model.model_copy(update={"size": 64})
    assert tuned(EXPERIMENT.model_copy(update={"model": other})).runtime == Runtime()
    for text in ("{", "{}", '{"runtime": {"precision": "fp8"}}', '{"runtime": 3}'):
        path.write_text(text)
        with pytest.raises(UserError, match="run bench again"):
            tuned(EXPERIMENT)


def test_memory_format_changes_no_result() -> None:
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    images, given = torch.rand(2, 8, 8, 3).permute(0, 3, 1, 2), []
    before = model(images)
    to_device(model, Runtime(channels_last=False), 8, torch.device("cpu"))
    model.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    torch.testing.assert_close(model(images), before)
    assert given[0].is_contiguous()
    assert model.weight.is_contiguous()


@pytest.mark.parametrize(("budget", "said"), [(600.0, True), (1200.0, False)])
def test_a_cut_that_changes_the_recipe_says_so(budget: float, said: bool) -> None:
    settings = EXPERIMENT.model_copy(update={"recipe": "long", "train": Train(epochs=15)})
    seconds = {"training": 1500.0, "validation": 0.0, "predict oof": 1.0, "predict test": 1.0}
    text = cuts(settings, seconds, budget)[0]
    assert text.startswith("train.epochs: ")
    assert ("recipe short" in text) == said
