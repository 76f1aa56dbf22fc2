"""The species of the demo competition: proportions and colours, read off real leaves."""

from dataclasses import dataclass


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
    colour: tuple[float, float, float] = (92, 0.58, 0.40)  # hue in degrees, saturation, value
    pale_veins: float = 0.12  # how much lighter than the blade, negative: darker
    autumn: float = 45.0  # hue that some leaves have turned to


DULL, FRESH, DARK, OLIVE = (90, 0.45, 0.42), (88, 0.62, 0.50), (105, 0.60, 0.30), (72, 0.62, 0.45)
YELLOW, ORANGE, RED, BROWN = 50, 28, 6, 34

# Name, then the blade's width and the exponents of its base and apex. The first two are the pair
# with contradictory labels: neighbours in the table are easily confused.
SPECIES = (
    Species("quercus_alba", 0.66, 0.75, 0.45, lobes=Margin(4, 0.62), autumn=RED, colour=DULL),
    Species("quercus_bicolor", 0.66, 0.9, 0.5, lobes=Margin(5, 0.3), autumn=BROWN, colour=DULL),
    Species(
        "acer_saccharum", 1.0, 0.45, palmate=True, lobes=Margin(6, 0.5, sharp=0.4),
        teeth=Margin(8, 0.07, 0.55, 0.6), petiole=0.7, colour=FRESH, autumn=ORANGE,
    ),
    Species(
        "acer_rubrum", 0.9, 0.6, palmate=True, lobes=Margin(6, 0.33, sharp=0.4),
        teeth=Margin(22, 0.04, 0.7, 1), petiole=0.7, colour=FRESH, autumn=RED,
    ),
    Species(
        "acer_palmatum", 1.0, 0.5, palmate=True, lobes=Margin(9, 0.8, sharp=0.35),
        teeth=Margin(60, 0.025, 0.7, 1), petiole=0.5, size=0.5, colour=(80, 0.6, 0.4), autumn=RED,
    ),
    Species(
        "liquidambar_styraciflua", 1.0, 0.35, palmate=True, lobes=Margin(6, 0.76, sharp=0.3),
        teeth=Margin(50, 0.015, 0.6, 1), petiole=0.7, colour=FRESH, autumn=RED,
    ),
    Species(
        "quercus_rubra", 0.66, 0.7, 0.65, lobes=Margin(5, 0.5, 0.62, 1),
        teeth=Margin(11, 0.03, 0.6, 1), colour=DARK, autumn=RED, size=0.72,
    ),
    Species(
        "quercus_palustris", 0.78, 0.75, 0.7, lobes=Margin(4, 0.82, 0.62, 0.9),
        teeth=Margin(11, 0.045, 0.6, 1), colour=DARK, autumn=RED, petiole=0.35,
    ),
    Species(
        "fagus_grandifolia", 0.52, 0.62, 0.85, teeth=Margin(11, 0.016, 0.8, 1), veins=11,
        colour=(84, 0.5, 0.42), pale_veins=0.08, autumn=BROWN, petiole=0.1,
    ),
    Species(
        "ulmus_americana", 0.54, 0.5, 0.85, heart=0.06, teeth=Margin(22, 0.035, 0.82, 1),
        veins=13, colour=DARK, autumn=YELLOW, petiole=0.1,
    ),
    Species(
        "tilia_americana", 0.86, 0.38, 0.7, heart=0.22, teeth=Margin(24, 0.035, 0.75, 1), veins=5,
        rise=1.4, petiole=0.5, colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "cercis_canadensis", 1.0, 0.38, 0.62, heart=0.28, veins=4, rise=2.5, petiole=0.5,
        colour=(95, 0.45, 0.42), autumn=YELLOW, size=0.55,
    ),
    Species(
        "salix_nigra", 0.15, 0.7, 1.2, teeth=Margin(40, 0.008, 0.8, 1), veins=14, petiole=0.08,
        colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "quercus_phellos", 0.2, 0.85, 0.8, veins=10, petiole=0.04, colour=OLIVE, autumn=BROWN,
        size=0.52,
    ),
    Species(
        "cornus_florida", 0.58, 0.7, 0.95, veins=5, rise=1.6, petiole=0.12, autumn=RED,
        colour=(100, 0.45, 0.45), pale_veins=0.16, size=0.55,
    ),
    Species(
        "ginkgo_biloba", 1.35, 1.0, 0.2, notch=0.13, veins=16, rise=9, petiole=0.75,
        colour=(78, 0.55, 0.50), pale_veins=0.05, autumn=YELLOW, size=0.58,
    ),
    Species(
        "liriodendron_tulipifera", 1.05, 0.3, 0.3, notch=0.2, lobes=Margin(2, 0.42, 0.62, 0.8),
        petiole=0.6, colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "ilex_opaca", 0.55, 0.6, 0.6, teeth=Margin(6, 0.075, 0.55, 1), veins=6, petiole=0.12,
        colour=(115, 0.55, 0.27), autumn=OLIVE[0], size=0.45,
    ),
    Species(
        "fraxinus_americana", 0.42, 0.6, 0.85, leaflets=7, rachis=True, reach=0.5, spread=62,
        petiole=0.3, colour=FRESH, autumn=YELLOW, size=0.8,
    ),
    Species(
        "juglans_nigra", 0.3, 0.5, 1.05, teeth=Margin(20, 0.03, 0.8, 1), leaflets=15, rachis=True,
        reach=0.36, spread=74, petiole=0.2, colour=OLIVE, autumn=YELLOW, size=0.85,
    ),
    Species(
        "robinia_pseudoacacia", 0.5, 0.5, 0.5, leaflets=15, rachis=True, reach=0.24, spread=80,
        petiole=0.15, colour=(95, 0.42, 0.48), autumn=YELLOW, size=0.78,
    ),
    Species(
        "aesculus_glabra", 0.36, 1.0, 0.7, teeth=Margin(26, 0.02, 0.8, 1), leaflets=5, spread=95,
        petiole=0.6, colour=DARK, autumn=ORANGE, size=0.8, veins=11,
    ),
    Species(
        "staphylea_trifolia", 0.56, 0.6, 0.9, teeth=Margin(26, 0.02, 0.8, 1), leaflets=3,
        spread=88, petiole=0.6, colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "pinus_strobus", 0.009, 0.2, 0.25, leaflets=5, spread=13, petiole=0.02, veins=1,
        colour=(100, 0.4, 0.36), pale_veins=0, autumn=BROWN, size=0.62,
    ),
    Species(
        "pinus_resinosa", 0.012, 0.2, 0.25, leaflets=2, spread=6, petiole=0.03, veins=1,
        colour=(85, 0.5, 0.3), pale_veins=0, autumn=BROWN, size=0.7,
    ),
    Species(
        "tsuga_canadensis", 0.16, 0.2, 0.3, leaflets=34, rachis=True, reach=0.16, spread=70,
        petiole=0.06, veins=1, colour=(110, 0.45, 0.3), pale_veins=0, autumn=BROWN, size=0.5,
    ),
)  # fmt: skip
