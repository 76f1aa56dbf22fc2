"""Charts: numbers read as people write them, ticks where there would be few."""

import pytest

from pipeline.figures.charts import blank_charts, finish_chart, prefixed


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (999.4, "999"), (1500, "1.5 k"), (1e6, "1 M"), (6.03e10, "60.3 G"), (0.01, "0.01")],
)
def test_prefixed(value: float, text: str) -> None:
    assert prefixed(value) == text


def test_prefixed_with_a_unit() -> None:
    assert prefixed(14.1e9, "B/s") == "14.1 GB/s"
    assert prefixed(20, "B/s") == "20 B/s"


def test_few_decades_have_ticks_between_and_lines_are_named_where_they_end() -> None:
    figure, (axes, _) = blank_charts(2)
    axes.plot((1, 40), (5, 1e6), label="above")
    axes.plot((1, 40), (5, 1e3), label="below")
    axes.plot(3, 1e5, "o", label="dot")
    finish_chart(axes, "title", "caption", "x", "y")
    figure.canvas.draw()
    ticks = {label.get_text() for label in axes.get_xticklabels()}
    assert {"1", "2", "5", "10", "20"} <= ticks
    assert not {"2 k", "5 k"} & {label.get_text() for label in axes.get_yticklabels()}
    assert [text.get_text() for text in axes.get_legend().texts] == ["above", "dot", "below"]
