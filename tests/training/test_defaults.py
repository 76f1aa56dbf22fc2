"""The defaults, as a newcomer meets them: real weights, all blocks, closed form, two folds."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.base import records
from pipeline.demo import draw_competition
from pipeline.inference.predictions import Predictions

pytestmark = pytest.mark.precision
REPO = Path(__file__).parents[2]


def test_no_recipe_ends_below_its_start(run: Callable[..., str], space: Path) -> None:
    draw_competition(space / "data" / "small", train=320, test=8, species=8, size=64, workers=1)
    (space / "small.yaml").write_text("title: eight species\n")
    settings = {"competition": str(space / "small.yaml"), "folds": {"n": 2}}
    settings |= {"model": {"size": 64}, "train": {"epochs": 2, "batch_size": 16}}
    (space / "plain.yaml").write_text(yaml.safe_dump(settings))
    experiment = str(space / "plain.yaml")
    run("prepare", experiment)
    run("folds", experiment)
    for fold in ("0", "1"):
        run("train", experiment, "--fold", fold)
    logs = [pd.read_csv(space / f"runs/plain/fold{k}/log.csv", index_col="epoch") for k in (0, 1)]
    start, end = (sum(log.valid_loss[epoch] for log in logs) / 2 for epoch in (0, 2))
    assert end < start < 0.5, "of 2.08 for a guess"
    assert all(log.train_loss[2] < 0.95 * log.train_loss[1] for log in logs), "it does learn"
    run("predict", experiment)
    run("ensemble", experiment)
    scores = records.load(space / "runs/plain/test.npz")["scores"]["plain none"]
    assert scores["folds"] == pytest.approx([log.valid_score[2] for log in logs], abs=1e-4)
    assert scores["all"] > 0.8
    assert len(Predictions.load(space / "runs/plain/test.npz").image) == 8

    settings |= {"recipe": "long", "train": {"epochs": 4, "batch_size": 16}}
    (space / "long.yaml").write_text(yaml.safe_dump(settings))
    said = run("train", str(space / "long.yaml"), "--fold", "0")
    assert "4 epochs, 40 steps a fold\n" in said
    assert "warning: 40 steps teach a random head little: recipe: short keeps a fitted one" in said
    log = pd.read_csv(space / "runs/long/fold0/log.csv", index_col="epoch")
    assert log.valid_loss[1] > 1.5, "a random head"
    start, end = log.valid_score[0], log.valid_score[4]
    assert end > start - (start * (1 - start) / 160) ** 0.5, "a standard error"
    # how sure the last head is, 32 pictures choose: by roundings .13 to .21, before it .65 to .79
    assert log.valid_loss[4] < 0.5 * log.valid_loss[3] and log.valid_loss[0] < 0.6


def test_the_reference_pipeline_starts_an_absolute_interpreter(tmp_path: Path) -> None:
    """A relative one is lost to whatever runs in another folder; run.sh's default is .venv."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("run.sh", "requirements.txt"):
        (tmp_path / name).write_bytes((REPO / name).read_bytes())
    (tmp_path / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho "$0 $*"\n')
    digest = subprocess.run(
        ["sha256sum", REPO / "requirements.txt"], capture_output=True, text=True, check=True
    ).stdout[:16]
    (tmp_path / ".venv" / f"{digest}.installed").touch()
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "VENV"}
    said = subprocess.run(
        ["bash", "run.sh", "test", "-k", "one"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith(f"{tmp_path}/.venv/bin/python -m pytest")
