"""Test-time augmentation: named lists of views, each used exactly once.

A view is a function of normalised images [batch, 3, height, width]; it moves pixels and computes
none, so a view costs one forward pass and nothing else. Other sizes are made before, by the one
resize that training pictures see too.
"""

from functools import partial

import torch

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


def view_name(view: View) -> str:
    """As `turns1-flipTrue`, for a file's name."""
    return "-".join(f"{name}{value}" for name, value in view.keywords.items())
