"""A submission goes to Kaggle once, audited, and its score comes back into the ledger."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml
from kaggle_stub import KaggleStub

from pipeline.base import records
from pipeline.kaggle.api import upload

Run = Callable[..., str]


@pytest.fixture
def name(
    space: Path,
    kaggle: KaggleStub,
    split: Callable[[str], str],
    write: Callable[..., str],
    blended: Callable[..., str],
) -> str:
    """A blend that can be submitted to `tiny-leaves`; the client waits for nothing."""
    competition = space / "demo.yaml"
    competition.write_text(yaml.safe_dump({"slug": "tiny-leaves"}))
    return blended(split(write(competition=str(competition))))


def ledger(space: Path) -> pd.DataFrame:
    return pd.read_csv(space / "submissions" / "ledger.csv", dtype=str, keep_default_na=False)


def test_an_upload_is_scored_and_noted(name: str, space: Path, kaggle: KaggleStub, run: Run):
    kaggle.pending_polls = 3
    text = run("submit", name, "--upload")
    assert "public 0.91, private 0.90 (OOF 0.62500, accuracy); " in text
    assert "to tiny-leaves, 5 left today" in text
    csv = (space / "submissions" / "tiny.csv").read_text()
    (sent,) = kaggle.submissions
    assert sent["csv"] == csv and sent["competitionName"] == "tiny-leaves"
    sha256 = hashlib.sha256(csv.encode()).hexdigest()
    assert "accuracy OOF 0.62500, git " in sent["submissionDescription"]
    assert f"sha256 {sha256[:12]}" in sent["submissionDescription"]
    (row,) = ledger(space).to_dict("records")
    expected = {"name": "tiny", "slug": "tiny-leaves", "cv": "0.62500", "oof": "0.62500"}
    expected |= {"public": "0.91", "private": "0.90", "status": "complete", "sha256": sha256}
    assert expected.items() <= row.items()


def test_the_same_file_is_not_sent_again(name: str, kaggle: KaggleStub, run: Run) -> None:
    run("submit", name, "--upload")
    text = run("submit", name, "--upload")
    assert "not sent again: public 0.91" in text
    assert len(kaggle.submissions) == 1


def test_the_ledger_follows_a_cv_that_moved_since(
    name: str, space: Path, kaggle: KaggleStub, run: Run
) -> None:
    run("submit", name, "--upload")
    blend = space / "runs" / name / "test.npz"
    scores = {name: {"folds": [0.25, 0.5], "all": 0.4}}  # a label was mended
    records.commit(blend, records.load(blend)["key"], 0.0, metric="accuracy", scores=scores)
    run("submit", name, "--upload")
    (row,) = ledger(space).to_dict("records")
    assert (row["cv"], row["oof"], row["public"]) == ("0.37500", "0.40000", "0.91")
    assert len(kaggle.submissions) == 1


def test_a_row_that_another_process_adds_meanwhile_stays(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = dict.fromkeys(upload.COLUMNS, "") | {"slug": "tiny-leaves", "ref": "1"}

    @contextmanager
    def waited(folder: Path) -> Iterator[None]:
        upload.write_csv(pd.DataFrame([ours | {"ref": "2"}]), upload.ledger_path())
        yield

    monkeypatch.setattr(upload, "locked", waited, raising=False)
    upload.put(ours)
    assert sorted(ledger(space).ref) == ["1", "2"]


def test_a_score_that_takes_long_is_asked_for_again(
    name: str, space: Path, kaggle: KaggleStub, run: Run
) -> None:
    kaggle.pending_polls = upload.POLLS + 1  # one is the look for an earlier upload
    assert "no score yet; the same command asks again" in run("submit", name, "--upload")
    assert list(ledger(space).status) == ["pending"]
    assert "public 0.91" in run("submit", name, "--upload")
    assert list(ledger(space).status) == ["complete"] and len(kaggle.submissions) == 1


def test_a_score_that_came_after_many_more_submissions_is_found(
    name: str, space: Path, kaggle: KaggleStub, run: Run
) -> None:
    kaggle.pending_polls = upload.POLLS + 1
    run("submit", name, "--upload")
    kaggle.submissions += [{"submissionDescription": "another"}] * 30
    assert "public 0.91" in run("submit", name, "--upload")
    assert list(ledger(space).ref) == ["1"]


def test_a_file_sent_before_a_crash_is_found_again(
    name: str, space: Path, kaggle: KaggleStub, run: Run
) -> None:
    run("submit", name, "--upload")
    (space / "submissions" / "ledger.csv").unlink()
    assert "public 0.91" in run("submit", name, "--upload")
    assert list(ledger(space).ref) == ["1"] and len(kaggle.submissions) == 1


def test_a_file_that_fails_the_audit_is_not_sent(
    name: str, space: Path, kaggle: KaggleStub, run: Run
) -> None:
    run("submit", name)
    path = space / "submissions" / "tiny.csv"
    path.write_text(path.read_text().rsplit("\n", 2)[0] + "\n")
    text = run("submit", name, "--upload", expect=2)
    assert "tiny.csv: shape (11, 2), the sample has (12, 2); delete it" in text
    assert kaggle.calls == []


def test_what_a_sample_of_ones_own_is_for_leads_to_the_website(
    space: Path, kaggle: KaggleStub, run: Run, write: Run, split: Run, blended: Run
) -> None:
    """Kaggle asks for a column that nothing answers: what is advised must not end in a circle."""
    folder, competition = space / "data" / "demo", space / "demo.yaml"
    theirs = pd.read_csv(folder / "sample_submission.csv")
    theirs.assign(confidence=1).to_csv(folder / "sample_submission.csv", index=False)
    competition.write_text("slug: tiny-leaves\n")
    told = run("prepare", write(competition=str(competition)), expect=2)
    assert "write a sample with these columns" in told and "upload it on the website" in told
    theirs.to_csv(folder / "mine.csv", index=False)
    competition.write_text("slug: tiny-leaves\nsample: mine.csv\n")
    run("submit", name := blended(split(write(competition=str(competition)))))
    path = space / "submissions" / "tiny.csv"
    pd.read_csv(path).assign(confidence=1).to_csv(path, index=False)
    told = run("submit", name, "--upload", expect=2)
    assert told.endswith("or upload it as it is on the website\n") and kaggle.calls == []


def test_none_left_today(name: str, space: Path, kaggle: KaggleStub, run: Run) -> None:
    kaggle.answer["GetSubmissionLimits"] = {"numToday": 5, "numAllowedNow": 0}
    text = run("submit", name, "--upload", expect=2)
    assert "no submissions left, 5 made today; the day ends at 0:00 UTC" in text
    assert not kaggle.submissions and not (space / "submissions" / "ledger.csv").exists()


def test_limits_that_are_not_told_do_not_matter(name: str, kaggle: KaggleStub, run: Run) -> None:
    kaggle.fail["GetSubmissionLimits"] = (501, "unknown")
    assert "left today" not in run("submit", name, "--upload")


def test_a_failed_upload_is_not_noted_and_tried_again(
    name: str, space: Path, kaggle: KaggleStub, run: Run
) -> None:
    kaggle.fail["PUT"] = (403, "")
    text = run("submit", name, "--upload", expect=2)
    assert "Could not submit to competition; the same command tries again" in text
    kaggle.fail.clear()
    kaggle.fail["CreateSubmission"] = (400, "Submission not allowed: late submission is disabled")
    assert "Kaggle refuses: Submission not allowed" in run("submit", name, "--upload", expect=2)
    assert not (space / "submissions" / "ledger.csv").exists()
    kaggle.fail.clear()
    run("submit", name, "--upload")


def test_a_file_that_kaggle_cannot_score(
    name: str, space: Path, kaggle: KaggleStub, run: Run
) -> None:
    kaggle.verdict = "ERROR"
    assert "Kaggle cannot score it: Missing rows" in run("submit", name, "--upload", expect=2)
    assert list(ledger(space).status) == ["error"]
    kaggle.verdict = "COMPLETE"
    kaggle.submissions.clear()
    run("submit", name, "--upload")
    assert list(ledger(space).status) == ["complete"]


def test_a_competition_that_is_not_on_kaggle(
    space: Path, run: Run, split: Callable, write: Callable, blended: Callable
) -> None:
    text = run("submit", blended(split(write())), "--upload", expect=2)
    assert "demo has no slug: it is not on Kaggle" in text
