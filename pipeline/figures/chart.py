"""A log-log chart, drawn with PIL: lines and points, each named where it ends."""

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.figures.sheet import GREY, INK, LINE, PAPER

INKS = ["#1f5f8b", "#d1495b", "#3b8254", "#c77d1e", "#6b4e9b", "#4f5d66"]
ZOOM = 2  # drawn larger, then averaged: PIL's own lines have steps
WIDTH, HEIGHT = 900, 640  # px
LOW, HIGH = np.array((92, 566)) * ZOOM, np.array((700, 116)) * ZOOM  # corners of the plot


def prefixed(value: float, unit: str = "") -> str:
    """1500 → `1.5 k`, with three digits."""
    step = min(max(0, math.floor(math.log10(value) / 3 + 1e-9)), 5)
    return f"{float(f'{value / 1000**step:.3g}'):g} {' kMGTP'[step].strip()}{unit}".strip()


class Chart:
    """Series of positive points (x, y) under a title and a caption; `x` and `y` name the axes."""

    def __init__(self, title: str, caption: str, x: str, y: str):
        self.page = Image.new("RGB", (WIDTH * ZOOM, HEIGHT * ZOOM), PAPER)
        self.pen, self.series = ImageDraw.Draw(self.page), []
        (left, bottom), (right, top) = LOW, HIGH
        self._text((left, 22 * ZOOM), title, INK, "la", 24)
        self._text((left, 54 * ZOOM), caption, GREY, "la")
        self._text((right, bottom + 62 * ZOOM), x, GREY, "rd")
        self._text((left - 70 * ZOOM, top - 12 * ZOOM), y, GREY, "ld")

    def add(self, label: str, points: list[tuple[float, float]], dots: bool = False) -> None:
        """Points joined by a line or, with `dots`, each by itself."""
        self.series.append((label, points, dots, INKS[len(self.series) % len(INKS)]))

    def image(self) -> Image.Image:
        every = np.log10(np.concatenate([points for _, points, _, _ in self.series]))
        air = 0.06 * np.ptp(every, axis=0)
        self.low, self.high = every.min(0) - air, every.max(0) + air
        self._grid()
        names = []
        for label, points, dots, ink in self.series:
            places = [self._at(*point) for point in points]
            self._draw(places, dots, ink)
            names.append((places[-1][1], places[-1][0], label, ink))
        free = 0.0  # names are pushed apart where they would touch
        for y, x, label, ink in sorted(names):
            free = max(free + 20 * ZOOM, y)
            self._text((x + 14 * ZOOM, free), label, ink, "lm")
        return self.page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        share = (np.log10((x, y)) - self.low) / (self.high - self.low)
        return tuple(LOW + share * (HIGH - LOW))

    def _grid(self) -> None:
        (left, bottom), (right, top) = LOW, HIGH
        for value in self._ticks(0):
            x, _ = self._at(value, 1)
            self.pen.line((x, bottom, x, top), fill=LINE, width=ZOOM)
            self._text((x, bottom + 8 * ZOOM), prefixed(value), GREY, "ma")
        for value in self._ticks(1):
            _, y = self._at(1, value)
            self.pen.line((left, y, right, y), fill=LINE, width=ZOOM)
            self._text((left - 10 * ZOOM, y), prefixed(value), GREY, "rm")

    def _ticks(self, axis: int) -> Iterator[float]:
        """Powers of ten, and twice and five times those where there would be few."""
        low, high = self.low[axis], self.high[axis]
        for exponent in range(math.floor(low), math.floor(high) + 1):
            for step in (1, 2, 5) if high - low < 2.3 else (1,):
                if low <= math.log10(step) + exponent <= high:
                    yield step * 10.0**exponent

    def _draw(self, places: list[tuple[float, float]], dots: bool, ink: str) -> None:
        if not dots:
            self.pen.line(places, fill=ink, width=3 * ZOOM, joint="curve")
        for place in places if dots or len(places) > 3 else ():
            self.pen.circle(place, (7 if dots else 4) * ZOOM, fill=ink, outline=PAPER, width=ZOOM)

    def _text(
        self, at: tuple[float, float], text: str, ink: str, anchor: str, px: int = 15
    ) -> None:
        font = ImageFont.load_default(size=px * ZOOM)
        self.pen.text(at, text, fill=ink, font=font, anchor=anchor)


def side_by_side(charts: list[Chart]) -> Image.Image:
    page = Image.new("RGB", (WIDTH * len(charts), HEIGHT), PAPER)
    for i, chart in enumerate(charts):
        page.paste(chart.image(), (i * WIDTH, 0))
    return page
