"""Several pictures of one id: a study, whose answer is the mean over them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def answered(rows: pd.DataFrame) -> pd.Series:
    """What is asked of each picture's row, from `read_rows`: the study's name, or its own."""
    return rows["study" if "study" in rows else "id"]


def mean_by(names: Sequence[str], prob: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Each name once, in the order of the rows, and the mean of its rows, float32."""
    code, order = pd.factorize(np.array(names, dtype=object))
    sums = np.zeros((len(order), prob.shape[1]))
    np.add.at(sums, code, prob)
    return list(order), (sums / np.bincount(code)[:, None]).astype(np.float32)
