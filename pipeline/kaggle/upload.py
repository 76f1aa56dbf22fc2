"""A submission's way to Kaggle: once only, and back with its score into the ledger."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.kaggle import ledger
from pipeline.kaggle.client import sign_in, told
from pipeline.parts import records
from pipeline.parts.cli import UserError, say

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.competitions.types.competition_api_service import ApiSubmission

POLL, POLLS = 10, 60  # seconds between two questions for the score, and how many


def upload(csv: Path, slug: str) -> None:
    """Send an audited submission and wait for its score; one sent already is only asked after.

    Raises UserError for a file that has its score, for none left today, and for all that
    Kaggle or the network refuses. What was sent is in the ledger whatever comes after.
    """
    sha256 = hashlib.sha256(csv.read_bytes()).hexdigest()
    row = ledger.find(slug, sha256)
    if row and row["status"] == "complete":
        raise UserError(
            f"{csv}: this very file is on Kaggle since {row['time']}, {scores(row)}; "
            "it would cost a submission to hear the same"
        )
    api = sign_in()
    if row is None:
        row = about(csv, slug, sha256)
        row["ref"] = str(sent_before(api, row) or send(api, csv, row))
        ledger.put(row)
        say("submit", f"sent; its score is awaited, for at most {POLL * POLLS // 60} min")
    judged = await_score(api, slug, row["ref"])
    row |= outcome(judged)
    ledger.put(row)
    if row["status"] == "error":
        raise UserError(f"{csv}: Kaggle cannot score it: {judged.error_description}")
    left = submissions_left(api, slug)
    say("submit", f"{row['name']}: {scores(row)}{left}; {ledger.ledger_path()}")


def about(csv: Path, slug: str, sha256: str) -> ledger.Row:
    """The ledger's row of a submission that is not yet sent, from its record."""
    record = records.load(csv)
    cv = record["cv"]
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "name": csv.stem,
        "slug": slug,
        "metric": record["metric"],
        "cv": f"{np.mean(cv['folds']):.5f}",
        "oof": f"{cv['all']:.5f}",
        "public": "",
        "private": "",
        "status": "pending",
        "git": record["git"] or "",
        "sha256": sha256,
    }


def sent_before(api: KaggleApi, row: ledger.Row) -> int | None:
    """Kaggle's number of this very file, where it was sent elsewhere or before a crash."""
    with told("competition", row["slug"]):
        made = api.competition_submissions(row["slug"])
    good = [one for one in made if one.status.name != "ERROR"]
    return next((one.ref for one in good if mark(row) in one.description), None)


def send(api: KaggleApi, csv: Path, row: ledger.Row) -> int:
    """Upload the file; returns Kaggle's number of the submission."""
    slug = row["slug"]
    left = submissions_left(api, slug, refuse=True)
    text = f"{row['name']}: {row['metric']} OOF {row['oof']}, git {row['git']}, {mark(row)}"
    say("submit", f"uploading {csv} to {slug}{left}")
    with told("competition", slug):
        answer = api.competition_submit(str(csv), text, slug, quiet=True)
    if not answer.ref:  # a failed upload is a good answer without a number
        raise UserError(f"{csv}: {answer.message}; the same command tries again")
    return answer.ref


def mark(row: ledger.Row) -> str:
    return f"sha256 {row['sha256'][:12]}"


def submissions_left(api: KaggleApi, slug: str, refuse: bool = False) -> str:
    """`, 3 left today`, or nothing where Kaggle does not tell. Raises UserError at 0."""
    from requests import HTTPError

    with told("competition", slug):
        try:
            limits = api.competition_get_submission_limits(slug)
        except HTTPError:
            return ""  # only this number is lost: what is wrong shows at the upload
    if refuse and limits.num_today and not limits.num_allowed_now:
        raise UserError(
            f"{slug}: no submissions left, {limits.num_today} made today; the day ends at 0:00 UTC"
        )
    in_team = limits.num_today or limits.num_allowed_now  # all zero before the first
    return f", {limits.num_allowed_now} left today" if in_team else ""


def await_score(api: KaggleApi, slug: str, ref: str, polls: int = POLLS) -> ApiSubmission | None:
    """The submission once Kaggle has judged it; None when that takes longer than `polls`."""
    for poll in range(polls):
        if poll:
            time.sleep(POLL)
        with told("competition", slug):
            made = api.competition_submissions(slug)
        one = next((one for one in made if str(one.ref) == ref), None)
        if one and one.status.name != "PENDING":
            return one
    return None


def outcome(one: ApiSubmission | None) -> ledger.Row:
    if one is None:
        return {"status": "pending"}
    return {
        "status": one.status.name.lower(),
        "public": one.public_score,
        "private": one.private_score,
    }


def scores(row: ledger.Row) -> str:
    if row["status"] == "pending":
        return "no score yet; the same command asks again"
    private = f", private {row['private']}" if row["private"] else ""
    return f"public {row['public']}{private} (OOF {row['oof']}, {row['metric']})"
