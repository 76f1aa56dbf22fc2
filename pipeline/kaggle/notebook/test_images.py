"""The hidden test's pictures, decoded once: some may be broken, and none of them may matter."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.base.cli import say, warn
from pipeline.base.progress import Progress
from pipeline.data.images import BadImageError, FilePixels
from pipeline.data.reading import read_in_order
from pipeline.kaggle.notebook.multi_gpu import Source

SHOWN = 5  # broken pictures named one by one
Form = tuple[int, str]  # side in px, and how a picture becomes a square


@dataclass
class Pictures:
    """`good`: numbers of those that can be read; `sources`: their pixels in each form."""

    good: np.ndarray
    sources: dict[Form, Source]

    @classmethod
    def none(cls) -> "Pictures":
        return cls(np.zeros(0, dtype=int), {})


def read_pictures(paths: list[Path], forms: list[Form], scratch: str) -> Pictures:
    """Decode all files in each form and pack them in `scratch`, where there is room for that."""
    well = np.ones(len(paths), dtype=bool)
    sources = {}
    for size, fit in forms:
        bulk = len(paths) * size**2 * 3
        packed = None
        if bulk < shutil.disk_usage(scratch).free / 2:  # a full disk kills whoever maps a file
            packed = Path(scratch) / f"{size}-{fit}.npy"
        else:
            warn("kernel", f"no room for {bulk / 1e9:.0f} GB of pixels: files are read each time")
        read_form(paths, (size, fit), packed, well)
        sources[size, fit] = packed or FilePixels(paths, size, fit)
    bad = len(paths) - int(well.sum())
    if bad:
        warn("kernel", f"{bad} of {len(paths):,} pictures are broken: the prior answers for them")
    return Pictures(np.flatnonzero(well), sources)


def read_form(paths: list[Path], form: Form, packed: Path | None, well: np.ndarray) -> None:
    """Decode all files; their pixels go to `packed`, and `well` loses those that are broken."""
    size, fit = form
    pack = None
    if packed:
        shape = (len(paths), size, size, 3)
        pack = np.lib.format.open_memmap(packed, mode="w+", dtype=np.uint8, shape=shape)
    with Progress("decode", len(paths), "images") as progress:
        for i, result in enumerate(read_in_order(paths, size, fit)):
            if isinstance(result, BadImageError):
                if well[i] and len(paths) - well.sum() < SHOWN:
                    warn("kernel", f"{paths[i]}: {result}")
                well[i] = False
            elif pack is not None:
                pack[i] = result[1]
            progress.advance()
    say("kernel", f"{len(paths):,} pictures decoded at {size} px")
