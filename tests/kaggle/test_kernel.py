"""Night on Kaggle, in this process: whatever is mounted, a valid submission.csv comes of it."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import enter

from pipeline.base import records
from pipeline.base.competition import load_competition
from pipeline.base.deadline import Deadline
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.bundle.rehearsal import compare, hide, mount
from pipeline.kaggle.notebook import multi_gpu, submit_session
from pipeline.kaggle.notebook.manifest import FILE, Job, Manifest


class Kaggle:
    """Kaggle's folders around a bundle, and one night in them."""

    def __init__(self, home: Path, folder: Path, n: int) -> None:
        self.home, self.runs, self.folder = home, home / "runs", folder
        made_of = records.load(self.runs / "blend" / "test.npz")["key"]
        self.competition = load_competition(made_of["competition"])
        mount(self.runs / "blend" / "bundle", folder)
        slug = self.competition.slug
        self.test = folder / "competitions" / slug
        self.weights = folder / "datasets" / "owner" / f"{slug}-blend-weights"
        self.ours = hide(home / "data" / slug, self.competition, self.test, n)
        self.manifest = Manifest.load(self.weights)

    @property
    def job(self) -> Job:
        return Job(name="blend", competition=self.competition, weights=self.weights.name)

    def night(self, gpus: int = 0, deadline: Deadline | None = None) -> pd.DataFrame:
        test = submit_session.open_test(self.job)
        if deadline:
            test.deadline = deadline
        submit_session.predict(test, submit_session.open_weights(test), gpus)
        submit_session.audit(test)
        return pd.read_csv(test.out, dtype=str, keep_default_na=False)

    def compare(self, answers: pd.DataFrame) -> str:
        local = pd.read_csv(self.home / "submissions" / "blend.csv", dtype=str)
        blend = Predictions.load(self.runs / "blend" / "test.npz")
        return compare(answers, local, self.ours, self.competition, blend, 1e-5)

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


@pytest.fixture
def mounted(
    bundled: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Kaggle]:
    def build(form: str = "label", n: int = 7) -> Kaggle:
        enter(monkeypatch, bundled(form))
        monkeypatch.setenv("KAGGLE_INPUT_DIR", str(tmp_path / "input"))
        monkeypatch.setenv("KAGGLE_WORKING_DIR", str(tmp_path / "working"))
        return Kaggle(bundled(form), tmp_path / "input", n)

    return build


ALL = {"one/fold0/test.hflip.npz": 1, "one/fold1/test.hflip.npz": 1}
ALL |= {"two/fold0/test.none.npz": 2, "two/fold1/test.none.npz": 2}


@pytest.mark.parametrize("form", ["label", "classify-leaves", "dog-breed-identification"])
@pytest.mark.parametrize("n", [0, 1, 7, 30])
def test_the_local_answers_at_every_size(mounted: Callable, form: str, n: int) -> None:
    kaggle = mounted(form, n)
    answers = kaggle.night()
    assert kaggle.compare(answers).startswith(f"{n} rows as in the local submission")
    sample = pd.read_csv(kaggle.test / "sample_submission.csv", dtype=str)
    column = kaggle.competition.id
    assert list(answers) == list(sample) and list(answers[column]) == list(sample[column])


def test_the_local_answers_are_no_constant(mounted: Callable) -> None:
    kaggle = mounted()
    answers = kaggle.night()
    assert list(answers.label) == kaggle.expected(answers, ALL)
    assert answers.label.nunique() > 1
    with pytest.raises(Exception, match="of 7 answers differ from the local submission, first"):
        kaggle.compare(answers.assign(label="x"))


def test_weights_that_are_missing_or_damaged_are_left_out(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    (kaggle.weights / "one-fold0.safetensors").unlink()
    damaged = kaggle.weights / "two-fold1.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    answers = kaggle.night()
    said = capsys.readouterr()
    assert "one fold 0 is left out: one-fold0.safetensors is missing" in said.err
    assert "two-fold1.safetensors has another sha256" in said.err
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
    answers = kaggle.night()
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
    answers = kaggle.night()
    said = capsys.readouterr().err
    assert "!!!!!! open_weights failed" in said and "no dataset 'leaves-blend-weights'" in said
    pd.testing.assert_frame_equal(
        answers, pd.read_csv(kaggle.test / "sample_submission.csv", dtype=str)
    )


def test_without_a_sample_nothing_ends_in_an_error(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    (kaggle.test / "sample_submission.csv").unlink()
    test = submit_session.open_test(kaggle.job)
    submit_session.predict(test, submit_session.open_weights(test))
    submit_session.audit(test)
    said = capsys.readouterr().err
    assert said.count("!!!!!!") == 2 and "no competition 'leaves' with a sample_sub" in said


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
    answers = kaggle.night().set_index("image")[kaggle.manifest.classes].astype(float)
    prior = np.isclose(answers, [kaggle.manifest.prior] * 7, atol=1e-6).all(axis=1)
    assert int(prior.sum()) == (4 if code_competition and not rerun else 0)


@pytest.mark.parametrize("damage", ["half", "garbage", "gone"])
def test_a_broken_picture_gets_the_prior_and_harms_no_other(
    mounted: Callable, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted("probability")
    whole = kaggle.night().set_index("image")
    name = kaggle.ours.index[3]
    data = (kaggle.test / name).read_bytes()
    (kaggle.test / name).unlink()
    if damage != "gone":
        (kaggle.test / name).write_bytes(data[: len(data) // 2] if damage == "half" else b"no")
    answers = kaggle.night().set_index("image")
    said = capsys.readouterr().err
    assert f"{name}: " in said and "1 of 7 pictures are broken" in said
    classes = kaggle.manifest.classes
    np.testing.assert_allclose(
        answers.loc[name, classes].astype(float), kaggle.manifest.prior, atol=1e-6
    )
    rest = answers.index != name
    np.testing.assert_allclose(
        answers[classes][rest].astype(float), whole[classes][rest].astype(float), atol=1e-6
    )


def test_ids_that_sample_and_test_do_not_share(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    sample = kaggle.test / "sample_submission.csv"
    table = pd.read_csv(sample, dtype=str)
    dropped = table.image[0]
    table.assign(image=["images/new.jpg", *table.image[1:]]).to_csv(sample, index=False)
    answers = kaggle.night()
    said = capsys.readouterr().err
    assert f"lacks 1 test images, first {dropped!r}" in said
    assert "1 ids have no test image, first 'images/new.jpg': prior instead" in said
    assert list(answers.image) == ["images/new.jpg", *table.image[1:], dropped]
    assert answers.label[0] == kaggle.commonest
    assert list(answers.label[1:]) == kaggle.expected(answers[1:], ALL)


def test_when_time_is_short_models_are_left_out(
    mounted: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    ticks = iter(range(0, 10_000, 10))
    answers = kaggle.night(deadline=Deadline(90, lambda: float(next(ticks))))
    assert "2 models left out, 1 with fewer views than asked for" in capsys.readouterr().err
    assert len(answers) == 7 and set(answers.label) <= set(kaggle.manifest.classes)


def test_a_model_that_fails_is_given_up(
    mounted: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle = mounted()
    real = multi_gpu.sum_of_looks

    def sick(weights: Path, member: multi_gpu.Member, *rest: object) -> np.ndarray:
        if member.run == "one":
            return real(weights, member, *rest) * np.nan
        return real(weights, member, *rest)

    monkeypatch.setattr(multi_gpu, "sum_of_looks", sick)
    answers = kaggle.night()
    assert "one fold 0 is given up: its answers are not numbers" in capsys.readouterr().err
    two = {name: weight for name, weight in ALL.items() if name.startswith("two")}
    assert list(answers.label) == kaggle.expected(answers, two)


def gpu_and_rows(weights: Path, member: object, source: Path, rows: np.ndarray, looks: object):
    gpu = np.full(len(rows), float(os.environ["CUDA_VISIBLE_DEVICES"]))
    return np.stack([gpu, rows], axis=1)


@pytest.mark.parametrize("n", [1, 2])
def test_a_process_for_each_gpu_and_every_row_in_its_place(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_gpu, "sum_of_looks", gpu_and_rows)  # torch twice takes long to import
    processes = multi_gpu.Shards(n, Deadline(600.0))
    told = [processes.predict(None, None, None, np.array(rows), None) for rows in ([9, 5, 7], [3])]
    processes.close()
    second = n - 1  # the GPU of every other row
    assert told[0].tolist() == [[0, 9], [second, 5], [0, 7]] and told[1].tolist() == [[0, 3]]


POISONED = "STANDS_FOR_A_BROKEN_CUDA_CONTEXT"


def falls_ill(weights: Path, member: multi_gpu.Member, met: Path, rows: np.ndarray, looks: object):
    """A stand-in whose second process dies, breaks or is silent: once, or always for `fatal`."""
    if os.environ.get(POISONED):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    kind = member.file
    if rows[0] == 1 and kind != "well" and (kind == "fatal" or not met.exists()):
        met.touch()
        if kind == "sticky":
            os.environ[POISONED] = "1"
            raise RuntimeError("CUDA error: device-side assert triggered")
        if kind == "silent":
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)
    return np.stack([rows, rows * 2], axis=1)


@pytest.mark.parametrize("kind", ["dies", "sticky", "fatal", "silent"])
def test_a_gpu_process_that_fails_is_replaced_and_its_work_done_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multi_gpu, "sum_of_looks", falls_ill)
    processes = multi_gpu.Shards(2, Deadline(0.0 if kind == "silent" else 600.0))

    def predict(name: str) -> list[list[int]]:
        member = multi_gpu.Member.model_construct(file=name)
        return processes.predict(None, member, tmp_path / "met", np.arange(5), None).tolist()

    answers = [[i, 2 * i] for i in range(5)]
    try:
        assert predict("well") == answers
        if kind == "silent":
            monkeypatch.setattr(multi_gpu, "OVERTIME", 0.2)
        if kind in ("dies", "sticky"):
            assert predict(kind) == answers
        else:
            with pytest.raises(TimeoutError if kind == "silent" else BrokenProcessPool):
                predict(kind)
        monkeypatch.setattr(multi_gpu, "OVERTIME", 600.0)
        assert predict("well") == answers
    finally:
        processes.close()
    said = capsys.readouterr().err
    assert ("GPU processes are replaced" in said) is (kind != "silent")
    assert ("device-side assert" in said) is (kind == "sticky")


def test_a_manifest_that_is_none(mounted: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    kaggle = mounted()
    (kaggle.weights / FILE).write_text("{}")
    kaggle.night()
    assert "not a manifest" in capsys.readouterr().err


def test_memory_that_does_not_hold_a_batch() -> None:
    from torch import OutOfMemoryError

    tried = []

    def look(runtime: multi_gpu.Runtime) -> np.ndarray:
        tried.append(runtime.predict_batch)
        if runtime.predict_batch > 8:
            raise OutOfMemoryError
        return np.zeros(1)

    multi_gpu.with_room(look)
    assert tried == [64, 32, 16, 8]


def test_one_fold_of_each_run_comes_first(bundled: Callable[[str], Path]) -> None:
    manifest = Manifest.load(bundled("label") / "runs" / "blend" / "bundle" / "weights")
    ordered = [(member.run, member.fold) for member in submit_session.in_order(manifest.members)]
    assert ordered == [("two", 0), ("one", 0), ("two", 1), ("one", 1)]
    assert records.load(bundled("label") / "runs" / "blend" / "bundle")["models"] == 4
