"""Where Kaggle mounts what a notebook reads, in the old form and the new, and where it may write.

KAGGLE_INPUT_DIR and KAGGLE_WORKING_DIR move both roots: a rehearsal needs no /kaggle.
"""

import os
from pathlib import Path
from typing import Literal

from pipeline.base.cli import UserError

FORMS = {
    "competition": ["competitions/{slug}", "{slug}"],
    "dataset": ["datasets/*/{slug}", "{slug}"],
    "notebook": ["notebooks/*/{slug}", "{slug}"],
}
DEPTH = 5  # how far below the root a folder is sought that stands in neither form
SHOWN = 40  # entries of the tree in a message


def input_root() -> Path:
    return Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))


def working_root() -> Path:
    return Path(os.environ.get("KAGGLE_WORKING_DIR", "/kaggle/working"))


def find_input(kind: Literal["competition", "dataset", "notebook"], slug: str, marker: str) -> Path:
    """The folder of what is mounted, known by a file in it (`marker`).

    Raises UserError that shows what is mounted instead.
    """
    root = input_root()
    patterns = [f"{form.format(slug=slug)}/{marker}" for form in FORMS[kind]]
    patterns += ["*/" * depth + marker for depth in range(1, DEPTH + 1)]
    for pattern in patterns:
        if found := sorted(root.glob(pattern)):
            return found[0].parents[len(Path(marker).parts) - 1]
    tried = " or ".join(str(root / form.format(slug=slug)) for form in FORMS[kind])
    raise UserError(f"no {kind} {slug!r} with a {marker} in {tried}; mounted are: {tree(root)}")


def tree(root: Path) -> str:
    """What lies under a folder, three levels deep, in one line."""
    levels = [path for depth in (1, 2, 3) for path in sorted(root.glob("/".join("*" * depth)))]
    shown = [str(path.relative_to(root)) for path in levels[:SHOWN]]
    more = [f"and {len(levels) - SHOWN} more"] if len(levels) > SHOWN else []
    return ", ".join(shown + more) or f"nothing ({root} is {'empty' if root.is_dir() else 'not'})"
