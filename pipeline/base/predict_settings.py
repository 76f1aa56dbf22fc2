"""Settings of prediction: the views of a picture."""

import re
from enum import StrEnum
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.base.settings import Settings, Side

TTAName = Literal["none", "hflip", "flips", "diagonals", "d4"]
TTA = StrEnum("TTA", [(name, name) for name in get_args(TTAName)])  # an option of commands


def each_once(sizes: list[int]) -> list[int]:
    """Sorted, since their order means nothing: one file name for all orders."""
    if len(set(sizes)) < len(sizes):
        raise PydanticCustomError("twice", "each size may stand once")
    return sorted(sizes)


Sizes = Annotated[list[Side], Field(min_length=1), AfterValidator(each_once)]


class Predict(Settings):
    """The views of a picture, of which the mean is taken: those of `tta` at each of `sizes`."""

    # none, hflip, flips, diagonals, d4: 1, 2, 4, 4, 8 views of each picture
    tta: TTAName = "none"
    sizes: Sizes | None = None  # px, of the height; None: model.size

    @property
    def views_name(self) -> str:
        """Name of these settings in file names and keys: `d4`, or `d4-128-160` with sizes."""
        return "-".join([self.tta, *map(str, self.sizes or [])])

    @classmethod
    def named(cls, views_name: str) -> "Predict":
        """The settings whose `views_name` this is."""
        tta, *sizes = re.split(r"-(?=\d)", views_name)
        return cls(tta=tta, sizes=sizes or None)
