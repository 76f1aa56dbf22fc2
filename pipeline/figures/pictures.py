"""A page of pictures: strips with a title, rows of pictures and what is to be said of each."""

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, LINE, ACCENT = "#202326", "#757b82", "#d5d8db", "#d1495b"
SIDE, GAP, TEXT = 2.0, 0.14, 0.21  # inches: a picture, the space between two, a line of text
DPI = 112  # 224 px a picture
PER_COLUMN = 21  # characters of a caption above it
SHOWN = 18  # characters of a name under a picture
Label = list[tuple[str, str]]  # lines under a picture: a name on the left, a value on the right


@dataclass(frozen=True)
class Strip:
    """Pictures, uint8 [h, w, 3], under a title or none; `marked` frames the first."""

    title: str
    caption: str
    pictures: list[np.ndarray]
    labels: list[Label] = field(default_factory=list)
    marked: bool = False

    def head(self, columns: int) -> float:
        """Inches of title and caption."""
        lines = wrap(self.caption, columns).count("\n") + 1
        return (1.7 + 1.1 * lines) * TEXT if self.title else 0.0

    def pitch(self) -> float:
        """Inches from one row of pictures to the next."""
        return SIDE + GAP + max(map(len, self.labels), default=0) * TEXT


def wrap(text: str, columns: int) -> str:
    """In lines as wide as the page."""
    return textwrap.fill(text, columns * PER_COLUMN)


def draw_page(title: str, caption: str, strips: list[Strip], columns: int) -> "Figure":
    """The strips under each other, `columns` pictures a row."""
    from matplotlib.figure import Figure  # late: half a second

    caption = wrap(caption, columns)
    width = columns * (SIDE + GAP) + 3 * GAP
    y = 2 * GAP + (3.6 + 1.1 * caption.count("\n")) * TEXT
    rows = [-(-len(strip.pictures) // columns) for strip in strips]
    heads = [strip.head(columns) for strip in strips]
    heights = [h + n * s.pitch() + 1.8 * TEXT for s, n, h in zip(strips, rows, heads, strict=True)]
    height = y + sum(heights)
    figure = Figure((width, height), dpi=DPI)

    def text(y: float, words: str, size: float, ink: str) -> None:
        at, how = (2 * GAP / width, 1 - y / height), {"va": "top", "parse_math": False}
        figure.text(*at, words, fontsize=size, color=ink, **how)

    text(2 * GAP, title, 22, INK)
    text(2 * GAP + 1.9 * TEXT, caption, 12, GREY)
    for strip, head, used in zip(strips, heads, heights, strict=True):
        text(y, strip.title, 16, INK)
        text(y + 1.4 * TEXT, wrap(strip.caption, columns), 12, GREY)
        for i, picture in enumerate(strip.pictures):
            x = 2 * GAP + i % columns * (SIDE + GAP)
            under = y + head + i // columns * strip.pitch() + SIDE
            axes = figure.add_axes((x / width, 1 - under / height, SIDE / width, SIDE / height))
            label = strip.labels[i] if strip.labels else []
            draw_picture(axes, picture, label, strip.marked and i == 0)
        y += used
    return figure


def draw_picture(axes: "Axes", picture: np.ndarray, label: Label, marked: bool) -> None:
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=ACCENT if marked else LINE, linewidth=3 if marked else 0.8)
    for line, (name, value) in enumerate(label):
        y = -0.04 - line * TEXT / SIDE
        short = name if len(name) <= SHOWN else f"{name[: SHOWN - 1].rstrip()}…"
        for x, words, ink, side in ((0, short, INK, "left"), (1, value, GREY, "right")):
            how = {"transform": axes.transAxes, "va": "top", "parse_math": False}
            axes.text(x, y, words, color=ink, ha=side, **how)
