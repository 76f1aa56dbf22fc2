"""Held-out rows as they are scored, and what each run of a blend answers to them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment
from pipeline.data.decisions import Changes
from pipeline.data.prepared import load_prepared
from pipeline.data.studies import by_id
from pipeline.inference.predictions import out_of_fold


def held_out(
    settings: Experiment,
    runs: Mapping[str, str],
    folds: Sequence[int],
    table: pd.DataFrame,
    changes: Changes,
    classes: list[str],
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Rows of the folds file with labels as decided, and the answers [n, classes] of each of `runs`
    (name: views).

    Where an id has several pictures there is one row for it.
    """
    scored = table[table.fold.isin(folds)]
    mended = changes.applied(table).loc[scored.index]
    oof = [out_of_fold(run, views, scored, classes) for run, views in runs.items()]
    names = studies_of(settings, "train", list(scored.image))
    if names is None:
        return mended, oof
    rules = load_competition(settings.competition)
    once = mended.assign(image=names).drop_duplicates("image", ignore_index=True)
    return once, [by_id(names, prob, rules)[1] for prob in oof]


def studies_of(settings: Experiment, split: str, images: list[str]) -> list[str] | None:
    """The id that each picture is of; None where an id has one picture."""
    if not load_competition(settings.competition).picture:
        return None
    rows = load_prepared(settings).rows
    return rows[rows.split == split].set_index("id").study.loc[images].tolist()
