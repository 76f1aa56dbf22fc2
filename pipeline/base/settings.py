"""What all settings have in common: where things lie, names that lead nowhere else, numbers."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.base.cli import UserError, shown

PACKED_SCALE = 1.25  # of the pictures that prepare packs, times the size
# names of settings of a section, and what they were called: records keep that, and YAML may
FORMER = {"resize": "fit", "features": "reads", "head_init": "head", "conflicts": "twins"}
CONFLICT = "conflict"  # type of an error of settings that do not go together
Probability = Annotated[float, Field(ge=0, le=1)]
Root = Literal["data", "runs", "folds", "labels", "submissions", "weights"]


def root(name: Root) -> Path:
    """A root folder: `runs/`, or what RUNS_DIR says."""
    return Path(os.environ.get(f"{name.upper()}_DIR", name))


def name_problem(name: str) -> str:
    """Why a name cannot be that of a folder of ours, or nothing."""
    if not name or name != name.strip() or name[0] in "._":
        return "a name begins with a letter or digit, without space around it"
    if bad := re.search(r"[/\\:\x00-\x1f\x7f\ud800-\udfff]", name):
        return f"a name may not hold {bad[0]!r}"
    if len(name.encode(errors="replace")) > 200:
        return "a name has at most 200 bytes"
    return ""


def checked_name(name: str, where: str) -> str:
    """A name from a command line, which leads out of no folder. Raises UserError."""
    if problem := name_problem(name):
        raise UserError(f"{where} {shown(name)}: {problem}")
    return name


def valid_name(value: str) -> str:
    if problem := name_problem(value):
        raise PydanticCustomError("name", "{text}", {"text": problem})
    return value


Name = Annotated[str, AfterValidator(valid_name)]  # of a run, a split, a competition: a file's name
Side = Annotated[int, Field(ge=16, le=4096)]


def _of_two(size: Any, side: Callable[[Any], int]) -> int | tuple[int, int]:
    """Height and width, each a side; one number where they are equal."""
    if not isinstance(size, list | tuple):
        return side(size)
    if len(size) != 2:
        raise PydanticCustomError("size", "it should be a number, or [height, width]")
    high, wide = map(side, size)
    return high if high == wide else (high, wide)


# px, or height and width
Size = Annotated[Side, WrapValidator(_of_two), PlainSerializer(lambda size: size)]


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of pictures of a size, px."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def scaled(size: int | Sequence[int], scale: float) -> int | tuple[int, int]:
    """A size times `scale`, in the same form."""
    high, wide = (round(side * scale) for side in sides(size))
    return high if high == wide else (high, wide)


def size_name(size: int | Sequence[int]) -> str:
    """`128`, or `384x512`."""
    return str(size) if isinstance(size, int) else "{}x{}".format(*size)


class Settings(BaseModel):
    """`RETIRED`: settings that are gone, and the values with which they did nothing.

    The alias of a renamed field is its former name: records keep it, and YAML may.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, loc_by_alias=False
    )
    RETIRED: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _retired(cls, values: Any) -> Any:
        """YAML files and records of earlier versions may hold them, switched off."""
        if not isinstance(values, dict):
            return values
        for name in set(values) & set(cls.RETIRED):
            if values[name] != cls.RETIRED[name]:
                raise PydanticCustomError("retired", "{name} is no more", {"name": name})
        return {name: value for name, value in values.items() if name not in cls.RETIRED}

    @field_validator("*", mode="wrap")
    @classmethod
    def _true_is_no_number(cls, value: Any, handler: Callable[[Any], Any], info: Any) -> Any:
        """Else `lr: true` is 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            text = "it is no true or false, as which YAML reads on, off, yes, no: in quotes?"
            raise PydanticCustomError("bool", "{text}", {"text": text})
        return handler(value)
