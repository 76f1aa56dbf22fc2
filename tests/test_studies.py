"""Several pictures of one id: one fold, one answer, the mean over them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_forms import tiny_form

from pipeline.analysis.evidence import load_evidence
from pipeline.analysis.suspects import committee_of
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import load_experiment
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import load_folds
from pipeline.data.studies import mean_by
from pipeline.data.tables import read_rows, read_test
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.bundle.rehearsal import hide
from pipeline.kaggle.notebook.manifest import Manifest
from pipeline.kaggle.notebook.submit_session import Submission, complete_sample
from pipeline.pages.album import Album, tiled
from pipeline.pages.compose import write_report


def test_a_name_has_the_mean_of_its_rows() -> None:
    names, prob = mean_by(["b", "a", "b"], np.array([[0.2, 0.8], [1, 0], [0.6, 0.4]]))
    assert names == ["b", "a"]
    np.testing.assert_allclose(prob, [[0.4, 0.6], [1, 0]])


def test_an_id_has_one_label(tmp_path: Path) -> None:
    rules = Competition(**tiny_form("studies", tmp_path))
    rows = read_rows(rules, tmp_path)
    assert rows.id[0] == "p0/000" and rows.study[0] == rows.study[1] == "p0"
    table = pd.read_csv(tmp_path / "train.csv")
    table.loc[1, "has_cactus"] = 1 - table.has_cactus[0]
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(UserError, match=r"line 3: label '\d', and '\d' of another picture of this"):
        read_rows(rules, tmp_path)


def test_folds_blend_and_notebook_go_by_the_id(
    space: Path, finished: Callable[..., str], run: Callable[..., str], write: Callable[..., str]
) -> None:
    folder = space / "data" / "studies"
    (space / "studies.yaml").write_text(yaml.safe_dump(tiny_form("studies", folder)))
    name = finished(competition=str(space / "studies.yaml"))
    settings = load_experiment(str(space / "tiny.yaml"))
    table, rows = load_folds(settings), load_prepared(settings).rows
    study = rows.set_index("id").study
    assert table.groupby(table.image.map(study)).fold.nunique().max() == 1
    run("ensemble", str(space / "tiny.yaml"))
    blend = Predictions.load(space / "runs" / name / "test.npz")
    parts = [Predictions.load(space / f"runs/{name}/fold{k}/test.none.npz") for k in (0, 1)]
    mean = (parts[0].prob + parts[1].prob) / 2
    want = pd.DataFrame(mean).groupby(study[parts[0].image].to_numpy()).mean()
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
    np.testing.assert_allclose(np.mean(committee_of(known), axis=0), known.test_prob, atol=1e-6)
    page = write_report(name, full=False).read_text()
    assert f"{(~known.right).sum()} of 20 held-out ids are called wrong, of 2 classes." in page
    album = Album(known.prepared, known.pictures)
    row = int(known.table.row[0])
    two = known.pictures[row]
    assert (album.best(row)[:144, 144:] == tiled(album.pixels, two[1:], 1, 144)).all()
    rules = load_competition(str(space / "studies.yaml"))
    ours = hide(folder, rules, space / "hidden", 4)
    test = read_test(rules, space / "hidden")
    sample = pd.read_csv(space / "hidden" / "sample_submission.csv", dtype=str)
    sample = complete_sample(sample, test, "patient")
    answers = Submission(rules, folder, test, sample, space / "s.csv")
    known = Manifest.model_construct(classes=blend.classes, prior=[0.5, 0.5], decision=None)
    of_ours = dict(zip(parts[0].image, mean, strict=True))
    pictures = [ours[s] + i.removeprefix(s) for s, i in zip(test.study, test.id, strict=True)]
    prob = np.array([of_ours[picture] for picture in pictures])
    answers.write(known, np.arange(len(test)), prob)
    got = pd.read_csv(space / "s.csv").set_index("patient").has_cactus
    np.testing.assert_allclose(got[list(ours.index)], sent[list(ours)], atol=1e-6)
