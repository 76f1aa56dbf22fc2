"""Curves while a run trains: of all folds, as often as drawing is cheap, and never in its way."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.figures import curves
from pipeline.figures.curves import LiveCurves, draw_curves, read_logs
from pipeline.training.log import COLUMNS


def log(run: Path, fold: int, *scores: float) -> None:
    rows = [
        dict.fromkeys(COLUMNS, 1.0) | {"epoch": epoch, "valid_score": score, "train_loss": None}
        for epoch, score in enumerate(scores)
    ]
    folder = run / f"fold{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "log.csv", index=False)


def test_every_fold_has_its_line_and_formulas_are_text(tmp_path: Path) -> None:
    log(tmp_path, 10, 0.5, 0.7)
    log(tmp_path, 2, 0.4, 0.6, 0.8)
    shutil.copytree(tmp_path / "fold2", tmp_path / "fold2.bak")  # no fold
    logs = read_logs(tmp_path)
    assert list(logs) == [2, 10]
    figure = draw_curves(logs, "cost $5^, accuracy")
    losses, scores = figure.axes
    assert [list(line.get_ydata()) for line in scores.lines] == [[0.4, 0.6, 0.8], [0.5, 0.7]]
    assert [text.get_text() for text in scores.get_legend().texts] == [
        "fold 2: 0.8000",
        "fold 10: 0.7000",
    ]
    assert len(losses.lines) == 4
    assert scores.get_title(loc="left") == "cost $5^, accuracy 0.7500 ± 0.0707"
    figure.canvas.draw()


def test_drawing_takes_a_share_of_the_time_and_the_last_epoch_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, drawn = [100.0], []

    def slow(logs: dict[int, pd.DataFrame], title: str) -> object:
        clock[0] += 2  # seconds: of which it may take a twentieth
        drawn.append(clock[0])
        return draw_curves(logs, title)

    monkeypatch.setattr(curves.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(curves, "draw_curves", slow)
    log(tmp_path, 0, 0.5)
    watch = LiveCurves(tmp_path, "accuracy")
    for _ in range(10):
        watch(False)
        clock[0] += 10
    assert drawn == [102, 144, 186]
    watch(True)
    assert len(drawn) == 4
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_training_draws_and_outlives_what_cannot_be_drawn(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = split(write())
    run("train", experiment, "--fold", "0")
    picture = space / "runs/tiny/curves.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    monkeypatch.setattr(curves, "draw_curves", None)
    text = run("train", experiment, "--fold", "1")
    assert text.count("warning: LiveCurves: 'NoneType' object is not callable") == 2
    assert "fold 1  epoch 2/2" in text and not picture.exists()
