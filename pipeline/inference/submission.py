"""The submission table: the sample submission with our answers, audited."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.base.cli import UserError, shown
from pipeline.base.competition import Competition
from pipeline.base.csv_files import write_csv
from pipeline.inference.predictions import Predictions
from pipeline.inference.thresholds import Decision


def fill_sample(
    sample: pd.DataFrame,
    predictions: Predictions,
    competition: Competition,
    where: str,
    decision: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """The sample submission with our answers, by the `decision` of the blend's record if any.

    Raises UserError when ids or columns do not match ours, or an answer is empty or NaN.
    """
    ids = list(sample[competition.id])
    if twice := sample[competition.id][sample[competition.id].duplicated()].tolist():
        raise UserError(f"{where}: id {twice[0]!r} stands twice")
    if not np.isfinite(predictions.prob).all():
        bad = predictions.image[int(np.argwhere(~np.isfinite(predictions.prob))[0, 0])]
        raise UserError(f"the prediction of {bad!r} is not a number; predict again")
    asked = [column for column in sample if column != competition.id]
    form, classes = competition.form, predictions.classes
    expected = form.columns(classes)
    try:
        if expected is None or len(expected) == 1:
            if len(asked) != 1:  # whatever its name: train.csv may call it otherwise
                raise UserError(f"columns {asked}, expected one for the answer")
        else:
            classes = asked  # their order; any other name is refused here
        prob = predictions.aligned(ids, classes)
    except UserError as error:
        raise UserError(f"{where} does not fit the predictions: {error}") from None
    if decision:
        prob = Decision(**decision)(prob)
    answers = pd.DataFrame(form.answers(prob, classes), columns=asked)
    table = pd.concat([sample[[competition.id]].reset_index(drop=True), answers], axis=1)
    table = table[list(sample)]
    audit(table, sample, competition)
    return table


def write_table(table: pd.DataFrame, out: Path) -> None:
    write_csv(table, out, "%.7g")


def audit(table: pd.DataFrame, sample: pd.DataFrame, competition: Competition) -> None:
    """Raise UserError for what Kaggle would refuse."""
    if list(table) != list(sample):
        raise UserError(f"columns {shown(list(table))}, the sample has {shown(list(sample))}")
    if len(table) != len(sample):
        raise UserError(f"shape {table.shape}, the sample has {sample.shape}")
    if not (table[competition.id] == sample[competition.id]).all():
        raise UserError("ids are not in the order of the sample")
    if table.isna().any().any() or (table == "").any().any():
        raise UserError("an answer is empty")
    numbers = competition.form.kind == "numbers"
    if competition.submission == "probability" or numbers:
        share = table.drop(columns=competition.id).apply(pd.to_numeric, errors="coerce")
        bad = ~(share.notna() if numbers else (share >= 0) & (share <= 1)).all(axis=1)
        if bad.any():
            what = "numbers" if numbers else "probabilities"
            raise UserError(f"row {table[competition.id][bad].iloc[0]!r} holds no {what}")
