"""A flat-bed scanner: paints the strokes of a leaf, dyes the leaf and lays it on lit paper."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.synthetic.leaves import Array, Stroke, gnaw, grow, individual, pose
from pipeline.synthetic.species import Species

SUPERSAMPLE = 2  # strokes are painted this much larger, then area-averaged
PAPERS = (  # BGR, share of the pictures; above 1 is overexposed, as on many real scans
    ((1.04, 1.04, 1.04), 0.46),
    ((0.86, 0.88, 0.86), 0.28),
    ((0.86, 0.90, 0.93), 0.14),
    ((0.62, 0.61, 0.60), 0.12),
)
RULED = 0.12  # share with a ruler or a grey scale at an edge


def photograph(species: Species, size: int, rng: Generator) -> NDArray[np.uint8]:
    """One scan of one leaf of the species, (size, size, 3) uint8 in OpenCV's BGR order."""
    leaf = individual(species, rng)
    strokes = pose(gnaw(grow(leaf, rng), leaf, rng), leaf.size, rng)
    ink = paint(strokes, size)
    return scan(dye(ink, leaf, rng), ink[..., 0], rng)


def paint(strokes: list[Stroke], size: int) -> Array:
    """The coverage of (blade, fold, vein, rim), (size, size, 4) float32 in 0..1."""
    side = size * SUPERSAMPLE
    ink = np.zeros((side, side, 4), np.uint8)
    for points, colour, width in strokes:
        fixed = np.round(points * side * 16).astype(np.int32)  # 4 fractional bits
        if width:
            thick = max(1, round(width * side))
            cv2.polylines(ink, [fixed], False, colour, thick, cv2.LINE_AA, shift=4)
        else:
            cv2.fillPoly(ink, [fixed], colour, cv2.LINE_AA, shift=4)
    return cv2.resize(ink, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def noise(size: int, cells: int, rng: Generator) -> Array:
    """A smooth random field of unit variance with about `cells` bumps a side."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def dye(ink: Array, leaf: Species, rng: Generator) -> Array:
    """The leaf's own colour at every pixel, (size, size, 3) float32 BGR in 0..1."""
    size = len(ink)
    cover, *parts = cv2.split(ink)
    fold, vein, rim = (part / np.maximum(cover, 1e-3) for part in parts)
    mottle, grain = noise(size, 7, rng), noise(size, size // 3, rng)
    hue, saturation, value = leaf.colour
    relief = cv2.GaussianBlur(vein, (0, 0), size / 60)
    shade = 1 + 0.05 * mottle + 0.045 * grain + 0.32 * (fold - 0.5) - 0.3 * rim - 0.25 * relief
    rot = np.clip(noise(size, 11, rng) - rng.choice([1.0, 1.7, 2.6], p=[0.08, 0.3, 0.62]), 0, 0.7)
    hsv = [
        hue + 5 * mottle - rot * (hue - 32),
        np.clip(saturation * (1 + 0.08 * mottle - 0.45 * vein), 0, 1),
        np.clip(value * shade * (1 - 0.3 * rot) + leaf.pale_veins * vein, 0, 1),
    ]
    return cv2.cvtColor(cv2.merge([np.float32(plane) for plane in hsv]), cv2.COLOR_HSV2BGR)


def scan(leaf: Array, cover: Array, rng: Generator) -> NDArray[np.uint8]:
    """The leaf on lit paper with its shadow, an instrument's blur and noise."""
    size = len(leaf)
    sheet, light = paper(size, rng), lamp(size, rng)
    drift = np.float32([[1, 0, rng.normal(0, size / 80)], [0, 1, rng.normal(0, size / 80)]])
    shadow = cv2.warpAffine(cover, drift, (size, size))
    shadow = cv2.GaussianBlur(shadow, (0, 0), size * rng.uniform(0.008, 0.02))
    bare = light * (1 - cover) * (1 - rng.uniform(0.1, 0.4) * shadow)
    picture = sheet * bare[..., None] + leaf * (light * cover)[..., None]
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.25, 0.7) * size / 160)
    picture += rng.uniform(0.004, 0.014) * rng.standard_normal(picture.shape, np.float32)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def lamp(size: int, rng: Generator) -> Array:
    """Uneven light: a gradient in some direction and darker corners."""
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    across, down = rng.normal(0, 0.05, 2)
    return np.float32(1 + across * x + down * y - rng.uniform(0, 0.05) * (x**2 + y**2))


def paper(size: int, rng: Generator) -> Array:
    """White, off-white or grey paper, here and there with a ruler or a grey scale at one edge."""
    tones, shares = zip(*PAPERS, strict=True)
    tone = np.float32(tones[rng.choice(len(tones), p=shares)]) * np.float32(rng.normal(1, 0.03))
    sheet = tone + 0.008 * noise(size, size // 2, rng)[..., None]
    if rng.random() < RULED:
        draw = draw_ruler if rng.random() < 0.5 else draw_grey_scale
        draw(sheet, rng)
        sheet = np.rot90(sheet, rng.integers(4))
    return sheet


def draw_ruler(sheet: Array, rng: Generator) -> None:
    """A white ruler along the lower edge, every fifth tick longer."""
    size = len(sheet)
    edge, step = size - size // 12, size / rng.uniform(24, 40)
    sheet[edge:] = 0.93
    for tick, x in enumerate(np.arange(step, size, step)):
        end = edge + size // (48 if tick % 5 else 24)
        cv2.line(sheet, (int(x), edge), (int(x), end), (0.15, 0.15, 0.15))


def draw_grey_scale(sheet: Array, rng: Generator) -> None:
    """A photographer's, along the lower edge, black to nearly white."""
    size = len(sheet)
    sheet[size - int(size * rng.uniform(0.03, 0.07)) :] = (np.arange(size) * 9 // size / 9)[:, None]
