"""A page of pictures with captions, drawn with PIL: text and rows of pictures in one column."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, GREY, LINE, ACCENT = "#ffffff", "#202326", "#757b82", "#d5d8db", "#d1495b"
SIDE = 224  # px: a picture is enlarged by the whole factor that comes nearest
FONT = 21  # px of a caption under a picture of that side


@dataclass(frozen=True)
class Cell:
    """A picture, uint8 [size, size, 3], and lines under it: text on the left, a value right."""

    pixels: np.ndarray
    lines: list[tuple[str, str]] = field(default_factory=list)
    marked: bool = False


class Page:
    """Strips under each other, all lengths in proportion to the side of a picture."""

    def __init__(self, size: int, columns: int):
        self.zoom = max(1, round(SIDE / size))
        self.side, self.columns = size * self.zoom, columns
        self.gap, self.margin = self._px(14), self._px(56)
        self.inner = columns * self.side + (columns - 1) * self.gap
        self.strips: list[Image.Image] = []

    def text(self, text: str, ink: str = GREY, scale: float = 1.0) -> None:
        """A paragraph, broken at spaces where it is wider than the pictures."""
        font = self._font(scale)
        for line in wrap(text, font, self.inner):
            pen = self._strip(round(font.size * 1.4))
            pen.text((self.margin, 0), line, fill=ink, font=font)

    def space(self, scale: float = 1.0) -> None:
        self._strip(self._px(FONT * scale))

    def row(self, cells: list[Cell]) -> None:
        """Up to `columns` pictures side by side, their pixels repeated and otherwise untouched."""
        font, frame = self._font(), self.gap // 2
        pitch, lines = round(font.size * 1.3), max(len(cell.lines) for cell in cells)
        under = lines * pitch + self._px(10) * bool(lines)
        pen = self._strip(self.side + 2 * frame + under)
        for column, cell in enumerate(cells):
            x = self.margin + column * (self.side + self.gap)
            self._picture(pen, cell, x, frame)
            for i, (text, value) in enumerate(cell.lines):
                y, right = self.side + frame + self._px(10) + i * pitch, x + self.side
                room = self.side - font.getlength(value) - font.size / 2
                pen.text((x, y), shorten(text, font, room), fill=INK, font=font)
                pen.text((right, y), value, fill=GREY, font=font, anchor="ra")

    def image(self) -> Image.Image:
        """The page so far, between its margins."""
        height = sum(strip.height for strip in self.strips) + 2 * self.margin
        page = Image.new("RGB", (self.inner + 2 * self.margin, height), PAPER)
        y = self.margin
        for strip in self.strips:
            page.paste(strip, (0, y))
            y += strip.height
        return page

    def _strip(self, height: int) -> ImageDraw.ImageDraw:
        self.strips.append(Image.new("RGB", (self.inner + 2 * self.margin, height), PAPER))
        return ImageDraw.Draw(self.strips[-1])

    def _picture(self, pen: ImageDraw.ImageDraw, cell: Cell, x: int, y: int) -> None:
        far = self.side, self.side
        if cell.marked:
            away = self._px(6)
            box = (x - away, y - away, x + far[0] + away - 1, y + far[1] + away - 1)
            pen.rectangle(box, outline=ACCENT, width=self._px(3))
        pen.rectangle((x - 1, y - 1, x + far[0], y + far[1]), outline=LINE)  # paper is white too
        picture = Image.fromarray(cell.pixels).resize(far, Image.Resampling.NEAREST)
        self.strips[-1].paste(picture, (x, y))

    def _px(self, length: float) -> int:
        return max(1, round(length * self.side / SIDE))

    def _font(self, scale: float = 1.0) -> ImageFont.FreeTypeFont:
        return ImageFont.load_default(size=self._px(FONT * scale))


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of whole words that fit into `width` px; a longer word is shortened."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(word, font, width))
    return lines


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, or as much of its beginning as fits into `width` px with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1].rstrip()
    return f"{text}…"
