"""The hidden test's pictures, decoded once: some may be broken, and none of them may matter."""

import shutil
from math import prod
from pathlib import Path

import numpy as np

from pipeline.base.cli import say, warn
from pipeline.base.settings import Size, sides, size_name
from pipeline.data.images import BadImageError, FilePixels
from pipeline.data.reading import pack
from pipeline.kaggle.notebook.answer import Source

SHOWN = 5  # broken pictures named one by one
Form = tuple[Size, str]  # in px, and how a picture takes that shape


def read_images(
    paths: list[Path], forms: list[Form], scratch: Path
) -> tuple[np.ndarray, dict[str, Source]]:
    """Numbers of those that can be read, and the pixels of all in each form.

    They are packed in `scratch`, where there is room for that.
    """
    bad: dict[int, BadImageError] = {}
    sources: dict[str, Source] = {}
    for size, fit in forms:
        packed = scratch / f"{size_name(size)}-{fit}.npy"
        size_gb = len(paths) * prod(sides(size)) * 3 / 1e9
        room = size_gb < shutil.disk_usage(scratch).free / 2e9  # a full disk kills who maps a file
        if not room:
            warn("notebook", f"no room for {size_gb:.0f} GB of pixels: files are read each time")
        facts = pack(paths, size, fit, packed if room else None, "decode")
        sources[packed.stem] = packed if room else FilePixels(paths, size, fit)
        bad |= {i: one for i, one in enumerate(facts) if isinstance(one, BadImageError)}
    say("notebook", f"{len(paths):,} pictures decoded, {len(bad)} of them broken")
    for i in list(bad)[:SHOWN]:
        warn("notebook", f"{paths[i]}: {bad[i]}: the prior answers for it")
    return np.array([i for i in range(len(paths)) if i not in bad], dtype=int), sources
