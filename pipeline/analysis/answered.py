"""Held-out rows as they are scored, and what each member of a blend answers to them."""

import numpy as np
import pandas as pd

from pipeline.analysis.members import Member
from pipeline.base.competition import Competition
from pipeline.data.decisions import Changes
from pipeline.data.prepared import load_prepared
from pipeline.data.studies import mean_by
from pipeline.inference.predictions import out_of_fold


def held_out(
    members: list[Member],
    table: pd.DataFrame,
    changes: Changes,
    rules: Competition,
    classes: list[str],
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Rows of the folds file with labels as decided, and each member's answers [n, classes].

    Where an id has several pictures there is one row for it, with the mean of its answers.
    """
    scored = table[table.fold.isin(members[0].folds)]
    mended = changes.applied(table).loc[scored.index]
    oof = [out_of_fold(m.name, m.views, scored, classes) for m in members]
    if not rules.picture:
        return mended, oof
    names = studies_of(members[0], "train", list(scored.image))
    once = mended.assign(image=names).drop_duplicates("image", ignore_index=True)
    return once, [mean_by(names, prob)[1] for prob in oof]


def studies_of(member: Member, split: str, images: list[str]) -> list[str]:
    """The id that each picture is of."""
    rows = load_prepared(member.settings).rows
    return rows[rows.split == split].set_index("id").study.loc[images].tolist()
