"""The submission table: the sample submission with our answers, audited."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.csv_files import write_csv
from pipeline.inference.predictions import Predictions


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
            if len(columns) != 1:  # whatever its name: train.csv may call it otherwise
                raise UserError(f"columns {columns}, expected one for the answer")
            chosen = predictions.aligned(ids, classes).argmax(1)
            table[columns[0]] = [classes[i] for i in chosen]
    except UserError as error:
        raise UserError(f"{where} does not fit the predictions: {error}") from None
    table = table[list(sample)]
    audit(table, sample, competition)
    return table


def write_table(table: pd.DataFrame, out: Path) -> None:
    with records.writing(out) as tmp:
        write_csv(table, tmp, "%.7g")


def audit(table: pd.DataFrame, sample: pd.DataFrame, competition: Competition) -> None:
    """Raise UserError for what Kaggle would refuse."""
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
