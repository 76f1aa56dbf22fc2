"""Stage 6: write the submission CSV, audited, in the form of the sample submission.

reads   runs/NAME/test.npz, the competition's sample_submission.csv (and solution.csv if known)
writes  submissions/NAME.csv and its record: git commit, members, CV
run     python -m pipeline.submit demo

Ids and their order, columns and their order come from the sample. Nothing is written before the
audit passes. --upload audits the file once more, sends it, and waits for the score, which goes
into submissions/ledger.csv; a file is sent once.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took, warn
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv
from pipeline.base.forms import as_array
from pipeline.base.runs import cv_of, cv_words, load_blend
from pipeline.data.prepared import prepared_data
from pipeline.data.tables import read_sample
from pipeline.inference.metrics import METRICS
from pipeline.inference.predictions import Predictions
from pipeline.inference.submission import audit, fill_sample, write_table
from pipeline.inference.thresholds import Decision
from pipeline.kaggle.api.client import on_kaggle
from pipeline.kaggle.api.upload import upload

VERSION = 1


def main(
    name: str,
    send: Annotated[bool, typer.Option("--upload", help="then send it to Kaggle")] = False,
) -> None:
    started = time.monotonic()
    blend, record = load_blend(name)
    competition = load_competition(record["key"]["competition"])
    folder = prepared_data(record["key"]["competition"])
    sample_path, solution_path = folder / competition.sample, folder / competition.solution
    sample = read_sample(sample_path, competition)
    out = root("submissions") / f"{name}.csv"
    # by another metric it would stand beside the CV of this one
    known = solution_path.is_file() and record["metric"] == competition.metric
    key = {
        "version": VERSION,
        "predictions": records.file_digest(blend),
        "sample": records.digest(sample.to_dict("split")["data"]),
        "columns": list(sample),
        "form": competition.submission,
        "solution": records.file_digest(solution_path) if known else None,
        "scored": records.digest([record["metric"], cv_of(record)]),
    }
    if competition.k > 1:
        key["k"] = competition.k
    if decision := record.get("decision"):
        key["decision"] = decision

    def work() -> dict[str, Any]:
        predictions = Predictions.load(blend)
        table = fill_sample(sample, predictions, competition, str(sample_path), decision)
        facts = {"members": record["key"]["members"], "weights": record["key"]["weights"]}
        facts |= {"metric": record["metric"], "cv": cv_of(record), "rows": len(table)}
        if key["solution"]:
            facts |= hidden_score(solution_path, predictions, competition, decision)
        write_table(table, out)
        return facts

    made = not edited(out, key) and records.make(out, key, work)
    say("submit", f"{describe(out)}, {took(started) if made else 'up to date'}")
    if send:
        send_audited(out, sample, competition)


def edited(out: Path, key: dict[str, Any]) -> bool:
    """Whether an up-to-date submission was edited by hand: it is kept, with a warning.

    Raises UserError for an edited one that is out of date: to make it anew would lose the edits.
    """
    record = records.load(out)
    if record is None or records.is_intact(out, record):
        return False
    masked = dict.fromkeys(("scored", "solution"))  # other scores do not make the file another
    before, now = (one | masked for one in (record["key"], records.plain(key)))
    if before != now:
        text = "edited by hand, and what it was made from has changed: move it away"
        raise UserError(f"{out}: {text}")
    warn("submit", f"{out} was edited by hand: kept as it is; delete it to make it anew")
    return True


def send_audited(out: Path, sample: pd.DataFrame, competition: Competition) -> None:
    """Upload the file as it is, edits by hand included. Raises UserError if the audit fails."""
    slug = on_kaggle(competition)
    try:
        audit(read_csv(out, []), sample, competition)
    except UserError as error:
        text = "delete it to make it anew, or upload it as it is on the website"
        raise UserError(f"{out}: {error}; {text}") from None
    upload(out, slug)


def hidden_score(
    path: Path, predictions: Predictions, competition: Competition, decision: dict[str, Any] | None
) -> dict[str, float]:
    """The metric against known answers; they are used here only, after everything is decided.

    A file that cannot score is warned of: the submission is good without.
    """
    try:
        answers = read_csv(path, [competition.id, *competition.label_columns])
        form, ids = competition.form, answers[competition.id]
        labels, classes = form.labels(answers), predictions.classes
        if twice := ids[ids.duplicated()].tolist():
            raise UserError(f"{path}: id {twice[0]!r} stands twice")
        named = {part for label in labels for part in form.parts(label)}
        if unknown := sorted(named - set(classes)):
            raise UserError(f"{path}: label {unknown[0]!r} does not occur in training")
        if bad := next(filter(None, map(form.fault, labels)), ""):
            raise UserError(f"{path}: {bad}")
        prob = predictions.aligned(list(ids), predictions.classes)
    except UserError as error:
        warn("submit", f"no hidden score: {path} does not fit: {error}")
        return {}
    target = as_array(form.targets(labels, classes))
    prob = Decision(**decision)(prob) if decision else prob
    return {"hidden": round(METRICS[competition.metric](target, prob), 5)}


def describe(out: Path) -> str:
    record = records.load(out)
    cv, metric = record["cv"], record["metric"]
    hidden = f", hidden test {record['hidden']:.4f}" if "hidden" in record else ""
    return f"{out}: {record['rows']:,} rows, {metric} {cv_words(cv)}{hidden}"


if __name__ == "__main__":
    run_stage(main)
