"""A submission's way to Kaggle: once only, and back with its score into the ledger."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.base import records
from pipeline.base.cli import UserError, say
from pipeline.kaggle.api import ledger
from pipeline.kaggle.api.client import ask, sign_in

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
        row["ref"] = send(
            api,
            row,
            str(csv),
            lambda text: api.competition_submit(str(csv), text, slug, quiet=True),
            f"git {row['git']}",
        )
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


def send(
    api: KaggleApi, row: ledger.Row, what: str, submit: Callable[[str], Any], source: str
) -> str:
    """Submit `what` by `submit(description)`; returns Kaggle's number of the submission.

    One that Kaggle has already, sent elsewhere, before a crash or by a call whose answer was
    lost, is not sent again. Raises UserError where none is left today, and for a refusal.
    """
    slug = row["slug"]
    if before := ask("competition", slug, lambda: sent_before(api, row)):
        return before
    left = submissions_left(api, slug, refuse=True)
    text = f"{row['name']}: {row['metric']} OOF {row['oof']}, {source}, {mark(row)}"
    say("submit", f"sending {what} to {slug}{left}")

    def number() -> str:
        answer = submit(text)
        if not answer.ref:  # a failed upload is a good answer without a number
            raise UserError(f"{what}: {answer.message}; the same command tries again")
        return str(answer.ref)

    return ask("competition", slug, number, lambda: sent_before(api, row))


def sent_before(api: KaggleApi, row: ledger.Row) -> str | None:
    """Kaggle's number of the submission in `row`, where it has one that did not fail."""
    made = api.competition_submissions(row["slug"])
    good = [one for one in made if one.status.name != "ERROR"]
    return next((str(one.ref) for one in good if mark(row) in one.description), None)


def mark(row: ledger.Row) -> str:
    return f"sha256 {row['sha256'][:12]}"


def submissions_left(api: KaggleApi, slug: str, refuse: bool = False) -> str:
    """`, 3 left today`, or nothing where Kaggle does not tell. Raises UserError at 0."""
    try:
        limits = ask("competition", slug, lambda: api.competition_get_submission_limits(slug))
    except UserError:
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
        made = ask("competition", slug, lambda: api.competition_submissions(slug))
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
