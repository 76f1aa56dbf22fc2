"""Where Kaggle mounts what a notebook reads, in the old form and the new, and where it may write.

KAGGLE_INPUT_DIR and KAGGLE_WORKING_DIR move both roots: a rehearsal needs no /kaggle. The first
cell of a notebook is this file, so it needs the standard library alone.
"""

import os
from itertools import islice, product
from pathlib import Path

# the old form, competitions/SLUG or datasets/OWNER/SLUG, then wherever a marker is
PATTERNS = ["{slug}/", "*/{slug}/", "*/*/{slug}/", *("*/" * depth for depth in range(1, 6))]
SHOWN = 40  # entries of the tree in a message


def input_root() -> Path:
    return Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))


def working_root() -> Path:
    return Path(os.environ.get("KAGGLE_WORKING_DIR", "/kaggle/working"))


def find_input(kind: str, slug: str, *markers: str) -> Path:
    """The folder of a mounted `kind` (dataset, say), known by a file or folder in it (a marker).

    Raises FileNotFoundError that shows what is mounted instead.
    """
    root = input_root()
    for pattern, marker in product(PATTERNS, markers):
        if found := sorted(root.glob(pattern.format(slug=slug) + marker)):
            return found[0].parents[len(Path(marker).parts) - 1]
    levels = (path for depth in (1, 2, 3) for path in sorted(root.glob("/".join("*" * depth))))
    shown = ", ".join(str(path.relative_to(root)) for path in islice(levels, SHOWN)) or "nothing"
    wanted = f"{kind} {slug!r} with a {' or '.join(markers)}"
    raise FileNotFoundError(f"no {wanted} in {root}; mounted are: {shown}")
