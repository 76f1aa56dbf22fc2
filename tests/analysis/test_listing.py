"""`runs`: each run with its scores, cost and what makes it differ from its base."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.analysis.listing import Row, in_order, print_rows
from pipeline.base import records
from pipeline.kaggle.api.upload import COLUMNS
from pipeline.runs import told

Run = Callable[..., str]


def test_runs_are_listed_the_best_first(
    finished: Callable[..., str], run: Run, space: Path
) -> None:
    assert "no trained run" in run("runs", expect=2)
    for seed in (0, 1, 2):
        run("ensemble", f"{space}/{finished(f'r{seed}', seed=seed)}.yaml", "--no-report")
    run("ensemble", f"{space}/r0.yaml", f"{space}/r1.yaml:3", "--name", "both", "--no-report")
    values = {"base": str(space / "r0.yaml"), "train": {"lr": 0.5}, "predict": {"tta": "hflip"}}
    (space / "runs/r2/r2.yaml").write_text(yaml.safe_dump(values))
    model = space / "runs/r2/fold0/model.safetensors"
    key = records.load(model)["key"]
    records.commit(model, key | {"train": key["train"] | {"lr": 0.5}}, 0, competition="demo")
    scores = records.load(space / "runs/r1/test.npz")["scores"]["r1 none"]
    row = dict.fromkeys(COLUMNS, "") | {"name": "r1", "slug": "x", "status": "complete"}
    row["cv"] = f"{sum(scores['folds']) / 2:.5f}"
    lines = [row | {"ref": "1", "public": ".5"}, row | {"ref": "2", "public": ".625"}]
    lines.append(row | {"ref": "3", "public": ".75", "cv": "0.98765"})  # of another blend
    (space / "submissions").mkdir()
    pd.DataFrame(lines).to_csv(space / "submissions/ledger.csv", index=False)

    lines = json.loads(run("runs", "--json"))
    assert [line["name"] for line in lines if line["cv"] is None] == []
    assert sorted(line["name"] for line in lines) == ["both", "r0", "r1", "r2"]
    cv = [line["cv"] for line in lines]
    assert cv == sorted(cv, reverse=True) and len(set(cv)) > 1
    by_name = {line["name"]: line for line in lines}
    one, both, two = by_name["r1"], by_name["both"], by_name["r2"]
    assert (one["scores"], one["oof"]) == (scores["folds"], scores["all"])
    assert (one["public"], two["public"]) == (0.625, None)
    assert both["weights"] == {"r0": 0.25, "r1": 0.75} and both["what"] == "0.25 r0 + 0.75 r1"
    assert two["changes"] == ["train.lr: 0.001 → 0.5"], (
        "as trained, whatever the file says of views"
    )
    assert two["base"] == "r0" and one["base"] is None

    text = run("runs")
    names = [line.split()[0] for line in text.splitlines() if line[:1] in ("r", "b")]
    assert [name for name in names if name != "run"] == [line["name"] for line in lines]
    assert "demo, accuracy, 2 folds" in text and "0.6250" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "no run's name holds 'boht'; did you mean 'both'" in run("runs", "boht", expect=2)


def test_a_run_that_is_not_blended_and_one_that_is_damaged(
    finished: Callable[..., str], run: Run, space: Path
) -> None:
    finished("half")
    for fold, score in ((0, 0.5), (1, 0.75)):
        model = space / f"runs/half/fold{fold}/model.safetensors"
        key = records.load(model)["key"] | {"folds": "ab"}
        facts = {"competition": "demo", "metric": "log_loss", "scores": {"valid_score": score}}
        records.commit(model, key, 0, **facts)
    shutil.copytree(model.parent, space / "runs/half/fold1.bak")  # no fold
    run("ensemble", f"{space}/{finished('bad')}.yaml", "--no-report")
    (space / "runs/bad/test.npz.json").write_text("{")
    text = run("runs")
    assert "warning: left out: " in text and "demo, log_loss, fold 0, 1" in text
    assert "0.6250 ± 0.1768" in text and "plain" in text and "not blended" in text


def test_a_score_of_zero_is_a_score(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("a", ("demo", "x", ()), "r2", [0.1], 0.1, "none", 1, "2026-11-27", "?", hidden=0.0)
    print_rows([row])
    said = capsys.readouterr().out
    assert "hidden" in said and "0.0000" in said and "public" not in said


def test_a_fold_without_a_score_hides_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    one = row("a", "auc", 0.5)
    print_rows([replace(one, scores=[0.5, math.nan]), replace(one, name="b", scores=[0.5, 0.7])])
    said = capsys.readouterr().out
    assert "nan ± nan" in said and "0.6000 ± 0.1414" in said
    undefined = told(replace(one, scores=[0.5, math.nan]))
    assert (undefined["scores"], undefined["cv"]) == ([0.5, None], None), "as JSON has it"


def row(name: str, metric: str, score: float, competition: str = "demo") -> Row:
    split = (competition, "x", ())
    return Row(name, split, metric, [score], score, "none", 1, "2026-11-27", "?")


def test_scores_by_two_metrics_are_two_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([row("a", "rmse", 0.2), row("b", "mae", 0.1), row("c", "rmse", 0.3)])
    said = capsys.readouterr().out
    assert said.count("demo, rmse, 1 folds") == said.count("demo, mae, 1 folds") == 1


def test_of_an_own_metric_less_may_be_better(tmp_path: Path) -> None:
    lines = "@metric(lower_is_better=True)\ndef blunders(*_):\n    return 0.0\n"
    (tmp_path / "mine.py").write_text(f"from pipeline.plugins import metric\n\n{lines}")
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"metric": "blunders", "plugins": str(tmp_path / "mine.py")}))
    rows = [row("bad", "blunders", 0.9, str(own)), row("good", "blunders", 0.1, str(own))]
    assert [one.name for one in in_order(rows)] == ["good", "bad"]
    own.unlink()
    assert len(in_order(rows)) == 2, "whose competition is gone is listed"
