"""Grows single leaves from the proportions of a `Species` and a random generator.

A leaf is a list of `Stroke`s in painting order, first in its own frame (the blade's base at the
origin, its tip at (0, 1)), then posed in a unit square. An ink has four channels, 0..255: blade,
fold (how a half catches the light), vein, rim. `scanner` makes a picture of it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.synthetic.species import Margin, Species

Array = NDArray[np.floating]

# How much the leaves of one species differ: raise these to make the competition harder.
SHAPE_SPREAD = 0.09  # log-normal sigma of every proportion
SIZE_SPREAD = 0.12  # log-normal sigma of the leaf's length in the picture
PLACE_SPREAD = 0.12  # sigma of its place, in units of the room around it
TURN_SPREAD = 20.0  # degrees around the upright pose ...
FREE_TURN = 0.15  # ... for all but this share, which lies in any direction
BEND_SPREAD = 0.10  # sigma of the midrib's sideways bend at the tip, in leaf lengths
HUE_SPREAD = 9.0  # degrees
TURNED = 0.22  # share of leaves in autumn colour
GNAWED = 0.25  # share with holes and bites

SIDE = (1 - np.cos(np.linspace(0, np.pi, 240))) / 2  # stations along a midrib, dense at its ends
CLEAR, STEM, VEIN = (0, 0, 0, 0), (255, 128, 190, 0), (255, 128, 255, 0)


class Stroke(NamedTuple):
    """`points` (N, 2) filled where `width` is 0, else drawn as a line that thick."""

    points: Array
    ink: tuple[int, int, int, int]
    width: float = 0.0


def individual(species: Species, rng: Generator) -> Species:
    """The same species with the proportions and the colour of one particular leaf."""
    width, base, apex, petiole = np.exp(rng.normal(0, SHAPE_SPREAD, 4))
    hue, saturation, value = species.colour
    if rng.random() < TURNED:
        hue, value = species.autumn, 1.4 * value
    return replace(
        species,
        width=species.width * width,
        base=species.base * base,
        apex=species.apex * apex,
        petiole=species.petiole * petiole**3,
        lobes=vary(species.lobes, rng),
        teeth=vary(species.teeth, rng),
        size=species.size * np.exp(rng.normal(0, SIZE_SPREAD)),
        colour=(
            hue + rng.normal(0, HUE_SPREAD),
            saturation * np.exp(rng.normal(0, 0.12)),
            value * np.exp(rng.normal(0, 0.16)),
        ),
    )


def vary(margin: Margin | None, rng: Generator) -> Margin | None:
    return margin and replace(margin, depth=margin.depth * np.exp(rng.normal(0, SHAPE_SPREAD)))


def wave(turn: Array, margin: Margin) -> Array:
    """Lobes or teeth, one a turn: 0 between two of them, 1 at the tip."""
    turn = turn % 1
    ramp = np.minimum(turn / margin.peak, (1 - turn) / (1 - margin.peak))
    return (1 - margin.sharp) * (1 - np.cos(ramp**0.7 * np.pi)) / 2 + margin.sharp * ramp**1.4


def radiating_side(leaf: Species) -> Array:
    """Half the outline of a maple-like blade, (N, 2) from the base round to the tip.

    Its radius is the superformula with a = b = 1 and n2 = n3: J. Gielis, "A generic geometric
    transformation that unifies a wide range of natural and abstract shapes", American Journal of
    Botany 90 (2003).
    """
    lobes = leaf.lobes
    n2 = 1.75 - 0.7 * lobes.sharp  # below 2 the lobes are cusps, near 2 they are round
    n1 = -(1 - n2 / 2) * np.log(2) / np.log(1 - min(lobes.depth, 0.9))  # valleys that deep
    lowest_valley = np.pi * (1 - (1 + lobes.count % 2) / lobes.count)
    angle = np.linspace(lowest_valley, 0, len(SIDE))
    quarter = lobes.count * angle / 4
    radius = (np.abs(np.cos(quarter)) ** n2 + np.abs(np.sin(quarter)) ** n2) ** (-1 / n1)
    radius *= np.cos(angle / 2) ** leaf.base
    return np.stack([radius * np.sin(angle) * leaf.width, radius * np.cos(angle)], 1)


def midrib_side(leaf: Species) -> Array:
    """Half the outline of a blade along a midrib, (N, 2) from the base to the tip."""
    t = SIDE
    x = t**leaf.base * (1 - t) ** leaf.apex
    x /= x.max()
    y = t - leaf.heart * x * (1 - t) ** 4 - leaf.notch * np.exp(-((x / 0.35) ** 2)) * t**6
    if leaf.lobes:
        swell = wave(t * leaf.lobes.count, leaf.lobes)
        x = x * (1 - leaf.lobes.depth * (1 - swell))
        y += 0.12 * leaf.width * x * swell * (1 - t)  # lobes point forward
    return np.stack([x * leaf.width / 2, y], 1)


def indent(side: Array, teeth: Margin | None, rng: Generator) -> Array:
    """Teeth pushed outwards along the normal of the outline, evenly spaced along it."""
    if not teeth:
        return side
    step = np.gradient(side, axis=0)
    length = np.hypot(*step.T) + 1e-9
    along = np.cumsum(length) / length.sum()
    outward = np.stack([step[:, 1], -step[:, 0]], 1) / length[:, None]
    height = teeth.depth * wave(along * teeth.count + rng.random(), teeth)
    fade = np.clip(8 * np.minimum(along, 1 - along), 0, 1)
    return side + outward * (height * fade)[:, None]


def side_veins(leaf: Species, side: Array) -> list[Stroke]:
    """Curved veins from the midrib (or the base) to the margin, into the lobes where there are."""
    tips = 0.94 * side[tip_rows(leaf)]
    reach = np.abs(tips[:, 0])
    rise = 1e3 if leaf.palmate else leaf.rise
    roots = np.stack([0 * reach, np.maximum(0, tips[:, 1] - rise * reach)], 1)
    bows = np.stack([0.06 * tips[:, 0], -0.05 * reach], 1)
    s = np.linspace(0, 1, 7)[:, None, None]
    curves = (1 - s) * roots + s * tips + 4 * s * (1 - s) * bows
    return [Stroke(curves[:, i], VEIN, 0.007) for i in range(len(tips))]


def tip_rows(leaf: Species) -> NDArray[np.integer]:
    """Where on the outline of a side its veins end: the rows of its points."""
    if leaf.palmate:
        count = leaf.lobes.count
        lobe = np.arange(1, count // 2)
        return np.rint((1 - 2 * lobe / (count - 1 - count % 2)) * (len(SIDE) - 1)).astype(int)
    count, peak = (leaf.lobes.count, leaf.lobes.peak) if leaf.lobes else (leaf.veins, 0.4)
    return SIDE.searchsorted((np.arange(count) + peak) / count)


def blade(leaf: Species, rng: Generator) -> list[Stroke]:
    """One blade: two halves that catch the light differently, the rim, the veins."""
    outline = radiating_side if leaf.palmate else midrib_side
    light = 128 + int(rng.normal(0, 40))
    strokes, veins = [], []
    for mirror in (1, -1):
        side = indent(outline(leaf), leaf.teeth, rng) * [mirror * rng.normal(1, 0.05), 1]
        ink = int(np.clip(128 + mirror * (light - 128), 0, 255))
        strokes.append(Stroke(np.vstack([[0, 0], side]), (255, ink, 0, 0)))
        strokes.append(Stroke(side, (255, ink, 0, 255), 0.004))
        veins += side_veins(leaf, side)
    midrib = np.linspace([0, 0], [0, 0.97 * side[-1, 1]], 12)
    thick = min(0.016, 0.2 * leaf.width)
    return [*strokes, *veins, Stroke(midrib[:9], VEIN, thick), Stroke(midrib, VEIN, 0.6 * thick)]


def grow(leaf: Species, rng: Generator) -> list[Stroke]:
    """The whole leaf, simple or compound, with its stalk."""
    down = np.linspace(0, 1, 12)
    hook = rng.normal(0, 0.18) * leaf.petiole
    stalk = Stroke(np.stack([hook * down**2, -leaf.petiole * down], 1), STEM, 0.018)
    form = along_rachis if leaf.rachis else from_one_point
    return [stalk, *(blade(leaf, rng) if leaf.leaflets == 1 else form(leaf, rng))]


def along_rachis(leaf: Species, rng: Generator) -> list[Stroke]:
    """Leaflets in pairs, and one at the end where their number is odd."""
    pairs = leaf.leaflets // 2
    strokes = [Stroke(np.linspace([0, 0], [0, 1], 12), STEM, 0.016)]
    for height in np.linspace(0.08, 1 - 0.5 / pairs, pairs):
        length = leaf.reach * (0.72 + 0.36 * np.sin(np.pi * (0.15 + 0.75 * height)))
        for mirror in (1, -1):
            angle = mirror * (leaf.spread * (1 - 0.25 * height) + rng.normal(0, 5))
            at = (0, height + rng.normal(0, 0.012))
            strokes += place(blade(leaf, rng), angle, length * rng.normal(1, 0.05), at)
    if leaf.leaflets % 2:
        strokes += place(blade(leaf, rng), rng.normal(0, 6), leaf.reach * 1.05, (0, 1))
    return strokes


def from_one_point(leaf: Species, rng: Generator) -> list[Stroke]:
    """Leaflets, or needles, that radiate from the end of the stalk."""
    strokes = []
    angles = np.linspace(-leaf.spread, leaf.spread, leaf.leaflets)
    for angle in sorted(angles, key=abs, reverse=True):  # the middle one lies on top
        length = leaf.reach * (1 - 0.3 * (abs(angle) / 90)) * rng.normal(1, 0.04)
        turned = angle + rng.normal(0, 3 + 0.05 * leaf.spread)
        strokes += place(blade(leaf, rng), turned, length, (0, 0))
    return strokes


def place(
    strokes: list[Stroke], angle: float, scale: float, at: tuple[float, float]
) -> list[Stroke]:
    """Turned by `angle` degrees clockwise about the origin, scaled, and moved to `at`."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = scale * np.array([[c, -s], [s, c]])
    return move(strokes, lambda points: points @ turn + np.array(at), scale)


def move(strokes: list[Stroke], warp: Callable[[Array], Array], scale: float = 1.0) -> list[Stroke]:
    """Every point through `warp`, all in one call: leaves have a hundred small strokes."""
    ends = np.cumsum([len(stroke.points) for stroke in strokes])
    pieces = np.split(warp(np.vstack([stroke.points for stroke in strokes])), ends[:-1])
    return [Stroke(p, s.ink, s.width * scale) for s, p in zip(strokes, pieces, strict=True)]


def gnaw(strokes: list[Stroke], leaf: Species, rng: Generator) -> list[Stroke]:
    """Holes and bites of insects, in some of the leaves."""
    if rng.random() > GNAWED:
        return strokes
    blades = [stroke.points for stroke in strokes if stroke.width == 0]
    angle = np.linspace(0, 2 * np.pi, 14)[:-1]
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    bites = []
    for _ in range(rng.integers(1, 6)):
        outline = blades[rng.integers(len(blades))]
        radius = rng.uniform(0.02, 0.08) * leaf.width * leaf.reach
        centre = rng.choice(outline) * [rng.choice([0.5, 0.7, 1.0]), 1]
        bites.append(Stroke(centre + circle * radius * rng.uniform(0.7, 1.3, (13, 1)), CLEAR))
    return strokes + bites


def pose(strokes: list[Stroke], length: float, rng: Generator) -> list[Stroke]:
    """Bent, tilted, turned and moved into a unit square, `length` along its longer side."""
    bend, tilt, shear = rng.normal(0, [BEND_SPREAD, 0.06, 0.05])
    angle = rng.normal(0, TURN_SPREAD) if rng.random() > FREE_TURN else rng.uniform(-180, 180)

    def warp(points: Array) -> Array:
        x, y = points.T
        x = x + bend * y**2 + shear * y
        return np.stack([x, -y], 1) / (1 + tilt * y)[:, None]

    turned = place(move(strokes, warp), angle, 1.0, (0, 0))
    cloud = np.vstack([stroke.points for stroke in turned])
    low, extent = cloud.min(0), np.ptp(cloud, 0)
    scale = min(length, 0.97) / extent.max()
    room = 1 - extent * scale
    corner = room * np.clip(rng.normal(0.5, PLACE_SPREAD, 2), 0.02, 0.98)
    return place(turned, 0, scale, tuple(corner - low * scale))
