"""Every task from its pictures to its submission: scores, answers, and what stage 1 refuses."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file
from tiny_forms import FORMS, tiny_form

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.config import Folds, load_experiment
from pipeline.base.forms import as_array
from pipeline.data.splits import slices
from pipeline.data.tables import read_rows, refuse_futile
from pipeline.folds import make_folds
from pipeline.inference.predictions import Predictions
from pipeline.inference.submission import fill_sample
from pipeline.inference.thresholds import Decision
from pipeline.pages.compose import write_report
from pipeline.pages.tasks import together
from pipeline.prepare import tell_joined

TOLD = {  # on the page about it
    "binary": ["held-out pictures are called wrong, of 2 classes.", "ROC curve, area"],
    "joined": ["labels are missed and", 'id="label-table"', "a_<wbr>mould", "Together, as ans"],
    "ordinal": ["are called another level", "Predictions by level"],
    "regression": ["40 held-out pictures are off by", "Pearson"],
}
LOSS = {"ordinal": {"loss": "cumulative_bce"}}
KERNEL = ("joined",)  # the others' heads end in the mean with the linear closed form
LEAST = {"binary": 0.95, "joined": 0.85, "ordinal": 0.8, "regression": -15}


@pytest.mark.parametrize("name", LEAST)
def test_from_pictures_to_answers(
    name: str, space: Path, run: Callable[..., str], write: Callable[..., str]
) -> None:
    folder = space / "data" / name
    rules = tiny_form(name, folder) | ({"transform": "sqrt"} if name == "regression" else {})
    (space / f"{name}.yaml").write_text(yaml.safe_dump(rules))
    experiment = write(
        competition=str(space / f"{name}.yaml"),
        model={"head_init": "lda", "features": "blocks", "kernel": name in KERNEL},
        train={"epochs": int(name != "binary"), "lr": 0.0001, "refit": True, **LOSS.get(name, {})},
    )
    for stage in ("prepare", "folds", "train --fold 0", "train --fold 1", "predict", "ensemble"):
        stage, *fold = stage.split()
        run(stage, experiment, *fold)
    assert "up to date" in run("ensemble", experiment)
    run("submit", "tiny")
    weights = space / "runs/tiny/fold0/model.safetensors"
    assert ("kernel.weight" in load_file(weights)) == (name in KERNEL)
    model = records.load(weights)
    task = FORMS[name][1].get("task", "binary")
    assert model["key"].get("task") == (task if task != "binary" else None)
    assert model["key"].get("transform") == rules.get("transform")
    page = write_report("tiny", full=False).read_text()
    assert all(text in page for text in TOLD[name]), name
    made = records.load(space / "submissions" / "tiny.csv")
    sign = -1 if name == "regression" else 1
    assert sign * made["cv"]["all"] > LEAST[name] and sign * made["hidden"] > LEAST[name]
    sent = pd.read_csv(space / "submissions" / "tiny.csv")
    sample = pd.read_csv(folder / "sample_submission.csv")
    assert list(sent) == list(sample) and list(sent.iloc[:, 0]) == list(sample.iloc[:, 0])
    truth = pd.read_csv(folder / "solution.csv").iloc[:, 1:]
    answers = sent.iloc[:, 1:]
    if name == "joined":
        pairs = zip(answers.labels, truth.labels, strict=True)
        assert np.mean([{*a.split()} == {*b.split()} for a, b in pairs]) >= 0.8
    elif name == "ordinal":
        assert answers.diagnosis.dtype == int and set(answers.diagnosis) <= set(range(5))
    else:
        assert np.corrcoef(answers.to_numpy().ravel(), truth.to_numpy().ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("binary", {"task": "classes"}, "asks for ['has_cactus'] beside 'id', and ['0', '1'] is"),
        ("binary", {"task": "classes"}, "or is it task: binary?"),
        ("binary", {"task": "classes", "submission": "label", "metric": "auc"}, "answers names"),
        ("binary", {"positive": "yes"}, "no label is 'yes': set positive: to one of ['0', '1']"),
        ("ordinal", {"task": "binary"}, "task: binary is of two labels, there are 5"),
        (
            "joined",
            {"submission": "probability"},
            "asks for ['labels'] beside 'id', and ['a_mould'",
        ),
        ("columns", {"label": ["rust", "scab"]}, "and ['rust', 'scab'] is what can be answered"),
        (
            "columns",
            {"task": "regression", "label": "rust", "metric": "rmse"},
            "answers one column",
        ),
        (
            "joined",
            {"task": "ordinal", "metric": "accuracy"},
            "line 2: expected a whole number in labels",
        ),
        (
            "ordinal",
            {"label": ["diagnosis", "id"], "task": "multi-label", "submission": "probability"},
            "expected 0 or 1 in each",
        ),
        (
            "ranked",
            {"k": 9, "metric": "map_at_9"},
            "k: 9 classes are to be answered",
        ),
        ("regression", {"transform": "sqrt"}, "takes numbers from 0 on, not '-1'"),
        (
            "regression",
            {"task": "ordinal"},
            "a whole number in Pawpularity, not '2",
        ),
        (
            "binary",
            {"submission": "label"},
            "asks for numbers in 'has_cactus'",
        ),
        ("binary", {"group": "patient"}, "line 41: empty patient; give a group"),
        ("joined", {"metric": "auc"}, "auc is of probabilities, and submission: label gives none"),
        ("joined", {"separator": ","}, "no two labels are joined by ','; set separator: ' '"),
    ],
)
def test_stage_1_refuses_what_the_task_cannot_answer(
    name: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    settings = {**tiny_form(name, tmp_path), **changes}
    train = (tmp_path / "train.csv").read_text()
    if "transform" in changes:
        lines = train.splitlines()
        (tmp_path / "train.csv").write_text("\n".join([*lines[:-1], "x,-1,p"]))
    if "group" in changes:
        (tmp_path / "train.csv").write_text(train[: train.rindex("p")] + "\n")
    if "task" in changes and "metric" not in changes:
        settings.pop("metric", None)
    with pytest.raises(UserError) as error:
        competition = Competition(name=name, **settings)
        refuse_futile(competition, tmp_path, read_rows(competition, tmp_path))
    assert said in str(error.value).splitlines()[0]


@pytest.mark.parametrize(
    ("name", "label", "said"),
    [
        ("regression", "1e400", "expected a number in Pawpularity, not '1e400'"),
        ("ordinal", "0.0", "expected a whole number in diagnosis, not '0.0'"),
        ("ordinal", "1990", "takes 100 levels, not those from 0 to 1990; mend the row"),
    ],
)
def test_a_number_that_is_none_of_the_task(
    name: str, label: str, said: str, tmp_path: Path
) -> None:
    competition = Competition(name=name, **tiny_form(name, tmp_path))
    table = pd.read_csv(tmp_path / "train.csv", dtype=str)
    table.loc[3, competition.label] = label
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(UserError, match=said):
        refuse_futile(competition, tmp_path, read_rows(competition, tmp_path))
    table.assign(**{competition.label: "2"}).to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(UserError, match="all rows are labelled '2': there is nothing to tell"):
        refuse_futile(competition, tmp_path, read_rows(competition, tmp_path))


def test_joined_labels_are_no_classes_unsaid(capsys: pytest.CaptureFixture[str]) -> None:
    tell_joined(pd.Series(["scab", "rust", "scab rust", "oak tree"]))
    assert "joined by ' ', and each stands for a class of its own" in capsys.readouterr().err
    tell_joined(pd.Series(["quercus alba", "acer_rubrum"]))
    assert not capsys.readouterr().err


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    for settings, said in (
        (
            {"task": "regression", "metric": "auc"},
            "task: regression takes no metric: auc, but rmse",
        ),
        ({"task": "ordinal", "transform": "sqrt"}, "transform: sqrt is of task: regression"),
        ({"task": "binary", "label": ["a", "b"]}, "task: binary has one column as label"),
        ({"task": "multi-label", "label": ["a|b", "c"]}, "'a|b' may not hold '|'"),
        ({"label": ["a", "b"]}, "a list as label needs submission: probability"),
        ({"label": ["a", "b"], "task": "multi-label"}, "a list as label needs submission: prob"),
        ({"task": "binary", "k": 2}, "k: 2 is of task: classes, not of binary"),
        ({"metric": "map_at_5", "k": 3}, "metric: map_at_5 scores 5 guesses: set k: 5"),
    ):
        with pytest.raises(ValueError, match="conflict") as error:
            Competition(**settings)
        assert said in str(error.value)
    rules, path = tmp_path / "leaves.yaml", tmp_path / "e.yaml"
    rules.write_text("task: multi-label\n")
    text = f"competition: {rules}\nmodel: {{size: 64}}\n"
    path.write_text(text)
    assert load_experiment(str(path)).train.loss == "bce"
    for train, said in (
        (
            "sampler: sqrt",
            "e: train.sampler: for one class a picture, not for a task of labels",
        ),
        ("loss: mse", "e: train.loss: mse: a task of labels takes bce or asymmetric"),
    ):
        path.write_text(f"{text}train: {{{train}}}\n")
        with pytest.raises(UserError) as error:
            load_experiment(str(path))
        assert str(error.value) == said


def rows_of(name: str, folder: Path) -> tuple[Competition, pd.DataFrame]:
    competition = Competition(name=name, **tiny_form(name, folder))
    rows = read_rows(competition, folder)
    return competition, rows[rows.split == "train"].assign(group=rows.id)


def test_a_label_is_its_parts_in_order(tmp_path: Path) -> None:
    for text in ("b a", "a  b", "['a' 'b']", "a b a"):
        one = Competition(task="multi-label").form.labels(pd.DataFrame({"label": [text]}))
        assert list(one) == ["a b"]
    form = Competition(task="multi-label", separator=",").form
    assert form.parts("big cat, dog") == ["big cat", "dog"]
    _, joined = rows_of("joined", tmp_path / "joined")
    competition, columns = rows_of("columns", tmp_path / "columns")  # the same marks
    assert [{*a.replace("_", " ").split()} - {"healthy"} for a in joined.label] == [
        {word for part in b.split("|") for word in part.split()} for b in columns.label
    ]
    target = as_array(competition.form.targets(columns.label, competition.label_columns))
    given = pd.read_csv(tmp_path / "columns" / "train.csv")[competition.label_columns]
    assert target.dtype == bool and (target == given.to_numpy(bool)).all()


def test_names_of_columns_are_taught_as_they_stand_in_the_header() -> None:
    """A blank or a quote at their edge: stripped, a label was in no row."""
    names = ["rust", " scab", "b'"]
    rules = {"task": "multi-label", "label": names, "submission": "probability"}
    form, marks = Competition(**rules).form, [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    labels = form.labels(pd.DataFrame(marks, columns=names))
    assert as_array(form.targets(labels, form.classes(labels))).astype(int).tolist() == marks
    assert [form.canonical(label) for label in labels] == list(labels)


def test_folds_have_their_share_of_each_label_and_of_all_numbers() -> None:
    random = np.random.default_rng(0)
    marks, ids = random.random((300, 4)) < [0.5, 0.3, 0.1, 0.05], [f"{i:03d}" for i in range(300)]
    label = [" ".join(np.array(list("abcd"))[row]) or "e" for row in marks]
    train = pd.DataFrame({"id": ids, "label": label, "group": ids})
    form = Competition(task="multi-label").form
    pairs = train.assign(group=[ids[i - i % 2] for i in range(300)])
    assert make_folds(pairs, Folds(n=5), form).groupby("group").fold.nunique().max() == 1
    table = make_folds(train, Folds(n=5), form)
    for name in "abcd":
        counts = table[table.label.str.split().map(lambda parts, n=name: n in parts)].fold
        assert np.ptp(counts.value_counts()) <= 2, name
    value = (random.random(300) ** 3 * 100).round(2)
    numbers = train.assign(label=value.astype(str))
    table = make_folds(numbers, Folds(n=5), Competition(task="regression").form)
    means = table.assign(label=table.label.astype(float)).groupby("fold").label.mean()
    assert np.ptp(means) < 0.15 * value.std()


def test_labels_that_stand_together_are_counted() -> None:
    target = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    evidence = SimpleNamespace(target=target, answer=np.eye(4, 3, dtype=bool), classes=list("abc"))
    assert [row for _, row in together(evidence)["labelled"]["rows"]] == [
        [(3, 1), (2, 2 / 3), (0, 0)],
        [(2, 1), (2, 1), (0, 0)],
        [(0, 0), (0, 0), (1, 1)],
    ]
    evidence.target = evidence.answer
    assert not together(evidence), "no picture has two"


def test_a_label_of_one_group_is_always_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["a", "b", "a b"] * 8 + ["a rare"]
    train = pd.DataFrame({"id": [f"{i:02d}" for i in range(25)], "label": labels})
    form = Competition(task="multi-label").form
    table = make_folds(train.assign(group=train.id), Folds(n=2), form)
    assert list(table.image[table.fold == -1]) == ["24"]
    assert "rare (1)" in capsys.readouterr().err


def test_patients_are_no_twins() -> None:
    table = pd.DataFrame({"label": ["0", "1", "0", "0"], "group": ["p", "p", "q", "r"]})
    assert list(slices(table, Competition(group="patient"))) == ["all"]
    parts = slices(table, Competition())
    assert (
        parts["no_twins"].tolist() == parts["no_conflicts"].tolist() == [False, False, True, True]
    )


def test_columns_and_ranked_answers_take_the_order_of_the_sample(tmp_path: Path) -> None:
    prob = np.array([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]], np.float32)
    some = Predictions(["1", "2"], ["a", "b", "c"], prob, kind="chances")
    sample = pd.DataFrame({"id": ["2", "1"], "c": "0", "a": "0", "b": "0"})
    rules = {
        "task": "multi-label",
        "id": "id",
        "label": ["a", "b", "c"],
        "submission": "probability",
    }
    table = fill_sample(sample, some, Competition(**rules), "s.csv")
    np.testing.assert_allclose(table[["c", "a", "b"]], [[0.1, 0.2, 0.7], [0.4, 0.5, 0.1]])
    one = pd.DataFrame({"id": ["2", "1"], "Id": ""})
    table = fill_sample(one, some, Competition(id="id", label="Id", k=2), "s.csv")
    assert list(table.Id) == ["b a", "a c"]
    rules = Competition(task="multi-label", id="id", separator=",")
    decided = {"kind": "chances", "numbers": [0.5, 0.1, 0.3], "first": 0}
    assert list(fill_sample(one, some, rules, "s.csv", decided).Id) == ["b", "a,b,c"]
    assert list(fill_sample(one, some, rules, "s.csv").Id) == ["b", "a"]
    decided = {"kind": "chances", "numbers": [0.6, 0.2, 0.6], "first": 0}  # 1: none; 2: b
    assert list(fill_sample(one, some, rules, "s.csv", decided | {"some": True}).Id) == ["b", "a"]
    prob[0, 1] = 0.15
    assert Decision(**decided)(prob).tolist() == [[0, 0, 0], [0, 1, 0]], (
        "as where none is an answer"
    )
    with pytest.raises(UserError, match="expected one for the answer"):
        fill_sample(sample, some, rules, "s.csv")
