"""Several pictures of one id: a study, whose answer follows from those to each of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.base.competition import Competition

TINY = 1e-7  # float32 knows no probability between 1 less this and 1


def answered(rows: pd.DataFrame) -> pd.Series:
    """What is asked of each picture's row, from `read_rows`: the study's name, or its own."""
    return rows["study" if "study" in rows else "id"]


def mean_by(
    names: Sequence[object], values: np.ndarray, of: str = "mean"
) -> tuple[list[str], np.ndarray]:
    """Each name once, in the order of the rows, and the mean (`of`: max) of its rows, float32."""
    table = pd.DataFrame(np.asarray(values, dtype=float))
    found = table.groupby(np.array(names, dtype=object), sort=False).agg(of)
    return list(found.index), found.to_numpy(np.float32)


def by_id(
    names: Sequence[str], prob: np.ndarray, rules: Competition
) -> tuple[list[str], np.ndarray]:
    """As `mean_by`, of one model's answers `prob` [pictures, n]: what it answers to each id.

    Each model answers an id before models are averaged,
    so that out-of-fold rows, which one model answers, are made as those of the test are.
    """
    from scipy.special import expit, logit, softmax  # late: half a second

    how, shares = rules.of_pictures, rules.form.kind == "shares"
    if how == "logits":
        log = np.log if shares else logit
        ids, found = mean_by(names, log(prob.astype(float).clip(TINY, 1 - TINY)))
        return ids, softmax(found, axis=1) if shares else expit(found)
    if how == "max" and shares:
        ids, found = mean_by(names, prob[:, 1:], "max")
        return ids, np.hstack([1 - found, found])
    return mean_by(names, prob, how)
