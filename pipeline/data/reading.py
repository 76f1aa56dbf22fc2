"""Every picture of a competition, read in threads: its pixels as a square, and its facts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.base.cli import UserError, listing
from pipeline.base.libc import cores
from pipeline.base.progress import Progress
from pipeline.data.images import BadImageError, NoMemoryError, decode, square

Facts = dict[str, object]


def read_all(
    rows: pd.DataFrame, folder: Path, size: int, fit: str, out: Path | None
) -> list[Facts]:
    """Facts of every picture in the order of `rows`, their pixels packed as by `pack`.

    Raises UserError that names every bad file.
    """
    paths = [folder / path for path in rows.path]
    facts = pack(paths, size, fit, out, "prepare")
    bad = [
        (path, one) for path, one in zip(paths, facts, strict=True) if isinstance(one, Exception)
    ]
    if short_of_memory := [one for one in bad if isinstance(one[1], NoMemoryError)]:
        path, error = short_of_memory[0]
        raise UserError(f"{path}: {error}; it may well be whole")
    if bad:
        raise UserError(
            f"{listing([f'{path}: {error}' for path, error in bad])}\n{len(bad)} of {len(rows):,} "
            "pictures cannot be used: restore the files, or drop their rows from the CSV"
        )
    return facts


def pack(
    paths: list[Path], size: int, fit: str, out: Path | None, stage: str
) -> list[Facts | BadImageError]:
    """Read all files; `out`, where there is room for one, gets uint8 [n, size, size, 3] as .npy.

    A bad file is an error among the facts, and zeros among the pixels.
    """
    cv2.setNumThreads(1)  # the pool below is the parallelism
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size, 3)}
    found: list[Facts | BadImageError] = []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(stage, total=len(paths), unit="images"))
        # written in order: mapped, it would all stay in memory
        file = stack.enter_context(out.open("wb")) if out else None
        if file:
            np.lib.format.write_array_header_1_0(file, header)
        for facts, pixels in read_in_order(paths, size, fit):
            found.append(facts)
            if file:
                file.write(bytes(3 * size**2) if pixels is None else pixels.tobytes())
            progress.advance()
    return found


def read_in_order(
    paths: list[Path], size: int, fit: str
) -> Iterator[tuple[Facts, np.ndarray] | tuple[BadImageError, None]]:
    """Decode in threads (OpenCV and PIL release the interpreter), a bounded number ahead."""

    def read(path: Path) -> tuple[Facts, np.ndarray] | tuple[BadImageError, None]:
        try:
            picture = decode(path)
        except BadImageError as error:
            return error, None
        height, width = picture.rgb.shape[:2]
        facts = {"width": width, "height": height, "hash": picture.digest, "note": picture.note}
        return facts, square(picture.rgb, size, fit)

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), 256):
            yield from pool.map(read, paths[start : start + 256])
