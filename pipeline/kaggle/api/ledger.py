"""submissions/ledger.csv: what went to Kaggle, what we thought of it, what Kaggle said."""

from pathlib import Path

import pandas as pd

from pipeline.base import records
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv

Row = dict[str, str]
COLUMNS = ["time", "name", "slug", "metric", "cv", "oof", "public", "private", "status"]
COLUMNS += ["git", "ref", "sha256"]  # status: pending, complete or error


def ledger_path() -> Path:
    return root("submissions") / "ledger.csv"


def read_ledger() -> list[Row]:
    """All submissions, the oldest first."""
    if not ledger_path().exists():
        return []
    return read_csv(ledger_path(), COLUMNS).to_dict("records")


def find(slug: str, sha256: str) -> Row | None:
    """The last submission of this very file to this competition that did not fail, if any."""
    rows = [row for row in read_ledger() if (row["slug"], row["sha256"]) == (slug, sha256)]
    return next((row for row in reversed(rows) if row["status"] != "error"), None)


def put(row: Row) -> None:
    """Add a submission, or replace what was known of the one with this `slug` and `ref`."""
    same = (row["slug"], row["ref"])
    rows = [row if (old["slug"], old["ref"]) == same else old for old in read_ledger()]
    if row not in rows:
        rows.append(row)
    with records.writing(ledger_path()) as tmp:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp, index=False, lineterminator="\n")
