"""A submission's way to Kaggle: once only, and back with its score into the ledger.

submissions/ledger.csv has a row for each: what went to Kaggle, our own scores, Kaggle's scores.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, duration, say
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv, write_csv
from pipeline.base.locks import locked
from pipeline.kaggle.api.client import ask, sign_in

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

POLL, POLLS = 10, 60  # seconds between two questions for the score, and how many
LATEST = 100  # submissions among which ours is sought; the client asks for 20
Row = dict[str, str]
COLUMNS = ["time", "name", "slug", "metric", "cv", "oof", "public", "private", "status"]
COLUMNS += ["git", "ref", "sha256"]  # status: pending, complete or error


def upload(csv: Path, slug: str) -> None:
    """Send an audited submission and wait for its score, unless this very file has one already."""

    def submit(api: KaggleApi, text: str) -> Any:
        return api.competition_submit(str(csv), text, slug, quiet=True)

    submit_once(csv, slug, hashlib.sha256(csv.read_bytes()).hexdigest(), submit, POLLS)


def submit_once(
    csv: Path, slug: str, sha256: str, submit: Callable[[KaggleApi, str], Any], polls: int
) -> None:
    """Submit by `submit(api, description)` and wait for the score, unless `sha256` has one.

    `csv` is the local submission, whose record tells our scores. One that has a number is only
    asked after. What was sent is in the ledger whatever comes after. Raises UserError for none
    left today, for a file that cannot be scored, and for all that Kaggle or the network refuses.
    """
    rows = [row for row in read_ledger() if (row["slug"], row["sha256"]) == (slug, sha256)]
    row = next((row for row in reversed(rows) if row["status"] != "error"), None)
    row = row or new_row(csv, slug, sha256)
    if row["status"] == "complete":
        if row["name"] == csv.stem:  # labels or the metric may have been mended since
            now = new_row(csv, slug, sha256)
            put(row := row | {name: now[name] for name in ("metric", "cv", "oof")})
        return say("submit", f"{csv}: on Kaggle since {row['time']}, not sent again: {scores(row)}")
    api = sign_in()
    if not row["ref"]:
        row["ref"] = send(api, row, lambda text: submit(api, text))
        put(row)
    most = duration(POLL * polls)
    say("submit", f"its score is awaited, at most {most}; stopped, the same command asks again")
    for poll in range(polls):
        if poll:
            time.sleep(POLL)
        made = ask("competition", slug, lambda: latest(api, slug))
        one = next((one for one in made if str(one.ref) == row["ref"]), None)
        if one and one.status.name != "PENDING":
            row |= {"status": one.status.name.lower()}
            row |= {"public": one.public_score, "private": one.private_score}
            put(row)
            break
    if row["status"] == "error":
        raise UserError(f"{csv}: Kaggle cannot score it: {one.error_description}")
    return say("submit", f"{row['name']}: {scores(row)}; {ledger_path()}")


def latest(api: KaggleApi, slug: str) -> list[Any]:
    """Our submissions, the newest first."""
    return api.competition_submissions(slug, page_size=LATEST)


def new_row(csv: Path, slug: str, sha256: str) -> Row:
    """What the record of `csv` says of a submission that is to be made."""
    record = records.load(csv)
    cv = record["cv"]
    return dict.fromkeys(COLUMNS, "") | {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "name": csv.stem,
        "slug": slug,
        "metric": record["metric"],
        "cv": mean_of(cv["folds"]),
        "oof": f"{cv['all']:.5f}" if cv["folds"] else "",
        "status": "pending",
        "git": record["git"] or "",
        "sha256": sha256,
    }


def mean_of(scores: list[float]) -> str:
    """A CV as the ledger has it; nothing where no picture was held out."""
    return f"{np.mean(scores):.5f}" if scores else ""


def send(api: KaggleApi, row: Row, submit: Callable[[str], Any]) -> str:
    """Submit by `submit(description)`; returns Kaggle's number of the submission.

    One that Kaggle has already, sent elsewhere, before a crash or by a call whose answer was
    lost, is not sent again.
    """
    name, slug, mark = row["name"], row["slug"], f"sha256 {row['sha256'][:12]}"

    def sent_before() -> str | None:
        made = latest(api, slug)
        good = [one for one in made if one.status.name != "ERROR"]
        return next((str(one.ref) for one in good if mark in one.description), None)

    def number() -> str:
        answer = submit(f"{name}: {row['metric']} OOF {row['oof']}, git {row['git']}, {mark}")
        if not answer.ref:  # a failed upload is a good answer without a number
            raise UserError(f"{name}: {answer.message}; the same command tries again")
        return str(answer.ref)

    if before := ask("competition", slug, sent_before):
        return before
    say("submit", f"sending {name} to {slug}{submissions_left(api, slug)}")
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


def scores(row: Row) -> str:
    if row["status"] == "pending":
        return "no score yet; the same command asks again"
    private = f", private {row['private']}" if row["private"] else ""
    return f"public {row['public']}{private} (OOF {row['oof']}, {row['metric']})"


def ledger_path() -> Path:
    return root("submissions") / "ledger.csv"


def read_ledger() -> list[Row]:
    """All submissions, the oldest first."""
    if not ledger_path().exists():
        return []
    return read_csv(ledger_path(), COLUMNS).to_dict("records")


def put(row: Row) -> None:
    """Add a submission, or replace what was known of the one with this `slug` and `ref`."""
    with locked(ledger_path().parent):  # another process may add one
        rows = {(row["slug"], row["ref"]): row for row in [*read_ledger(), row]}
        write_csv(pd.DataFrame(rows.values(), columns=COLUMNS), ledger_path())
