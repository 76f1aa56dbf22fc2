"""The pictures of a page: each is kept once, as large as the page's budget allows."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from pipeline.base.cli import UserError
from pipeline.data.images import Pixels, decode
from pipeline.data.prepared import Prepared
from pipeline.data.studies import answered
from pipeline.pages.page import data_uri, shrunk, thumbnail

SIDES = (288, 224, 160, 112)  # px of the longer side, the first that fits
BUDGET, SHEET_BUDGET = 2_600_000, 1_500_000  # characters of all pictures, and of the map's
MOST_TILES = 9  # pictures of an id that are shown
MOST_PIXELS = 1 << 20  # of a file that is read again; of larger ones the packed picture is shown
TILES = (112, 80, 56)  # px of the map's pictures, the first that fits


class Album:
    """Collects the rows that a page shows; `store` then gives their pixels, by `key`.

    `of_id` has the rows of each id of several pictures by the first of them, which stands for all.
    """

    def __init__(self, prepared: Prepared, of_id: dict[int, np.ndarray] | None = None):
        self.prepared, self.pixels, self.of_id = prepared, prepared.pixels, of_id or {}
        rows = prepared.rows
        self.ids = answered(rows).to_numpy()
        self.area = rows.width.astype(int).to_numpy() * rows.height.astype(int).to_numpy()
        self.rows: set[int] = set()
        self.extra: dict[str, str] = {}

    def picture(self, row: int, title: str, text: str = "", mark: str = "") -> dict[str, Any]:
        """For a template: `mark` is bad or nothing, and colours the frame."""
        self.rows.add(int(row))
        about = {"title": title, "text": text, "mark": mark, "heat": "", "id": self.ids[row]}
        return {"key": str(int(row)), **about}

    def drawn(self, pixels: np.ndarray, title: str, text: str = "") -> dict[str, Any]:
        """The same of a picture that is nobody's row, uint8 [h, w, 3]."""
        key = f"x{len(self.extra)}"
        self.extra[key] = thumbnail(pixels, SIDES[1])
        return {"key": key, "title": title, "text": text, "mark": "", "heat": "", "id": ""}

    def store(self) -> dict[str, str]:
        """The `src` of each key, as large as BUDGET allows."""
        rows = sorted(self.rows)
        with ThreadPoolExecutor(4) as pool:  # decoding and encoding leave the interpreter free
            found = list(pool.map(self.best, rows))
            for side in SIDES:
                sources = list(pool.map(lambda rgb, side=side: thumbnail(rgb, side), found))
                if sum(map(len, sources)) <= BUDGET:
                    break
        return dict(zip(map(str, rows), sources, strict=True)) | self.extra

    def best(self, row: int) -> np.ndarray:
        """The file's own pixels where they are few, else the packed ones; uint8 [h, w, 3].

        Of an id of several pictures those of `together`.
        """
        if len(some := self.of_id.get(row, [])) > 1:
            return together(self.pixels, some)
        few = self.area[row] <= MOST_PIXELS
        rgb = original(self.prepared, row) if few else np.asarray(self.pixels[row])
        return shrunk(rgb, SIDES[0])

    def sheet(self, rows: np.ndarray) -> dict[str, Any]:
        """All of `rows` as tiles of one picture, row by row: src, columns, side (px)."""
        columns = int(np.ceil(np.sqrt(len(rows))))
        for side in TILES:
            src = data_uri(tiled(self.pixels, rows, columns, side))
            if len(src) <= SHEET_BUDGET:
                break
        return {"src": src, "columns": columns, "side": side}


def original(prepared: Prepared, row: int) -> np.ndarray:
    """The picture as it lies in the competition's folder, or else as it was packed."""
    try:
        return decode(prepared.data / prepared.rows.path[row]).rgb
    except UserError:  # moved since
        return np.asarray(prepared.pixels[row])


def together(pixels: Pixels, rows: np.ndarray | list[int]) -> np.ndarray:
    """The packed picture of one row, or the first MOST_TILES of several, side by side."""
    if len(rows) == 1:
        return np.asarray(pixels[rows[0]])
    columns = int(np.ceil(np.sqrt(min(len(rows), MOST_TILES))))
    return tiled(pixels, rows[:MOST_TILES], columns, 2 * SIDES[0] // columns)


def tiled(pixels: Pixels, rows: np.ndarray, columns: int, side: int) -> np.ndarray:
    """uint8 [h, w, 3]: squares of `side` px, `columns` of them in a row."""
    canvas = np.full((-(-len(rows) // columns) * side, columns * side, 3), 127, np.uint8)

    def put(i: int) -> None:
        y, x = (side * n for n in divmod(i, columns))
        tile = cv2.resize(pixels[rows[i]], (side, side), interpolation=cv2.INTER_AREA)
        canvas[y : y + side, x : x + side] = tile

    with ThreadPoolExecutor(4) as pool:  # pictures that are not packed are decoded
        list(pool.map(put, range(len(rows))))
    return canvas
