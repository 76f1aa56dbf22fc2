"""Charts: numbers read as people write them, and points stand where they should."""

import numpy as np
import pytest

from pipeline.figures.chart import HIGH, INKS, LOW, Chart, prefixed, side_by_side


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (999.4, "999"), (1500, "1.5 k"), (1e6, "1 M"), (6.03e10, "60.3 G"), (0.01, "0.01")],
)
def test_prefixed(value: float, text: str) -> None:
    assert prefixed(value) == text


def test_prefixed_with_a_unit() -> None:
    assert prefixed(14.1e9, "B/s") == "14.1 GB/s"
    assert prefixed(20, "B/s") == "20 B/s"


def test_equal_factors_are_equal_distances() -> None:
    chart = Chart("", "", "x", "y")
    chart.add("line", [(1, 10), (10, 100), (100, 1000)])
    chart.image()
    places = np.array([chart._at(x, 10 * x) for x in (1, 10, 100)])
    steps = np.diff(places, axis=0)
    np.testing.assert_allclose(steps[0], steps[1])
    assert steps[0][0] > 0 > steps[0][1], "right is more, and so is up"
    assert (places[0] > (LOW[0], HIGH[1])).all()


def test_a_dot_is_drawn_in_the_ink_of_its_series() -> None:
    chart = Chart("", "", "x", "y")
    chart.add("line", [(1, 1), (100, 100)])
    chart.add("dot", [(10, 1)], dots=True)
    chart.image()
    x, y = (round(value) for value in chart._at(10, 1))
    assert "#{:02x}{:02x}{:02x}".format(*chart.page.getpixel((x, y))) == INKS[1]


def test_few_decades_have_ticks_between() -> None:
    chart = Chart("", "", "x", "y")
    chart.add("line", [(1, 1), (40, 1e6)])
    chart.image()
    assert list(chart._ticks(0)) == [1, 2, 5, 10, 20]
    assert list(chart._ticks(1)) == [10.0**k for k in range(7)]


def test_charts_stand_side_by_side() -> None:
    charts = [Chart("", "", "x", "y") for _ in range(2)]
    for chart in charts:
        chart.add("line", [(1, 1), (10, 10)])
    one, both = charts[0].image(), side_by_side(charts)
    assert both.size == (2 * one.width, one.height)
