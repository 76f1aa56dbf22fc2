"""The species of the demo competition: what a leaf is described by; the table is species.yaml."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Margin:
    """A row of `count` lobes or teeth along one side of a blade; the period peaks at `peak`."""

    count: int
    depth: float
    peak: float = 0.6
    sharp: float = 0.0  # 0 rounded, 1 pointed


@dataclass(frozen=True)
class Species:
    """The proportions of one species; lengths are in units of the blade's (or rachis') length."""

    name: str
    width: float
    base: float = 0.6  # exponent of the outline: 0.3 rounded, 1 wedge-shaped
    apex: float = 0.8
    heart: float = 0.0  # depth of the indentation at the base
    notch: float = 0.0  # the same at the tip
    palmate: bool = False  # lobes radiate from the base instead of lining the midrib
    lobes: Margin | None = None
    teeth: Margin | None = None
    veins: int = 7
    rise: float = 0.7  # slope of the side veins; very steep ones all start at the base
    leaflets: int = 1
    spread: float = 60.0  # angle between the midrib and the outer leaflets, degrees
    reach: float = 1.0  # length of the leaflets
    rachis: bool = False  # leaflets in pairs along a stalk instead of all from one point
    petiole: float = 0.2
    size: float = 0.62  # length in the picture
    colour: Sequence[float] = (92, 0.58, 0.40)  # hue in degrees, saturation, value
    pale_veins: float = 0.12  # how much lighter than the blade, negative: darker
    autumn: float = 45.0  # hue that some leaves have turned to


def read_species() -> tuple[Species, ...]:
    text = Path(__file__).with_name("species.yaml").read_text(encoding="utf-8")
    table = yaml.safe_load(text)["species"]
    margins = ("lobes", "teeth")
    return tuple(
        Species(name, **leaf | {key: Margin(**leaf[key]) for key in margins if key in leaf})
        for name, leaf in table.items()
    )


SPECIES = read_species()
