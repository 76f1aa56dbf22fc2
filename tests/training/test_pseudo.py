"""Pseudo-labels: sure test pictures are taught by the fold's own models, and weigh less."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny_forms import tiny_form

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, Train, load_experiment, root
from pipeline.base.forms import as_array
from pipeline.base.runs import prediction_path
from pipeline.base.schema import Pseudo
from pipeline.data.extra import load_extra
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, folds_digest, load_folds, split_rows
from pipeline.inference.answers import SHARES
from pipeline.inference.predictions import Predictions
from pipeline.train import make_trainer
from pipeline.training import pseudo
from pipeline.training.keys import train_key
from pipeline.training.loss import Loss
from pipeline.training.pseudo import with_pseudo

Make = Callable[..., Experiment]


@pytest.fixture
def pupil(write: Callable[..., str], split: Callable[[str], str]) -> Make:
    """An experiment taught by a blend whose members are sure of other pictures in each fold."""
    settings = load_experiment(split(write("plain")))
    table, prepared = load_folds(settings), load_prepared(settings)
    test, classes = list(prepared.rows.id[prepared.rows.split == "test"]), classes_of(table)
    members: dict[str, dict[str, str]] = {"one": {"tta": "none"}, "two": {"tta": "hflip"}}
    for run, about in members.items():
        for fold in (0, 1):
            prob = np.full((12, 4), 0.25, dtype=np.float32)
            prob[3 + fold] = [0.02, 0.9, 0.08, 0]
            prob[7] = [1, 0, 0, 0] if run == "one" else [0.2, 0.8, 0, 0]
            path = prediction_path(run, fold, "test", about["tta"])
            Predictions(test, classes, prob).save(path)
            key = {"pixels": prepared.record["digests"]["test"]}
            records.commit(path, key, 0.0)
            about[f"test{fold}"] = records.load(path)["digest"]
    out = root("runs") / "both" / "test.npz"
    Predictions(test, classes, prob).save(out)
    weights = {"one": 0.75, "two": 0.25}
    key = {"members": members, "weights": weights, "folds": folds_digest(table)}
    records.commit(out, key, 0.0)

    def make(name: str = "pupil", **pseudo: object) -> Experiment:
        return load_experiment(write(name, pseudo={"run": "both", **pseudo}))

    return make


def taught(settings: Experiment, fold: int, soft: bool = False) -> tuple:
    table, prepared = load_folds(settings), load_prepared(settings)
    classes = classes_of(table)
    train, _ = split_rows(prepared.rows, table, classes, fold)
    labels = train.target.to_numpy()
    targets = np.eye(len(classes))[labels] if soft else labels
    return train, labels, *with_pseudo(settings, fold, prepared, classes, train, targets, SHARES)


@pytest.mark.parametrize("soft", [False, True])
def test_sure_pictures_of_the_own_fold_join_with_their_weight(pupil: Make, soft: bool) -> None:
    settings = pupil(threshold=0.8, weight=0.25, power=2)
    rows = load_prepared(settings).rows
    test = list(rows.id[rows.split == "test"])
    for fold in (0, 1):
        train, labels, both, targets = taught(settings, fold, soft)
        more = both[len(train) :]
        # of picture 7 the blend says .75 × 1 + .25 × .2
        assert list(more.image) == [test[3 + fold], test[7]] and list(more.target) == [1, 0]
        assert list(rows.id[more.row]) == list(more.image) and set(more.fold) == {-1}
        assert targets.dtype == np.float32 and targets[: len(train)].argmax(1).tolist() == [*labels]
        first, second = np.square([0.02, 0.9, 0.08, 0]), np.square([0.8, 0.2, 0, 0])
        expected = [0.25 * first / first.sum(), 0.25 * second / second.sum()]
        np.testing.assert_allclose(targets[len(train) :, :4], expected, atol=1e-6)
        assert set(targets[: len(train), 4]) == {1} and set(targets[len(train) :, 4]) == {0.25}


def test_targets_of_many_classes_are_not_copied_about(monkeypatch: pytest.MonkeyPatch) -> None:
    n, classes = 4000, 500
    ids = [str(i) for i in range(20)]
    rows = pd.DataFrame({"split": "test", "id": ids, "hash": ids})
    monkeypatch.setattr(pseudo, "fold_answers", lambda *_: np.eye(20, classes))
    settings = SimpleNamespace(pseudo=Pseudo(run="both"))
    train = pd.DataFrame({"image": "a", "target": np.arange(n) % classes})
    prepared, names = SimpleNamespace(rows=rows), [str(i) for i in range(classes)]
    tracemalloc.start()
    made = with_pseudo(settings, 0, prepared, names, train, train.target.to_numpy(), SHARES)[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.shape == (n + 20, classes + 1) and made.dtype == np.float32
    assert peak < 2.5 * made.nbytes, "the rows, and the rows with their weights"


def test_without_it_nothing_changes_and_with_it_the_key_names_the_answers(
    pupil: Make, write: Callable[..., str]
) -> None:
    plain = load_experiment(write("plain"))
    table, prepared = load_folds(plain), load_prepared(plain)
    train, labels, both, targets = taught(plain, 0)
    assert both is train and targets is labels
    assert "pseudo" not in train_key(plain, 0, prepared, table)
    keys = [train_key(pupil(), fold, prepared, table)["pseudo"] for fold in (0, 1)]
    assert keys[0]["threshold"] == 0.9 and keys[0]["weight"] == 0.5
    assert set(keys[0]["answers"]) == {"one", "two"} and keys[0]["answers"] != keys[1]["answers"]


def test_as_the_blend_means_and_weighs_them_and_the_key_says_so(pupil: Make) -> None:
    settings, blend = pupil(threshold=0.8, weight=1.0), root("runs") / "both" / "test.npz"
    table, prepared, record = load_folds(settings), load_prepared(settings), records.load(blend)

    def key(**changes: object) -> dict[str, object]:
        records.commit(blend, {**record["key"], **changes}, 0.0)
        return train_key(settings, 0, prepared, table)["pseudo"]

    even = key(weights={"one": 1.0, "two": 1.0})
    assert "weights" not in even and "mean" not in even, "as it was before a key told them"
    assert key()["weights"] == {"one": 0.75, "two": 0.25}
    assert key(mean="logits")["mean"] == "logits"
    targets = taught(settings, 0)[3][-1]
    geometric = np.array([0.2**0.25, 1e-7**0.75 * 0.8**0.25])  # of .75 × (1, 0), .25 × (.2, .8)
    np.testing.assert_allclose(targets[:2], geometric / geometric.sum(), atol=1e-6)


def test_a_run_that_cannot_teach_is_one_line(pupil: Make, write: Callable[..., str]) -> None:
    settings = pupil()
    table, prepared = load_folds(settings), load_prepared(settings)
    with pytest.raises(UserError, match="of other folds than pupil: it would leak"):
        train_key(settings, 0, prepared, table[:-1])
    answers = prediction_path("two", 1, "test", "hflip")
    record = records.load(answers)
    Predictions.load(answers).save(answers)
    records.commit(answers, {**record["key"], "pixels": "others"}, 0.0)
    train_key(settings, 0, prepared, table)  # the other fold's are well
    with pytest.raises(UserError, match="the test pictures have changed since"):
        train_key(settings, 1, prepared, table)
    answers.unlink()
    with pytest.raises(UserError, match=r"two/fold1/test.hflip.npz: not what .* blended from"):
        train_key(settings, 1, prepared, table)
    blend = root("runs") / "both" / "test.npz"
    records.commit(blend, {**records.load(blend)["key"], "mean": "ranks"}, 0.0)
    with pytest.raises(UserError, match="is a mean of ranks, which do not tell how sure"):
        train_key(settings, 0, prepared, table)
    instant = {"train": {"epochs": 0}, "model": {"head_init": "lda"}}
    with pytest.raises(UserError, match=r"pseudo: needs train\.epochs"):
        load_experiment(write("none", pseudo={"run": "both"}, **instant))


TRAINS = [{"label_smoothing": 0.2}, {"loss": "bce"}, {"loss": "smooth_l1"}, {"loss": "asymmetric"}]


@pytest.mark.parametrize("train", TRAINS)
def test_half_a_weight_is_half_a_loss(train: dict) -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    rows, weight = torch.tensor([[1.0, 0, 0], [0, 0.8, 0.2]]), torch.tensor([1, 0.25])
    loss = Loss(Train(**train))
    weighted = torch.cat([rows, torch.ones(2, 1)], 1) * weight[:, None]
    each = loss.per_row(logits, rows)
    assert loss(logits, weighted).item() == pytest.approx((each[0] + 0.25 * each[1]).item() / 2)
    if train.get("loss") == "bce":  # mixed, it is the mixture of both losses
        mixed = (0.3 * weighted[:1] + 0.7 * weighted[1:]).expand(2, -1)
        losses = [loss.per_row(logits[:1], row[None]).item() for row in rows]
        expected = 0.3 * losses[0] + 0.7 * 0.25 * losses[1]
        assert loss(logits[:1], mixed[:1]).item() == pytest.approx(expected)


def test_a_loss_of_ones_own_must_be_of_each_row() -> None:
    loss = Loss(Train(loss="mse"), own=lambda logits, rows: ((logits - rows) ** 2).mean())
    loss.try_on(torch.zeros(2, 3))
    with pytest.raises(UserError, match=r"not a number a row$"):
        loss.try_on(torch.zeros(2, 3), weighted=True)


FORMS = {  # the competition's settings beside `tiny_form`'s, and the teacher's first three answers
    "binary": ({}, [[0.05, 0.95], [0.5, 0.5], [0.8, 0.2]]),
    "joined": ({}, [[0.1, 0.9, 0.05, 0.15], [0.1, 0.7, 0.9, 0.95], [0.95, 0.15, 0.15, 0.1]]),
    "ordinal": ({}, [[1.25], [3.5], [0.0]]),
    "regression": ({"transform": "sqrt"}, [[9.0], [64.0], [30.25]]),
}
SURE = {"threshold": 0.8, "power": 2, "weight": 0.25}


def teach(settings: Experiment, prob: list[list[float]]) -> None:
    """A blend whose fold 1 says `prob` of the first test pictures and nothing much of others."""
    prepared, form = load_prepared(settings), load_competition(settings.competition).form
    classes = classes_of(load_folds(settings), form)
    test = list(prepared.rows.id[prepared.rows.split == "test"])
    dull = [[40.0] if form.kind == "numbers" else [0.5] * len(classes)]
    rows = np.array(prob + dull * (len(test) - len(prob)), np.float32)
    blend = root("runs") / "wise" / "test.npz"
    for path in (prediction_path("one", 1, "test", "none"), blend):
        Predictions(test, classes, rows, kind=form.kind).save(path)
    key = {"members": {"one": {"tta": "none"}}, "weights": {"one": 1.0}}
    records.commit(blend, key, 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_of_every_task(
    form: str,
    space: Path,
    run: Callable[..., str],
    write: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more, said = FORMS[form]
    monkeypatch.chdir(space)
    rules = tiny_form(form, space / "data/comp") | more
    (space / "comp.yaml").write_text(yaml.safe_dump(rules))
    numbers, prob = form in ("ordinal", "regression"), np.array(said)
    how = {"run": "wise", **({"weight": 0.25} if numbers else SURE)}
    named = {"competition": str(space / "comp.yaml"), "mix": {"mixup": 0.2}}
    tiny_form(form, space / "data/more", seed=1)
    experiment = write("pupil", **named, pseudo=how, extra={"csv": "data/more/train.csv"})
    run("prepare", experiment)
    run("folds", experiment)
    settings = load_experiment(experiment)
    teach(settings, said)
    table, external = load_folds(settings), load_extra(settings)[1]
    trainer = make_trainer(settings, 1, load_prepared(settings), table)
    n = sum(table.fold != 1) + len(external)
    assert len(external) > 10
    targets, labels = trainer.loader.dataset.targets.numpy(), trainer.labels
    assert set(targets[:n, -1]) == {1} and set(targets[n:, -1]) == {0.25}
    assert len(labels) == len(trainer.rows) == len(targets)
    if numbers:
        assert len(targets) == n + 10, "all are taught"
        values = np.sqrt(prob) if form == "regression" else prob
        expected = (values - trainer.answer.mean) / trainer.answer.std
    elif form == "binary":  # of the second nobody is sure
        expected = np.square(prob)[[0, 2]] / np.square(prob)[[0, 2]].sum(1, keepdims=True)
        assert labels[n:].tolist() == [1, 0]
    else:  # the second has a label of .7
        odds = np.square(prob[[0, 2]] / (1 - prob[[0, 2]]))
        expected = odds / (1 + odds)
        assert labels.dtype == bool and labels[n:].sum() == 2
    np.testing.assert_allclose(targets[n:, :-1][:3] / 0.25, expected, atol=1e-5)
    rules = load_competition(settings.competition).form
    own = as_array(rules.targets(external.label, trainer.classes))
    own = trainer.answer.taught(own) if numbers else np.eye(2)[own] if own.ndim == 1 else own
    np.testing.assert_allclose(targets[n - len(external) : n, :-1], own, atol=1e-5)
    assert np.isfinite(trainer.train_epoch()[0])


@pytest.mark.parametrize("option", ["threshold", "power"])
def test_numbers_have_no_probability(option: str, space: Path, write: Callable[..., str]) -> None:
    (space / "comp.yaml").write_text(yaml.safe_dump({"task": "regression"}))
    how = {"competition": str(space / "comp.yaml"), "pseudo": {"run": "wise", option: 1}}
    with pytest.raises(UserError, match=rf"pseudo\.{option}: of probabilities; of values each"):
        load_experiment(write("sure", **how))


def test_training_takes_them_and_the_heads_start_does_not(
    pupil: Make, run: Callable[..., str], write: Callable[..., str]
) -> None:
    how = {"model": {"features": "blocks", "head_init": "lda"}, "train": {"epochs": 1}}
    run("train", write("plain", **how), "--fold", "0")
    pseudo = {"run": "both", "threshold": 0.85}
    run("train", write("more", pseudo=pseudo, **how), "--fold", "0")
    plain, more = (
        records.load(root("runs") / name / "fold0" / "model.safetensors")
        for name in ("plain", "more")
    )
    assert more["images"]["train"] == plain["images"]["train"] + 1
    assert more["start"] == plain["start"] and more["digest"] != plain["digest"]
