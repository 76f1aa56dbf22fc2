"""The submission's notebook, in this process: whatever is mounted, submission.csv is valid."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import enter
from test_task_copies import BY_NAME, RSNA

from pipeline.base import records
from pipeline.base.competition import load_competition
from pipeline.base.deadline import Deadline
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.bundle.notebook_file import slug_of
from pipeline.kaggle.bundle.rehearsal import compare, hide, margins_of
from pipeline.kaggle.notebook import answer, models, submit_session
from pipeline.kaggle.notebook.manifest import FILE, BundledModel, Job, Manifest
from pipeline.launchers import pool


class Kaggle:
    """Kaggle's folders around a bundle, and runs of its notebook in them."""

    def __init__(self, home: Path, folder: Path, n: int) -> None:
        self.home, self.runs, self.folder = home, home / "runs", folder
        self.record = records.load(self.runs / "blend" / "test.npz")
        self.competition = load_competition(self.record["key"]["competition"])
        slug = self.competition.slug
        self.test = folder / "competitions" / slug
        self.weights = folder / "datasets" / "owner" / slug_of(slug, "blend", "weights")
        shutil.copytree(self.runs / "blend" / "bundle" / "weights", self.weights)  # not the package
        self.ours = hide(home / "data" / self.competition.name, self.competition, self.test, n)
        self.manifest = Manifest.load(self.weights)

    @property
    def job(self) -> Job:
        return Job(competition=self.competition, weights=self.weights.name)

    def answers(self) -> pd.DataFrame:
        submit_session.run(self.job)
        out = self.folder.with_name("working") / "submission.csv"
        return pd.read_csv(out, dtype=str, keep_default_na=False)

    def compare(self, answers: pd.DataFrame) -> str:
        local = pd.read_csv(self.home / "submissions" / "blend.csv", dtype=str)
        blend = Predictions.load(self.runs / "blend" / "test.npz")
        margins = margins_of(blend, self.record.get("decision"), self.competition.k)
        return compare(answers, local, self.ours, self.competition, margins, 1e-5)

    def expected(self, answers: pd.DataFrame, parts: dict[str, float]) -> list[str]:
        """Labels that a weighted mean of prediction files gives, in the order of the answers."""
        files = [Predictions.load(self.runs / part) for part in parts]
        classes, ours = files[0].classes, self.ours[answers.image]
        known = [file.aligned(file.image, classes) for file in files]
        mean = np.average(known, axis=0, weights=list(parts.values()))
        label = dict(zip(files[0].image, mean.argmax(1), strict=True))
        return [classes[label[name]] for name in ours]

    @property
    def commonest(self) -> str:
        return self.manifest.classes[int(np.argmax(self.manifest.prior))]


class InThisProcess:
    """Stands in for a process, since importing torch takes seconds: test_answer has real ones."""

    def __init__(self, command: list[str], slot: pool.Slot) -> None:
        self.slot, self.ranks = slot, []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(answer.signal, "setitimer", lambda *_: None)
            try:
                self.code = answer.main(*command[-3:]) or 0
            except SystemExit as end:
                self.code = end.code
            except Exception:
                self.code = pool.Exit.TRACEBACK

    def poll(self) -> int:
        return self.code


@pytest.fixture
def mounted(
    bundled: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Kaggle]:
    def build(form: str = "label", n: int = 7) -> Kaggle:
        enter(monkeypatch, bundled(form))
        monkeypatch.setenv("KAGGLE_INPUT_DIR", str(tmp_path / "input"))
        monkeypatch.setenv("KAGGLE_WORKING_DIR", str(tmp_path / "working"))
        monkeypatch.setattr(answer, "Process", InThisProcess)
        return Kaggle(bundled(form), tmp_path / "input", n)

    return build


ALL = {"one/fold0/test.hflip.npz": 1, "one/fold1/test.hflip.npz": 1}
ALL |= {"two/fold0/test.none.npz": 2, "two/fold1/test.none.npz": 2}


@pytest.mark.parametrize(
    ("form", "n"),
    [
        *[("label", n) for n in (0, 1, 7, 30)],
        *[(name, 7) for name in ("probability", *BY_NAME, RSNA)],
    ],
)
def test_the_local_answers_at_every_size(mounted: Callable, form: str, n: int) -> None:
    """Every tiny copy, from its CSVs and pictures to what the notebook says of a hidden test."""
    kaggle = mounted(form, n)
    answers = kaggle.answers()
    assert kaggle.compare(answers).startswith(f"{n} rows as in the local submission")
    sample = pd.read_csv(kaggle.test / "sample_submission.csv", dtype=str)
    column = kaggle.competition.id
    assert list(answers) == list(sample) and list(answers[column]) == list(sample[column])
    assert n < 2 or len(answers.drop(columns=column).drop_duplicates()) > 1, "no constant"


def test_the_local_answers_are_no_constant(mounted: Callable) -> None:
    kaggle = mounted()
    answers = kaggle.answers()
    assert list(answers.label) == kaggle.expected(answers, ALL)
    assert answers.label.nunique() > 1
    with pytest.raises(Exception, match="of 7 answers differ from the local submission, first"):
        kaggle.compare(answers.assign(label="x"))


def test_columns_of_a_model_go_by_their_names(mounted: Callable) -> None:
    """The blend has the classes in another order than its models: `positive:` has changed."""
    kaggle = mounted("probability")
    known = records.read_json(kaggle.weights / FILE)
    turned = {name: known[name][::-1] for name in ("classes", "prior")}
    records.write_json(kaggle.weights / FILE, known | turned)
    assert kaggle.compare(kaggle.answers()).startswith("7 rows as in the local submission")


def test_the_mean_and_the_decision_of_the_manifest_are_followed(
    mounted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle, works = mounted(), []
    scales = [1e-9] * 4
    scales[rarest := int(np.argmin(kaggle.manifest.prior))] = 1.0
    decision = {"kind": "scales", "numbers": scales, "first": 0}
    known = records.read_json(kaggle.weights / FILE)
    records.write_json(kaggle.weights / FILE, known | {"mean": "logits", "decision": decision})
    monkeypatch.setattr(submit_session, "run_models", lambda work, *_: works.append(work))
    assert set(kaggle.answers().label) == {kaggle.manifest.classes[rarest]}
    assert works[0].blend.mean == "logits"


def test_weights_that_are_missing_or_damaged_are_left_out(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    (kaggle.weights / "one-fold0.safetensors").unlink()
    damaged = kaggle.weights / "two-fold1.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    answers = kaggle.answers()
    said = capsys.readouterr()
    assert "!!!!!! one fold 0 is left out: one-fold0.safetensors or its record is" in said.err
    assert "two-fold1.safetensors is not the file that its record describes" in said.err
    assert "2 of 4 models are sound" in said.out
    kept = {"one/fold1/test.hflip.npz": 1, "two/fold0/test.none.npz": 2}
    assert list(answers.label) == kaggle.expected(answers, kept)


@pytest.mark.parametrize("form", ["label", "probability"])
def test_without_any_weights_the_prior_answers_loudly(
    mounted: Callable, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted(form)
    for file in kaggle.weights.glob("*.safetensors"):
        file.unlink()
    answers = kaggle.answers()
    assert "!!!!!! no weights can be used: submission.csv is the prior" in capsys.readouterr().err
    if form == "label":
        assert set(answers.label) == {kaggle.commonest}
    else:
        given = answers[kaggle.manifest.classes].astype(float)
        np.testing.assert_allclose(given, [kaggle.manifest.prior] * 7, atol=1e-6)
        assert len(set(kaggle.manifest.prior)) > 1


def test_without_the_dataset_the_sample_stands(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    shutil.rmtree(kaggle.weights)
    answers = kaggle.answers()
    said = capsys.readouterr().err
    assert "!!!!!! the prediction failed" in said and "no dataset 'leaves-blend-weights'" in said
    pd.testing.assert_frame_equal(
        answers, pd.read_csv(kaggle.test / "sample_submission.csv", dtype=str)
    )


def test_without_a_sample_nothing_ends_in_an_error(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    (kaggle.test / "sample_submission.csv").unlink()
    submit_session.run(kaggle.job)
    said = capsys.readouterr().err
    assert (
        "!!!!!! the submission failed" in said
        and "no competition 'leaves' with a sample_sub" in said
    )


@pytest.mark.parametrize("code_competition", [True, False])
@pytest.mark.parametrize("rerun", ["1", ""])
def test_where_only_the_hidden_test_counts_a_few_pictures_are_enough_before(
    mounted: Callable, monkeypatch: pytest.MonkeyPatch, code_competition: bool, rerun: str
) -> None:
    kaggle = mounted("probability")
    monkeypatch.setattr(submit_session, "SEEN", 3)
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", rerun)
    setting = {"code_competition": code_competition}
    kaggle.competition = kaggle.competition.model_copy(update=setting)
    answers = kaggle.answers().set_index("image")[kaggle.manifest.classes].astype(float)
    prior = np.isclose(answers, [kaggle.manifest.prior] * 7, atol=1e-6).all(axis=1)
    assert int(prior.sum()) == (4 if code_competition and not rerun else 0)


@pytest.mark.parametrize("damage", ["half", "garbage", "gone"])
def test_a_broken_picture_gets_the_prior_and_harms_no_other(
    mounted: Callable, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted("probability")
    whole = kaggle.answers().set_index("image")
    name = kaggle.ours.index[3]
    data = (kaggle.test / name).read_bytes()
    (kaggle.test / name).unlink()
    if damage != "gone":
        (kaggle.test / name).write_bytes(data[: len(data) // 2] if damage == "half" else b"no")
    answers = kaggle.answers().set_index("image")
    said = capsys.readouterr().err
    assert f"{name}: " in said and "the prior answers for it" in said
    classes = kaggle.manifest.classes
    np.testing.assert_allclose(
        answers.loc[name, classes].astype(float), kaggle.manifest.prior, atol=1e-6
    )
    rest = answers.index != name
    np.testing.assert_allclose(
        answers[classes][rest].astype(float), whole[classes][rest].astype(float), atol=1e-6
    )


def test_without_any_picture_the_prior_answers_loudly(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    shutil.rmtree(kaggle.test / "images")
    (kaggle.test / "images.7z").touch()
    answers, said = kaggle.answers(), capsys.readouterr().err
    assert "images.7z: a 7z cannot be read on Kaggle" in said
    assert "!!!!!! no test picture can be read: submission.csv is the prior" in said
    assert set(answers.label) == {kaggle.commonest}


@pytest.mark.parametrize("tables", [[], ["sample_submission.csv", "test.csv"], ["test.csv"]])
def test_pictures_that_are_mounted_in_a_zip(
    mounted: Callable, capsys: pytest.CaptureFixture[str], tables: list[str]
) -> None:
    """And tables, each in one of its own."""
    kaggle = mounted()
    for name in ["images", *tables]:
        shutil.make_archive(str(kaggle.test / name), "zip", kaggle.test, name)
    for name in tables:
        (kaggle.test / name).unlink()
    shutil.rmtree(kaggle.test / "images")
    there = sorted(kaggle.test.iterdir())
    answers = kaggle.answers()
    assert "!!!!!!" not in capsys.readouterr().err
    assert list(answers.label) == kaggle.expected(answers, ALL)
    assert sorted(kaggle.test.iterdir()) == there, "a mount is read-only"


def test_ids_that_sample_and_test_do_not_share(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    sample = kaggle.test / "sample_submission.csv"
    table = pd.read_csv(sample, dtype=str)
    dropped = table.image[0]
    table.assign(image=["images/new.jpg", *table.image[1:]]).to_csv(sample, index=False)
    answers = kaggle.answers()
    said = capsys.readouterr().err
    assert f"lacks 1 test images, first {dropped!r}" in said
    assert "1 ids have no test image, first 'images/new.jpg': prior instead" in said
    assert list(answers.image) == ["images/new.jpg", *table.image[1:], dropped]
    assert answers.label[0] == kaggle.commonest
    assert list(answers.label[1:]) == kaggle.expected(answers[1:], ALL)


class Clock:
    """Time that passes only while a model works: `cost` seconds each, by its run."""

    def __init__(self, cost: dict[str, float]) -> None:
        self.now, self.cost = 1000.0, cost

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "one", "two"),  # and the folds of each run that answer
    [(1000, [0, 1], [0, 1]), (80, [0], [0, 1]), (60, [0, 1], [0]), (50, [0], [0]), (5, [], [0])],
)
def test_when_time_is_short_models_are_left_out(
    mounted: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    one: list[int],
    two: list[int],
) -> None:
    kaggle, clock = mounted(), Clock({"two": 30.0, "one": 10.0})
    real = answer.Work.probabilities

    def work(self: answer.Work, model: BundledModel, rows: np.ndarray) -> np.ndarray:
        clock.now += clock.cost[model.run]
        return real(self, model, rows)

    monkeypatch.setattr(answer.Work, "probabilities", work)
    monkeypatch.setattr(submit_session, "Deadline", lambda _: Deadline(seconds, clock))
    answers = kaggle.answers()
    gone = 4 - len(one) - len(two)
    said = capsys.readouterr().err
    assert (f"{gone} of 4 models left out" in said) is bool(gone) and "!!!!!!" not in said
    kept = {f"one/fold{fold}/test.hflip.npz": 1 / len(one) for fold in one}
    kept |= {f"two/fold{fold}/test.none.npz": 2 / len(two) for fold in two}
    assert list(answers.label) == kaggle.expected(answers, kept)
    assert clock.now <= 1000 + max(seconds, 30)


def test_one_view_answers_where_there_is_no_time_for_all(
    mounted: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle, real, tried = mounted("probability"), answer.Work.probabilities, []

    def slow(self: answer.Work, model: BundledModel, rows: np.ndarray) -> np.ndarray:
        tried.append(model.predict.tta)
        if tried[-1] == "hflip":
            raise TimeoutError
        return real(self, model, rows)

    monkeypatch.setattr(answer.Work, "probabilities", slow)
    answers = kaggle.answers().set_index("image")[kaggle.manifest.classes].astype(float)
    assert "one fold 1 is given up" in capsys.readouterr().err
    assert tried == ["none"] + ["hflip"] * 4, "each of the two is tried twice"
    assert not np.isclose(answers, [kaggle.manifest.prior] * 7, atol=1e-6).all(axis=1).any()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_share_of_the_pictures_for_each_gpu(
    mounted: Callable, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """With three GPUs, which may be more than pictures; a process that dies once is replaced."""
    kaggle, real, died = mounted("probability", n), answer.Work.probabilities, []
    alone = kaggle.answers()

    def on_one_of_three(self: answer.Work, model: BundledModel, rows: np.ndarray) -> np.ndarray:
        assert len(rows) in (n // 3, n // 3 + 1)
        died.append((model.fold, model.predict.tta, rows[0]))
        if died.count((0, "hflip", 1)) == 1:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return real(self, model, rows)

    monkeypatch.setattr(pool, "visible_gpus", lambda: ["a", "b", "c"])
    monkeypatch.setattr(answer.Work, "probabilities", on_one_of_three)
    shared = kaggle.answers()
    assert list(shared.image) == list(alone.image)
    values = [answers[kaggle.manifest.classes].astype(float) for answers in (alone, shared)]
    np.testing.assert_allclose(*values, atol=1e-4)  # kernels have long weights: roundings grow
    assert n == 1 or np.abs(np.diff(values[0], axis=0)).max() > 1e-3, "no two are alike"
    assert died.count((0, "hflip", 1)) == (0 if n == 1 else 2)


def test_a_model_that_fails_is_given_up(
    mounted: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle, real = mounted(), answer.Work.probabilities

    def sick(self: answer.Work, model: BundledModel, rows: np.ndarray) -> np.ndarray:
        return real(self, model, rows) * (np.nan if model.run == "one" else 1)

    monkeypatch.setattr(answer.Work, "probabilities", sick)
    answers = kaggle.answers()
    assert "!!!!!! one fold 0 is given up: it has not answered" in capsys.readouterr().err
    two = {name: weight for name, weight in ALL.items() if name.startswith("two")}
    assert list(answers.label) == kaggle.expected(answers, two)


def test_a_manifest_that_is_none(mounted: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    kaggle = mounted()
    (kaggle.weights / FILE).write_text("{}")
    kaggle.answers()
    assert "validation errors for Manifest" in capsys.readouterr().err


def test_one_fold_of_each_run_comes_first(bundled: Callable[[str], Path]) -> None:
    manifest = Manifest.load(bundled("label") / "runs" / "blend" / "bundle" / "weights")
    ordered = [(model.run, model.fold) for model in models.queue_of(manifest.models)]
    assert ordered == [("two", 0), ("one", 0), ("two", 1), ("one", 1)]
