"""bench: it measures the real pieces, training goes by it, and plans add up."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import bench
from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import load_experiment
from pipeline.base.device import tune_path
from pipeline.bench import parse_duration
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import load_folds
from pipeline.tuning import machine, search
from pipeline.tuning.budget import cuts, plan

CARD = {
    "machine": {"cpu": "any", "cores": 2, "gpus": [], "torch": "2"},
    "flops": {"cpu": {"fp32": 6e10}},
    "memory": {"cpu": 1.4e10},
}


def test_the_real_pieces_are_measured_and_training_goes_by_what_was_chosen(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "SECONDS", 0.05)
    monkeypatch.setattr(machine, "measure_machine", lambda runtime: CARD)
    assert "60 GFLOP/s" in run("bench")
    experiment = split(write(predict={"tta": "hflip"}, train={"epochs": 1}))
    said = run("bench", experiment, "--budget", "0.01s")
    assert "-bound: the loader alone gives" in said
    assert "does NOT fit into 0.0 s" in said
    path = tune_path(load_experiment(experiment))
    found = json.loads(path.read_text())
    assert set(found["runtime"]) == {"precision", "channels_last", "workers", "predict_batch"}
    assert all(rate > 0 for rate in found["rates"].values())
    assert found["head"] == 0, "it starts at random"
    with Image.open(path.with_name("card.png")) as picture:
        assert picture.size == (900, 640)
    assert not (space / "runs" / "tiny").exists(), "it trains nothing that stays"

    found["runtime"] = {"predict_batch": 7, "channels_last": False}
    path.write_text(json.dumps(found))
    run("train", experiment, "--fold", "0")
    record = records.load(space / "runs" / "tiny" / "fold0" / "model.safetensors")
    assert record["runtime"]["predict_batch"] == 7
    assert record["runtime"]["channels_last"] is False
    path.unlink()
    assert "up to date" in run("train", experiment, "--fold", "0"), "no choice is in the key"


def test_the_card_is_drawn_where_a_training_ran_out_of_memory(tmp_path: Path) -> None:
    for name, found in {"card": CARD, "parts-0a1b": {"parts": 2}}.items():
        records.write_json(tmp_path / f"{name}.json", found)
    bench.draw_card(tmp_path)
    assert (tmp_path / "card.png").is_file()


def test_memory_that_a_trial_lacks_tells_nothing_of_training(
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_experiment(split(write()))
    one = bench.build(settings, load_prepared(settings), load_folds(settings), settings.runtime)
    batch, real = next(iter(one.loader)), one.model.forward

    def forward(images: torch.Tensor) -> torch.Tensor:
        if len(images) == len(batch[0]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(images)

    monkeypatch.setattr(one.model, "forward", forward)
    one.step([batch], len(batch[0]))
    assert one.parts.n == 2 and not list((space / "runs").rglob("parts-*"))


def test_plan_adds_up(write: Callable[..., str], split: Callable[[str], str], space: Path) -> None:
    changes = {"model": {"features": "blocks", "head_init": "lda"}, "augment": "d4"}
    settings = load_experiment(split(write(**changes, train={"epochs": 3})))
    prepared, table = load_prepared(settings), load_folds(settings)
    rates = {"forward": 10.0, "both": 5.0, "tta": 2.0}
    found = {"rates": rates, "start": 4.0, "head": 7.0, "pictures": 45}  # 15 are external
    larger = 1.125**2  # what is seen once the head is fitted at its end
    seconds = plan(settings, prepared, table, found)
    assert len(table) == 60
    assert seconds == pytest.approx(
        {
            "start of the folds": 2 * 4,
            # four turns of all, once, and of each fold's own at the end; and two closed forms
            "head": 60 * 4 / 10 + larger * 2 * 30 * 4 / 10 + 2 * 7,
            "training": 2 * 3 * 45 / 5,
            "validation": 2 * 3 * 30 / 10,
            "predict oof": larger * 60 / 2,
            "predict test": larger * 2 * 12 / 2,
        }
    )
    runtime = settings.runtime.model_copy(update={"processes": 2})
    both = settings.model_copy(update={"runtime": runtime})
    halved = plan(both, prepared, table, found)
    assert halved["training"] == seconds["training"] / 2, "two folds at a time"
    assert halved["predict oof"] == seconds["predict oof"] / 2
    still = settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": 0})})
    untrained = plan(still, prepared, table, found)
    assert untrained["predict test"] == 12 / 2, "one pass for both folds"


def test_a_plan_knows_of_how_many_pictures_no_kernel_is_made(write: Callable[..., str]) -> None:
    """Of more than 16,384 none is: nothing is fitted at the end, nor seen larger from then on."""
    model = {"features": "blocks", "head_init": "lda", "kernel": True}
    settings = load_experiment(write(model=model, augment=[], train={"epochs": 3}))
    rates, found = (
        {"forward": 10.0, "both": 5.0, "tta": 2.0},
        {"start": 4.0, "head": 7.0, "pictures": 9},
    )
    for n, again in ((32_768, 1), (32_770, 0)):
        table = pd.DataFrame({"fold": np.arange(n) % 2})
        prepared = SimpleNamespace(rows=pd.DataFrame({"split": ["train"] * n + ["test"] * 10}))
        seconds = plan(settings, prepared, table, {"rates": rates, **found})
        larger = 1.125**2 if again else 1
        assert seconds["head"] == pytest.approx(2000 + larger * again * 2000 + 2 * 7)
        assert seconds["predict oof"] == pytest.approx(larger * n / 2)


SECONDS = {"training": 800.0, "validation": 200.0, "predict oof": 80.0, "predict test": 160.0}


@pytest.mark.parametrize(
    ("budget", "named"),
    [(1240, []), (1100, ["tta"]), (900, ["tta", "epochs: 8"]), (50, ["tta", "epochs: 1", "size"])],
)
def test_cuts_stop_where_the_rest_fits(
    write: Callable[..., str], budget: float, named: list[str]
) -> None:
    """Ten epochs of 100 s; predictions of 8 views take 240 s, of two 60 s."""
    settings = load_experiment(write(predict={"tta": "d4"}, train={"epochs": 10}))
    told = cuts(settings, SECONDS, budget)
    assert len(told) == len(named)
    assert all(name in text for name, text in zip(named, told, strict=True))


def test_durations() -> None:
    assert parse_duration("9h") == 32400
    assert parse_duration("1.5m") == 90
    for text in ("9", "h", "-1h", "0s", "9 h", "9d"):
        with pytest.raises(UserError, match="write 9h, 45m or 90s"):
            parse_duration(text)


def test_a_budget_is_for_an_experiment(run: Callable[..., str]) -> None:
    assert "needs the EXPERIMENT" in run("bench", "--budget", "9h", expect=2)


def test_a_busy_machine_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for load, told in ((0.1, ""), (8.0, "too low")):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0, 0))
        bench.warn_if_busy()
        assert told in capsys.readouterr().err
