"""Kaggle's real client takes a bundle to a stand-in for Kaggle; what is done is not done again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import enter
from kaggle_stub import KaggleStub, Trouble

from pipeline.base import records
from pipeline.kaggle.api.upload import read_ledger

SENT = ["CreateDataset", "CreateDatasetVersion", "SaveKernel", "CreateCodeSubmission"]


@pytest.fixture
def home(bundled: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its bundle is made anew, around a package of one file instead of hundreds."""
    whole = bundled("label")  # made for all tests before the package is another
    package = tmp_path / "package" / "pipeline"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr("pipeline.kaggle.bundle.notebook_file.PACKAGE", package)
    ignored = shutil.ignore_patterns("data", "bundle")
    shutil.copytree(whole, tmp_path / "home", ignore=ignored)
    enter(monkeypatch, tmp_path / "home")
    return tmp_path / "home"


def sent(kaggle: KaggleStub) -> list[str]:
    calls = [call for call in kaggle.calls if call in SENT]
    kaggle.calls.clear()
    return calls


def test_from_bundle_to_score(home: Path, kaggle: KaggleStub, run: Callable) -> None:
    kaggle.pending_polls = 2
    said = run("bundle", "blend", "--push")
    assert sent(kaggle) == ["CreateDataset", "CreateDataset", "SaveKernel", "CreateCodeSubmission"]
    assert set(kaggle.datasets) == {"tester/leaves-blend-code", "tester/leaves-blend-weights"}
    (kernel,) = kaggle.kernels["tester/leaves-blend-submit"]
    assert kernel["enableInternet"] is False and kernel["enableGpu"] is True
    assert kernel["competitionDataSources"] == ["leaves"]
    assert set(kernel["datasetDataSources"]) == set(kaggle.datasets)
    (submission,) = kaggle.submissions
    assert submission["kernelOwner"] == "tester" and submission["kernelVersion"] == 1
    assert submission["kernelSlug"] == "leaves-blend-submit"
    assert submission["fileName"] == "submission.csv"
    (row,) = read_ledger()
    assert (row["name"], row["public"], row["status"]) == ("blend", "0.91", "complete")
    assert "public 0.91" in said
    files = {file["token"] for ask in kaggle.datasets.values() for file in ask[0]["files"]}
    assert len(files) == 1 + 4 * 2 + 1  # the zipped package, the models and records, the manifest
    assert files <= set(kaggle.blobs)


def test_a_blend_that_is_not_submitted_here_is_not_sent(
    home: Path, kaggle: KaggleStub, run: Callable
) -> None:
    record = home / "submissions" / "blend.csv.json"
    known = record.read_text()
    record.unlink()
    said = run("bundle", "blend", "--push", expect=2)
    assert "run python -m pipeline.submit blend" in said
    record.write_text(known)
    made = records.load(home / "submissions" / "blend.csv")
    key = made["key"] | {"predictions": "of the blend before"}
    records.commit(home / "submissions" / "blend.csv", key, 0)
    assert "of the blend as it is now" in run("bundle", "blend", "--push", expect=2)
    assert sent(kaggle) == [] and not read_ledger()


def test_only_what_changed_is_sent_again(home: Path, kaggle: KaggleStub, run: Callable) -> None:
    run("bundle", "blend", "--push")
    sent(kaggle)
    run("bundle", "blend", "--push")
    assert sent(kaggle) == []
    worse = home / "runs" / "blend" / "bundle" / "weights" / "two-fold1.safetensors"
    worse.write_bytes(worse.read_bytes()[:-1] + b"1")
    said = run("bundle", "blend", "--push")
    assert sent(kaggle) == ["CreateDatasetVersion", "SaveKernel", "CreateCodeSubmission"]
    assert kaggle.submissions[-1]["kernelVersion"] == 2 and len(read_ledger()) == 2
    asked = kaggle.requests["CreateDatasetVersion"]
    assert asked.get("body", asked)["versionNotes"].startswith("blend, git ")
    assert "public 0.91" in said


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("CreateDataset", {"status": "error", "error": "title is taken"}, "title is taken"),
        ("SaveKernel", {"error": "no GPU left this week"}, "no GPU left this week"),
        ("SaveKernel", {"invalidDatasetSources": ["x/y"]}, "invalid dataset sources: .'x/y'"),
        (
            "GetKernelSessionStatus",
            {"status": "ERROR", "failureMessage": "out of memory"},
            "version 1 failed on Kaggle: out of memory",
        ),
        ("ListKernelSessionOutput", {"files": [], "log": "!!!!!! no"}, "ran, but without all"),
        ("CreateCodeSubmission", {"message": "not a code competition"}, "not a code competition"),
    ],
)
def test_what_kaggle_refuses_is_one_line_and_the_rest_goes_on(
    home: Path, kaggle: KaggleStub, run: Callable, method: str, answer: dict, said: str
) -> None:
    kaggle.answer[method] = answer
    told = run("bundle", "blend", "--push", expect=2)
    assert said.replace(".'", "['") in told and "Traceback" not in told
    assert sum(line.startswith("error:") for line in told.splitlines()) == 1
    first = sent(kaggle)
    del kaggle.answer[method]
    assert "public 0.91" in run("bundle", "blend", "--push")
    again = sent(kaggle)
    made = [call for call in first if call == "CreateDataset"][: 0 if method == SENT[0] else 2]
    assert len(made) + again.count("CreateDataset") == 2
    assert len(kaggle.submissions) == 1


@pytest.mark.parametrize(
    ("method", "first", "how"),
    [
        ("GetDatasetStatus", 2, 503),
        ("GetKernel", 1, 429),
        ("GetKernelSessionStatus", 3, "reset"),
        ("ListKernelSessionOutput", 1, 503),
        ("GetSubmissionLimits", 1, 429),
        ("ListSubmissions", 3, "reset"),
        ("ListSubmissions", 3, 503),
        ("PUT", 2, 503),
        ("PUT", 2, "reset"),
    ],
)
def test_kaggle_falls_ill_in_the_middle_of_the_night(
    home: Path, kaggle: KaggleStub, run: Callable, method: str, first: int, how: int | str
) -> None:
    kaggle.pending_polls = 4
    kaggle.trouble[method] = Trouble(how, first, times=9)
    if method == "PUT":
        kaggle.trouble[method].times = 2  # the client repeats uploads itself, a few times
    assert "public 0.91" in run("bundle", "blend", "--push")
    assert sent(kaggle) == ["CreateDataset", "CreateDataset", "SaveKernel", "CreateCodeSubmission"]


@pytest.mark.parametrize(
    ("method", "how", "done"),
    [
        (method, how, (i + j) % 2 == 0)  # of each of them done and not done
        for i, method in enumerate(["CreateDataset", "SaveKernel", "CreateCodeSubmission"])
        for j, how in enumerate([503, 504, "reset"])
    ],
)
def test_a_change_whose_answer_was_lost_is_not_made_twice(
    home: Path, kaggle: KaggleStub, run: Callable, method: str, how: int | str, done: bool
) -> None:
    kaggle.trouble[method] = Trouble(how, done=done)
    assert "public 0.91" in run("bundle", "blend", "--push")
    assert [len(made) for made in kaggle.datasets.values()] == [1, 1]
    assert [len(made) for made in kaggle.kernels.values()] == [1]
    assert len(kaggle.submissions) == 1
    assert kaggle.calls.count(method) == (2 if method == "CreateDataset" else 1) + (not done)


def test_the_end_of_the_version_before_is_not_believed(
    home: Path, kaggle: KaggleStub, run: Callable
) -> None:
    run("bundle", "blend", "--push")
    (home / "runs" / "blend" / "pushed.json").unlink()
    kaggle.stale_polls, kaggle.pending_polls = 2, 3
    for stale in ({"status": "COMPLETE"}, {"status": "ERROR", "failureMessage": "of yesterday"}):
        kaggle.stale = stale
        kaggle.calls.clear()
        assert "failed" not in run("bundle", "blend", "--push")
        assert kaggle.calls.count("GetKernelSessionStatus") == 2 + 3 + 1
        kaggle.pending_polls = 3
        asked = kaggle.requests["GetKernelSessionStatus"]
        made = len(kaggle.kernels["tester/leaves-blend-submit"])
        assert asked.get("versionLabel", f"v{made}") == f"v{made}"  # 2.2.4 cannot ask for one
        (home / "runs" / "blend" / "pushed.json").unlink()
    assert kaggle.submissions[-1]["kernelVersion"] == 3


def test_a_score_that_takes_the_hours_of_a_hidden_test_is_awaited(
    home: Path, kaggle: KaggleStub, run: Callable
) -> None:
    submit = kaggle.CreateCodeSubmission

    def submit_and_wait(ask: dict) -> dict:
        kaggle.pending_polls = 200
        return submit(ask)

    kaggle.CreateCodeSubmission = submit_and_wait
    assert "public 0.91" in run("bundle", "blend", "--push")


def test_a_failed_run_is_pushed_again(home: Path, kaggle: KaggleStub, run: Callable) -> None:
    kaggle.answer["GetKernelSessionStatus"] = {"status": "ERROR", "failureMessage": "no GPU"}
    assert "version 1 failed on Kaggle: no GPU" in run("bundle", "blend", "--push", expect=2)
    del kaggle.answer["GetKernelSessionStatus"]
    run("bundle", "blend", "--push")
    assert kaggle.submissions[-1]["kernelVersion"] == 2


@pytest.mark.parametrize(
    ("accelerator", "shape"), [("t4x2", "NvidiaTeslaT4"), ("l4x4", "NvidiaL4"), ("cpu", None)]
)
def test_what_a_session_runs_on(
    home: Path, kaggle: KaggleStub, run: Callable, accelerator: str, shape: str | None
) -> None:
    blend, path = home / "runs" / "blend" / "test.npz", home / "leaves.yaml"
    record = records.load(blend)
    record["key"]["competition"] = str(path)
    records.write_json(records.record_path(blend), record)
    path.write_text(path.read_text() + f"accelerator: {accelerator}\nlimit_hours: 5\n")
    run("bundle", "blend", "--push")
    (asked,) = kaggle.kernels["tester/leaves-blend-submit"]
    assert asked.get("machineShape") == shape and asked["enableGpu"] is (shape is not None)
    assert asked["sessionTimeoutSeconds"] == 5 * 3600
    assert asked["dockerImagePinningType"] == "original"
