"""Every picture of a competition, read in threads: its pixels in one shape, and its facts."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.base.cli import UserError, listing
from pipeline.base.libc import cores
from pipeline.base.progress import Progress
from pipeline.base.settings import sides
from pipeline.data.images import BadImageError, decode, shaped

Facts = dict[str, object]
AHEAD = 256  # pictures that are decoded and wait to be written


def read_all(
    rows: pd.DataFrame, folder: Path, size: int | Sequence[int], fit: str, out: Path | None
) -> list[Facts]:
    """Facts of every picture in the order of `rows`, their pixels packed as by `pack`.

    Raises UserError that names every bad file.
    """
    paths = [folder / path for path in rows.path]
    facts = pack(paths, size, fit, out, "prepare")
    found = zip(paths, facts, strict=True)
    if bad := [f"{path}: {one}" for path, one in found if isinstance(one, BadImageError)]:
        text = "pictures cannot be used: restore the files, or drop their rows from the CSV"
        raise UserError(f"{listing(bad)}\n{len(bad)} of {len(rows):,} {text}")
    return facts


def pack(
    paths: list[Path], size: int | Sequence[int], fit: str, out: Path | None, stage: str
) -> list[Facts | BadImageError]:
    """Read all files; `out`, where there is room for one, gets uint8 [n, h, w, 3] as .npy.

    A bad file is an error among the facts, and zeros among the pixels. Without `out` no picture is
    brought into shape.
    """
    cv2.setNumThreads(1)  # the pool below is the parallelism: OpenCV and PIL release the GIL
    shape = (*sides(size), 3)
    work = partial(read, size=size if out else None, fit=fit)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *shape)}
    found: list[Facts | BadImageError] = []
    with (
        Progress(stage, total=len(paths), unit="images") as progress,
        Path(out or os.devnull).open("wb") as file,  # in order: mapped, it would stay in memory
        ThreadPoolExecutor(cores()) as pool,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(paths), AHEAD):
            part = paths[start : start + AHEAD]
            for facts, pixels in pool.map(work, part):
                found.append(facts)
                file.write(bytes(prod(shape)) if pixels is None else pixels.tobytes())
                progress.advance()
    return found


def read(
    path: Path, size: int | Sequence[int] | None, fit: str
) -> tuple[Facts | BadImageError, np.ndarray | None]:
    """Facts of a file, and its pixels [h, w, 3] in the shape of `size`, if one is asked."""
    try:
        picture = decode(path)
    except BadImageError as error:
        return error, None
    height, width = picture.rgb.shape[:2]
    facts = {"width": width, "height": height, "hash": picture.digest, "note": picture.note}
    return facts, shaped(picture.rgb, size, fit) if size else None
