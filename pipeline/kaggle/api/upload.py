"""A submission's way to Kaggle: once only, and back with its score into the ledger."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.base import records
from pipeline.base.cli import UserError, duration, say
from pipeline.kaggle.api import ledger
from pipeline.kaggle.api.client import ask, sign_in

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

POLL, POLLS = 10, 60  # seconds between two questions for the score, and how many


def upload(csv: Path, slug: str) -> None:
    """Send an audited submission and wait for its score, unless this very file has one already.

    Raises UserError for none left today, and for all that Kaggle or the network refuses. What was
    sent is in the ledger whatever comes after.
    """
    row = find_or_start(csv, slug, hashlib.sha256(csv.read_bytes()).hexdigest())
    if row["status"] == "complete":
        return say("submit", f"{csv}: on Kaggle since {row['time']}, not sent again: {scores(row)}")
    api = sign_in()

    def submit(text: str) -> Any:
        return api.competition_submit(str(csv), text, slug, quiet=True)

    submit_once(api, row, str(csv), submit, POLLS)
    return say("submit", f"{row['name']}: {scores(row)}; {ledger.ledger_path()}")


def find_or_start(csv: Path, slug: str, sha256: str) -> ledger.Row:
    """The ledger's row of a submission, or a new one from the record of `csv`."""
    if row := ledger.find(slug, sha256):
        return row
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
        "ref": "",
        "sha256": sha256,
    }


def submit_once(
    api: KaggleApi, row: ledger.Row, what: str, submit: Callable[[str], Any], polls: int
) -> None:
    """Submit `what` by `submit(description)` and wait for its score, which `row` then holds.

    One that has a number is only asked after. `row` is kept in the ledger as soon as it is sent.
    Raises UserError where Kaggle cannot score it.
    """
    if not row["ref"]:
        row["ref"] = send(api, row, what, submit)
        ledger.put(row)
    most, slug = duration(POLL * polls), row["slug"]
    say("submit", f"its score is awaited, at most {most}; stopped, the same command asks again")
    for poll in range(polls):
        if poll:
            time.sleep(POLL)
        made = ask("competition", slug, lambda: api.competition_submissions(slug))
        one = next((one for one in made if str(one.ref) == row["ref"]), None)
        if one and one.status.name != "PENDING":
            row |= {"status": one.status.name.lower()}
            row |= {"public": one.public_score, "private": one.private_score}
            ledger.put(row)
            break
    if row["status"] == "error":
        raise UserError(f"{what}: Kaggle cannot score it: {one.error_description}")


def send(api: KaggleApi, row: ledger.Row, what: str, submit: Callable[[str], Any]) -> str:
    """Submit `what` by `submit(description)`; returns Kaggle's number of the submission.

    One that Kaggle has already, sent elsewhere, before a crash or by a call whose answer was
    lost, is not sent again. Raises UserError where none is left today, and for a refusal.
    """
    slug, mark = row["slug"], f"sha256 {row['sha256'][:12]}"

    def sent_before() -> str | None:
        made = api.competition_submissions(slug)
        good = [one for one in made if one.status.name != "ERROR"]
        return next((str(one.ref) for one in good if mark in one.description), None)

    def number() -> str:
        answer = submit(
            f"{row['name']}: {row['metric']} OOF {row['oof']}, git {row['git']}, {mark}"
        )
        if not answer.ref:  # a failed upload is a good answer without a number
            raise UserError(f"{what}: {answer.message}; the same command tries again")
        return str(answer.ref)

    if before := ask("competition", slug, sent_before):
        return before
    say("submit", f"sending {what} to {slug}{submissions_left(api, slug)}")
    return ask("competition", slug, number, sent_before)


def submissions_left(api: KaggleApi, slug: str) -> str:
    """`, 3 left today`, or nothing where Kaggle does not tell. Raises UserError at 0."""
    try:
        limits = ask("competition", slug, lambda: api.competition_get_submission_limits(slug))
    except UserError:
        return ""  # only this number is lost: what is wrong shows at the upload
    made, left = limits.num_today, limits.num_allowed_now
    if made and not left:
        text = f"no submissions left, {made} made today; the day ends at 0:00 UTC"
        raise UserError(f"{slug}: {text}")
    return f", {left} left today" if made or left else ""  # all zero before the first


def scores(row: ledger.Row) -> str:
    if row["status"] == "pending":
        return "no score yet; the same command asks again"
    private = f", private {row['private']}" if row["private"] else ""
    return f"public {row['public']}{private} (OOF {row['oof']}, {row['metric']})"
