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
    code, order = pd.factorize(np.array(names, dtype=object))
    values, shares = prob.astype(float), rules.form.kind == "shares"
    if rules.of_pictures == "logits":
        values = np.log(values.clip(TINY, 1)) - (
            0 if shares else np.log((1 - values).clip(TINY, 1))
        )
    rows = pd.DataFrame(values[:, 1:] if shares and rules.of_pictures == "max" else values)
    found = rows.groupby(code).agg("max" if rules.of_pictures == "max" else "mean").to_numpy()
    if rules.of_pictures == "logits":
        found = np.exp(found) if shares else 1 / (1 + np.exp(-found))
        found /= found.sum(1, keepdims=True) if shares else 1
    elif rules.of_pictures == "max" and shares:
        found = np.hstack([1 - found, found])
    return list(order), found.astype(np.float32)
