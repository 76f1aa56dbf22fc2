"""Classes: counts by hand, with more errors one way than the other."""

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.classes import ceiling, class_table, confusion, worst_pairs

#       oak: 3 right, 2 called elm · elm: 1 right, 1 called oak · fir: 1 called elm · yew: none
TARGET = np.array([0, 0, 0, 0, 0, 1, 1, 2])
ANSWER = np.array([0, 0, 0, 1, 1, 1, 0, 1])


def test_a_row_of_each_class() -> None:
    table = class_table(TARGET, ANSWER, ["oak", "elm", "fir", "yew"])
    assert table.n.tolist() == [5, 2, 1, 0]
    np.testing.assert_allclose(table.recall, [3 / 5, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(table.precision, [3 / 4, 1 / 4, np.nan, np.nan])
    assert table.confused.tolist() == [1, 0, 1, -1]
    assert table.times.tolist() == [2, 1, 1, 0]
    assert confusion(TARGET, ANSWER, 4)[2].tolist() == [0, 1, 0, 0]


def test_the_worst_pairs_point_to_where_more_is_lost() -> None:
    assert worst_pairs(TARGET, ANSWER, 4, 9) == [(0, 1, 3), (2, 1, 1)]
    assert worst_pairs(ANSWER, TARGET, 4, 1) == [(1, 0, 3)]
    assert worst_pairs(TARGET, TARGET, 4, 9) == []


def test_contradictory_twins_set_a_ceiling() -> None:
    group = pd.Series(list("aabbbcd"))
    label = pd.Series(list("xxxxyxy"))  # of b one of three must be wrong
    assert ceiling(group, label) == pytest.approx(6 / 7)
    assert ceiling(pd.Series(list("abc")), pd.Series(list("xyx"))) == 1.0
