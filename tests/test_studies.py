"""Several pictures of one id: one fold, one answer, the mean over them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_forms import tiny_form

from pipeline.analysis.doubt import committee_of
from pipeline.analysis.evidence import load_evidence
from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import load_experiment
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import load_folds
from pipeline.data.studies import by_id
from pipeline.data.tables import read_rows, read_split
from pipeline.ensemble import print_scores
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.bundle.rehearsal import hide
from pipeline.kaggle.notebook.manifest import Manifest
from pipeline.kaggle.notebook.submit_session import Submission, complete_sample
from pipeline.pages.album import Album, tiled
from pipeline.pages.compose import write_report

PROB = np.array([[0.2, 0.8], [1, 0], [0.6, 0.4]])


def odds_mean(*p: float) -> float:
    q = np.mean([np.log(x / (1 - x)) for x in p])
    return float(1 / (1 + np.exp(-q)))


@pytest.mark.parametrize(
    ("task", "how", "first"),
    [
        ("binary", "mean", [0.4, 0.6]),
        ("binary", "logits", [odds_mean(0.2, 0.6), odds_mean(0.8, 0.4)]),
        ("binary", "max", [0.2, 0.8]),
        ("multi-label", "logits", [odds_mean(0.2, 0.6), odds_mean(0.8, 0.4)]),
        ("multi-label", "max", [0.6, 0.8]),
        ("regression", "max", [0.6, 0.8]),
    ],
)
def test_an_id_is_answered_by_its_pictures(task: str, how: str, first: list[float]) -> None:
    rules = Competition(task=task, picture="p", of_pictures=how)
    names, prob = by_id(["b", "a", "b"], PROB, rules)
    assert names == ["b", "a"] and prob.dtype == np.float32
    np.testing.assert_allclose(prob, [first, [1, 0]], atol=1e-6)


def test_what_cannot_be_asked_of_pictures() -> None:
    for settings, said in (
        ({"of_pictures": "logits"}, "of_pictures: logits needs picture:"),
        ({"of_pictures": "max", "picture": "p"}, "max is not for task: classes"),
        ({"of_pictures": "logits", "picture": "p", "task": "ordinal"}, "not for task: ordinal"),
    ):
        with pytest.raises(ValueError, match=said):
            Competition(**settings)


def test_an_id_has_one_label(tmp_path: Path) -> None:
    rules = Competition(**tiny_form("studies", tmp_path))
    rows = read_rows(rules, tmp_path)
    assert rows.id[0] == "p0/000" and rows.study[0] == rows.study[1] == "p0"
    table = pd.read_csv(tmp_path / "train.csv")
    table.loc[1, "has_cactus"] = 1 - table.has_cactus[0]
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(UserError, match=r"line 3: label '\d', and '\d' of another picture of this"):
        read_rows(rules, tmp_path)


def test_a_split_of_others_has_a_row_for_each_id(
    space: Path, run: Callable[..., str], write: Callable[..., str]
) -> None:
    folder, host = space / "data" / "studies", space / "host.csv"
    (space / "studies.yaml").write_text(yaml.safe_dump(tiny_form("studies", folder)))
    one = write(competition=str(space / "studies.yaml"))
    run("prepare", one)
    ids = pd.read_csv(folder / "train.csv").drop_duplicates("patient").sort_values("has_cactus")
    given = pd.DataFrame({"patient": ids.patient, "fold": np.arange(len(ids)) % 2})
    given[1:].to_csv(host, index=False)
    said = run("folds", one, "--from", str(host), expect=2)
    assert f"no fold for 2 images, first '{given.patient.iloc[0]}/0" in said
    given.to_csv(host, index=False)
    run("folds", one, "--from", str(host))
    table, fold = load_folds(load_experiment(one)), given.set_index("patient").fold
    assert len(table) == 40 and list(table.fold) == list(fold[table.image.str.split("/").str[0]])


def test_training_tells_the_score_of_the_blend(
    space: Path, run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str]
) -> None:
    settings = tiny_form("studies", space / "data" / "studies") | {"metric": "log_loss"}
    (space / "studies.yaml").write_text(yaml.safe_dump(settings))
    one = split(write(competition=str(space / "studies.yaml"), train={"epochs": 1}))
    for stage in ("train", "predict", "ensemble"):
        run(stage, one, "--fold", "0")
    record = records.load(space / "runs/tiny/fold0/model.safetensors")
    told, pictures = record["scores"], record["images"]["valid"]
    scored_ids = Predictions.load(space / "runs/tiny-fold0/oof.npz").image
    assert record["ids"] == len(scored_ids) < pictures
    [scored] = records.load(space / "runs/tiny-fold0/test.npz")["scores"]["tiny none"]["folds"]
    assert told["valid_score"] == told["valid_loss"] == pytest.approx(scored, abs=1e-4)


def test_what_decisions_leave_alone_are_ids(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"folds": [0.5], "all": 0.5, "untouched": 0.5, "rows": {"all": 4, "untouched": 3}}
    key = {"labels": "1 changed, 0 left out (abc)", "picture": "id"}
    print_scores({"metric": "auc", "scores": {"tiny none": scores}, "key": key})
    assert "labels: 1 changed, 0 left out; untouched: the other 3 ids\n" in capsys.readouterr().out


def test_folds_blend_and_notebook_go_by_the_id(
    space: Path, finished: Callable[..., str], run: Callable[..., str], write: Callable[..., str]
) -> None:
    folder = space / "data" / "studies"
    settings = tiny_form("studies", folder) | {"of_pictures": "max"}
    (space / "studies.yaml").write_text(yaml.safe_dump(settings))
    name = finished(competition=str(space / "studies.yaml"))
    settings = load_experiment(str(space / "tiny.yaml"))
    table, rows = load_folds(settings), load_prepared(settings).rows
    study = rows.set_index("id").study
    assert table.groupby(table.image.map(study)).fold.nunique().max() == 1
    run("ensemble", str(space / "tiny.yaml"))
    blend = Predictions.load(space / "runs" / name / "test.npz")
    parts = [Predictions.load(space / f"runs/{name}/fold{k}/test.none.npz") for k in (0, 1)]
    names = study[parts[0].image].to_numpy()
    each = [pd.Series(part.prob[:, 1]).groupby(names).max() for part in parts]
    want = pd.DataFrame({0: 1 - sum(each) / 2, 1: sum(each) / 2})
    np.testing.assert_allclose(blend.prob, want.loc[blend.image], atol=1e-6)
    oof = Predictions.load(space / "runs" / name / "oof.npz")
    assert len(oof.image) == 20 and set(oof.image) == set(study[table.image])
    run("submit", name)
    sent = pd.read_csv(space / "submissions" / "tiny.csv").set_index("patient").has_cactus
    np.testing.assert_allclose(sent[blend.image], blend.prob[:, 1], atol=1e-6)
    known = load_evidence(name)
    np.testing.assert_allclose(
        known.members[name], oof.aligned(list(known.table.image), ["0", "1"])
    )
    assert [list(rows.id[known.pictures[row]]) for row in known.table.row[:2]] == [
        list(rows.id[rows.study == some]) for some in known.table.image[:2]
    ]
    np.testing.assert_allclose(
        np.mean(list(committee_of(known)), axis=0), known.test_prob, atol=1e-6
    )
    scores = records.load(space / "runs" / name / "test.npz")["scores"]["tiny none"]
    assert set(scores) == {"folds", "all", "rows"}, "pictures of an id are no twins"
    page = write_report(name, full=False).read_text()
    assert 'id="twins"' not in page
    assert f"{(~known.right).sum()} of 20 held-out ids are called wrong, of 2 classes." in page
    album = Album(known.prepared, known.pictures)
    row = int(known.table.row[0])
    two = known.pictures[row]
    assert (album.best(row)[:288, 288:] == tiled(album.pixels, two[1:], 1, 288)).all()
    rules = load_competition(str(space / "studies.yaml"))
    ours = hide(folder, rules, space / "hidden", 4)
    test = read_split(rules, space / "hidden", "test")
    sample = pd.read_csv(space / "hidden" / "sample_submission.csv", dtype=str)
    sample = complete_sample(sample, test, "patient")
    answers = Submission(rules, folder, space, test, sample, space / "s.csv")
    known = Manifest.model_construct(classes=blend.classes, prior=[0.5, 0.5], decision=None)
    pictures = [ours[s] + i.removeprefix(s) for s, i in zip(test.study, test.id, strict=True)]
    every = np.arange(len(test))
    of_ours = [dict(zip(part.image, part.prob, strict=True)) for part in parts]
    seen = (np.array([of[picture] for picture in pictures]) for of in of_ours)
    answers.write(known, every, np.mean([answers.of_ids(every, prob) for prob in seen], axis=0))
    got = pd.read_csv(space / "s.csv").set_index("patient").has_cactus
    np.testing.assert_allclose(got[list(ours.index)], sent[list(ours)], atol=1e-6)
