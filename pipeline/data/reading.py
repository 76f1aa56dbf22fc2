"""Every picture of a competition, read in threads: its pixels as a square, and its facts."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    rows: pd.DataFrame, folder: Path, size: int, fit: str, keep: Callable[[np.ndarray], object]
) -> list[Facts]:
    """Facts of every picture in the order of `rows`, in which `keep` is given square pixels."""
    cv2.setNumThreads(1)  # the pool below is the parallelism
    problems: list[str] = []
    facts: list[Facts] = []
    results = read_in_order([folder / path for path in rows.path], size, fit)
    with Progress("prepare", total=len(rows), unit="images") as progress:
        for i, result in enumerate(results):
            if isinstance(result, NoMemoryError):
                raise UserError(f"{folder / rows.path[i]}: {result}; it may well be whole")
            if isinstance(result, BadImageError):
                problems.append(f"{folder / rows.path[i]}: {result}")
            else:
                fact, pixels = result
                facts.append(fact)
                keep(pixels)
            progress.advance()
    if problems:
        raise UserError(
            f"{listing(problems)}\n{len(problems)} of {len(rows):,} pictures cannot be used: "
            "restore the files, or drop their rows from the CSV"
        )
    return facts


def read_in_order(
    paths: list[Path], size: int, fit: str
) -> Iterator[tuple[Facts, np.ndarray] | BadImageError]:
    """Decode in threads (OpenCV and PIL release the interpreter), a bounded number ahead."""

    def read(path: Path) -> tuple[Facts, np.ndarray] | BadImageError:
        try:
            picture = decode(path)
        except BadImageError as error:
            return error
        height, width = picture.rgb.shape[:2]
        facts = {"width": width, "height": height, "hash": picture.digest, "note": picture.note}
        return facts, square(picture.rgb, size, fit)

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), 256):
            yield from pool.map(read, paths[start : start + 256])
