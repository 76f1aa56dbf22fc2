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

import numpy as np
import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took, warn
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv, write_csv
from pipeline.data.tables import labels_of
from pipeline.inference.predictions import Predictions, spread
from pipeline.kaggle.api.client import on_kaggle
from pipeline.kaggle.api.upload import upload
from pipeline.training.keys import load_blend

VERSION = 1


def main(
    name: str,
    send: Annotated[bool, typer.Option("--upload", help="then send it to Kaggle")] = False,
) -> None:
    started = time.monotonic()
    blend, record = load_blend(name)
    competition = load_competition(record["key"]["competition"])
    folder = prepared_data(competition)
    sample_path, solution_path = folder / competition.sample, folder / competition.solution
    sample = read_csv(sample_path, [competition.id])
    out = root("submissions") / f"{name}.csv"
    key = {
        "version": VERSION,
        "predictions": records.file_digest(blend),
        "sample": records.digest(sample.to_dict("split")["data"]),
        "columns": list(sample),
        "form": competition.submission,
        "solution": records.file_digest(solution_path) if solution_path.is_file() else None,
    }

    def work() -> dict[str, Any]:
        predictions = Predictions.load(blend)
        table = fill_sample(sample, predictions, competition, str(sample_path))
        facts = {"members": record["key"]["members"], "weights": record["key"]["weights"]}
        facts |= {"metric": record["metric"], "cv": cv_of(record), "rows": len(table)}
        if key["solution"]:
            facts |= hidden_score(solution_path, predictions, competition)
        write_table(table, out)
        return facts

    made = not edited(out, key) and records.make(out, key, work)
    say("submit", f"{describe(out)}, {took(started) if made else 'up to date'}")
    if send:
        send_audited(out, sample, competition)


def edited(out: Path, key: dict[str, Any]) -> bool:
    """Whether hands were on a submission that is else up to date: it is kept, and that is said.

    Raises UserError if it is not: to make it anew would lose their work.
    """
    record = records.load(out)
    if record is None or records.is_intact(out, record):
        return False
    if record["key"] != records.plain(key):
        raise UserError(
            f"{out}: edited by hand, and what it was made from has changed: move it away"
        )
    warn("submit", f"{out} was edited by hand: kept as it is; delete it to make it anew")
    return True


def fill_sample(
    sample: pd.DataFrame, predictions: Predictions, competition: Competition, where: str
) -> pd.DataFrame:
    """The sample submission with our answers: labels, or a probability per class column.

    Raises UserError when ids or columns do not match ours, or an answer is empty or NaN.
    """
    ids = list(sample[competition.id])
    if twice := sample[competition.id][sample[competition.id].duplicated()].tolist():
        raise UserError(f"{where}: id {twice[0]!r} stands twice")
    if not np.isfinite(predictions.prob).all():
        bad = predictions.image[int(np.argwhere(~np.isfinite(predictions.prob))[0, 0])]
        raise UserError(f"the prediction of {bad!r} is not a number; predict again")
    columns = [column for column in sample if column != competition.id]
    classes = predictions.classes
    table = sample[[competition.id]].copy()
    try:
        if competition.submission == "probability":
            shares = pd.DataFrame(predictions.aligned(ids, columns), columns=columns)
            table = pd.concat([table, shares], axis=1)
        else:
            if columns != [competition.label]:
                raise UserError(f"columns {columns}, expected [{competition.label!r}]")
            chosen = predictions.aligned(ids, classes).argmax(1)
            table[competition.label] = [classes[i] for i in chosen]
    except UserError as error:
        raise UserError(f"{where} does not fit the predictions: {error}") from None
    table = table[list(sample)]
    audit(table, sample, competition)
    return table


def write_table(table: pd.DataFrame, out: Path) -> None:
    with records.writing(out) as tmp:
        write_csv(table, tmp, "%.7g")


def audit(table: pd.DataFrame, sample: pd.DataFrame, competition: Competition) -> None:
    """What Kaggle would refuse at night. Raises UserError."""
    if list(table) != list(sample) or len(table) != len(sample):
        raise UserError(f"shape {table.shape}, the sample has {sample.shape}")
    if not (table[competition.id] == sample[competition.id]).all():
        raise UserError("ids are not in the order of the sample")
    if table.isna().any().any() or (table == "").any().any():
        raise UserError("an answer is empty")
    if competition.submission == "probability":
        share = table.drop(columns=competition.id).apply(pd.to_numeric, errors="coerce")
        bad = ~((share >= 0) & (share <= 1)).all(axis=1)
        if bad.any():
            raise UserError(f"row {table[competition.id][bad].iloc[0]!r} holds no probabilities")


def send_audited(out: Path, sample: pd.DataFrame, competition: Competition) -> None:
    """Upload the file as it lies there, hands may have been on it. Raises UserError."""
    slug = on_kaggle(competition)
    try:
        audit(read_csv(out, []), sample, competition)
    except UserError as error:
        raise UserError(f"{out}: {error}; delete it to make it anew") from None
    upload(out, slug)


def hidden_score(
    path: Path, predictions: Predictions, competition: Competition
) -> dict[str, float]:
    """The metric against known answers; they are used here only, after everything is decided.

    A file that cannot score is warned of: the submission is good without.
    """
    from pipeline.inference.metrics import METRICS  # late: scikit-learn

    try:
        answers = read_csv(path, [competition.id, *competition.label_columns])
        labels, ids = labels_of(competition, answers, str(path)), answers[competition.id]
        index = {name: i for i, name in enumerate(predictions.classes)}
        if ids.duplicated().any():
            raise UserError(f"{path}: id {ids[ids.duplicated()].iloc[0]!r} stands twice")
        if unknown := sorted(set(labels) - set(index)):
            raise UserError(f"{path}: label {unknown[0]!r} does not occur in training")
        prob = predictions.aligned(list(ids), predictions.classes)
    except UserError as error:
        warn("submit", f"no hidden score: {path} does not fit: {error}")
        return {}
    return {"hidden": round(METRICS[competition.metric](labels.map(index).to_numpy(), prob), 5)}


def cv_of(record: dict[str, Any]) -> dict[str, Any]:
    """Scores of the blend, which stands last."""
    return list(record["scores"].values())[-1]


def prepared_data(competition: Competition) -> Path:
    """The competition's folder as the last `prepare` was told."""
    kept = (root("runs") / "_data" / competition.name).glob("*/images.csv.json")
    for path in sorted(kept, key=lambda path: path.stat().st_mtime, reverse=True):
        if record := records.load(path.with_suffix("")):
            return Path(record["data"])
    raise UserError(f"{competition.name}: no pictures; run python -m pipeline.prepare")


def describe(out: Path) -> str:
    record = records.load(out)
    cv, metric = record["cv"], record["metric"]
    hidden = f", hidden test {record['hidden']:.4f}" if "hidden" in record else ""
    return (
        f"{out}: {record['rows']:,} rows, {metric} CV {spread(cv['folds'])}, "
        f"OOF {cv['all']:.4f}{hidden}"
    )


if __name__ == "__main__":
    run_stage(main)
