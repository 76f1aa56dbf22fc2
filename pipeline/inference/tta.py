"""Test-time augmentation: named lists of views, each used exactly once.

A view is a function of normalised images [batch, 3, height, width]; it moves pixels and computes
none, so a view costs one forward pass and nothing else. Other sizes are made before, by the one
resize that training pictures see too.
"""

from collections.abc import Sequence
from functools import partial

import torch

from pipeline.base.cli import say_once
from pipeline.base.settings import sides, size_name

View = partial[torch.Tensor]


def dihedral(x: torch.Tensor, turns: int, flip: bool) -> torch.Tensor:
    """Rotate by 90 degrees `turns` times, then mirror left-right."""
    x = torch.rot90(x, turns, (2, 3))
    return x.flip(3) if flip else x


VIEWS: dict[str, list[View]] = {
    "none": [partial(dihedral, turns=0, flip=False)],
    "hflip": [partial(dihedral, turns=0, flip=f) for f in (False, True)],
    "flips": [partial(dihedral, turns=t, flip=f) for t in (0, 2) for f in (False, True)],
    "diagonals": [partial(dihedral, turns=t, flip=t % 2 == 1) for t in range(4)],
    "d4": [partial(dihedral, turns=t, flip=f) for t in range(4) for f in (False, True)],
}


def allowed(views: list[View], size: int | Sequence[int]) -> list[View]:
    """Without quarter turns, where pictures of `size` px are not square; that is said once."""
    high, wide = sides(size)
    found = [view for view in views if high == wide or view.keywords["turns"] % 2 == 0]
    if len(found) < len(views):
        text = f"pictures of {size_name(size)} px have no quarter turns"
        say_once("views", f"{text}: {len(found)} of {len(views)} views are left")
    return found


def view_name(view: View) -> str:
    """As `turns1-flipTrue`, for a file's name."""
    return "-".join(f"{name}{value}" for name, value in view.keywords.items())
