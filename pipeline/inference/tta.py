"""Test-time augmentation: named lists of views, each used exactly once.

A view is a function of normalised images [batch, 3, height, width]; it moves pixels and computes
none, so a view costs one forward pass and nothing else. Other sizes are made before, by the one
resize that training pictures see too.
"""

from collections.abc import Sequence
from functools import partial

import torch

from pipeline.base.cli import UserError

View = partial[torch.Tensor]


def dihedral(x: torch.Tensor, turns: int, flip: bool) -> torch.Tensor:
    """Rotate by 90 degrees `turns` times, then mirror left-right."""
    x = torch.rot90(x, turns, (2, 3))
    return x.flip(3) if flip else x


def crop(x: torch.Tensor, top: float, left: float, size: int) -> torch.Tensor:
    """A square of `size` px; `top` and `left` are shares of the free margin (0.5: centred)."""
    y = round(top * (x.shape[2] - size))
    z = round(left * (x.shape[3] - size))
    return x[:, :, y : y + size, z : z + size]


VIEWS: dict[str, list[View]] = {
    "none": [partial(dihedral, turns=0, flip=False)],
    "hflip": [partial(dihedral, turns=0, flip=f) for f in (False, True)],
    "flips": [partial(dihedral, turns=t, flip=f) for t in (0, 2) for f in (False, True)],
    "diagonals": [partial(dihedral, turns=t, flip=t % 2 == 1) for t in range(4)],
    "d4": [partial(dihedral, turns=t, flip=f) for t in range(4) for f in (False, True)],
}


def views(tta: str, size: int) -> list[View]:
    if tta == "five-crop":
        places = [(0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)]
        return [partial(crop, top=top, left=left, size=size) for top, left in places]
    return VIEWS[tta]


def view_name(view: View) -> str:
    """As `turns1-flipTrue`, for a file's name."""
    return "-".join(f"{name}{value}" for name, value in view.keywords.items())


def canvas(tta: str, size: int, trained: int, packed: int) -> int:
    """Side in px of the picture that views of `size` px are taken from.

    Five-crop cuts from the packed picture, or at another size than the `trained` one from a
    picture scaled alike, so that a crop always shows the same share of it.
    """
    return round(packed * size / trained) if tta == "five-crop" else size


def refuse_enlarging(tta: str, sizes: Sequence[int], trained: int, packed: int) -> None:
    """Raise UserError for a size beyond the packed pictures: it would show nothing new."""
    limit = trained if tta == "five-crop" else packed
    for size in sizes:
        if size > limit:
            raise UserError(
                f"predict.sizes: {tta} at {size} px would enlarge the packed pictures "
                f"({packed} px, for training at {trained}); at most {limit} px"
            )
