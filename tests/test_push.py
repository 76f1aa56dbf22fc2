"""Kaggle's real client takes a bundle to a stand-in for Kaggle; what is done is not done again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import enter
from kaggle_stub import KaggleStub

from pipeline.kaggle import push, upload
from pipeline.kaggle.ledger import read_ledger

SENT = ["CreateDataset", "CreateDatasetVersion", "SaveKernel", "CreateCodeSubmission"]


@pytest.fixture
def home(bundled: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(bundled("label"), tmp_path / "home")
    enter(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(push, "POLL", 0)
    monkeypatch.setattr(upload, "POLL", 0)
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
        ("ListKernelSessionOutput", {"files": [], "log": "!!!!!! no"}, "ran, but without models"),
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
