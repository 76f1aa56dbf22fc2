"""Several pictures of one id: a study, whose answer follows from those to each of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.base.competition import Competition

TINY = 1e-7  # float32 knows no probability between 1 less this and 1


def answered(rows: pd.DataFrame) -> pd.Series:
    """What is asked of each picture's row, from `read_rows`: the study's name, or its own."""
    return rows["study" if "study" in rows else "id"]


def by_id(
    names: Sequence[str], prob: np.ndarray, rules: Competition
) -> tuple[list[str], np.ndarray]:
    """Each name once, in the order of the rows, and its answer by one model, float32 [ids, n].

    `names` are those of the rows of `prob`. Each model answers an id before models are averaged,
    so that out-of-fold rows, which one model answers, are made as those of the test are.
    """
    from scipy.special import expit, logit, softmax  # late: half a second

    code, order = pd.factorize(np.array(names, dtype=object))
    how, shares, values = rules.of_pictures, rules.form.kind == "shares", prob.astype(float)
    if how == "logits":
        values = (np.log if shares else logit)(values.clip(TINY, 1 - TINY))
    if how == "max" and shares:
        values = values[:, 1:]
    found = pd.DataFrame(values).groupby(code).agg("max" if how == "max" else "mean").to_numpy()
    if how == "logits":
        found = softmax(found, axis=1) if shares else expit(found)
    if how == "max" and shares:
        found = np.hstack([1 - found, found])
    return list(order), found.astype(np.float32)
