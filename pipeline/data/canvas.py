"""What albumentations draws for a batch of pictures: planned in numbers, then done on its device.

A plan touches no pixel, so that another process can make it while the device trains.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)
COLOURS = ("brightness", "contrast", "saturation", "hue")  # ColorJitter's numbers of its changes
CONTRAST, SATURATION, HUE = 1, 2, 3


class Sampling(NamedTuple):
    """Pixels taken from elsewhere, by maps [batch, 2, 3] from a place to one in the picture.

    Places reach from 0 to 1, those in the picture from -1 to 1, as grid_sample counts.
    """

    side: int
    maps: np.ndarray  # float32
    borders: np.ndarray  # of each picture, by grid_sample's names


class Colours(NamedTuple):
    """Up to four changes, each of all pictures towards a grey, then of some in hue."""

    levels: np.ndarray  # float32 [changes, 3, batch]: what is kept; the grey: its own, its mean
    counts: list[int]  # pictures whose hue is turned, by change
    rows: np.ndarray  # which those are, one change after the other
    turns: np.ndarray  # float32, shares of a circle


Plan = list[Sampling | Colours]


def send(values: "np.ndarray | torch.Tensor", device: torch.device) -> torch.Tensor:
    """A copy on the device that does not wait until it has done all it was given before.

    From ordinary memory it would: each batch was begun after the last, 16 ms later (H200).
    """
    tensor = torch.as_tensor(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Canvas:
    """Where the pixels of n pictures, `side` px wide, shall be taken from; keeps the `plan`.

    Places are told in units: 0 is the centre of the first pixel and 1 that of the last. `maps`
    [n, 3, 3] lead from a place on the canvas to one in the pictures.
    """

    def __init__(self, n: int, side: int):
        self.n, self.side, self.plan = n, side, Plan()
        self.begin()

    def begin(self) -> None:
        self.maps, self.borders = eyes(self.n), np.full(self.n, "border", dtype="<U10")
        self.moved = self.resampled = False

    def move(self, rows: list[int], steps: np.ndarray) -> None:
        self.maps[rows] = self.maps[rows] @ steps
        self.moved = True

    def turn(self, corners: dict[int, np.ndarray]) -> None:
        """By flips and quarter turns, told by where the corners [2, 2, (x, y, 0)] come from."""
        if not corners:
            return
        at = np.stack(list(corners.values()))[:, [0, 0, 1], [0, 1, 0], :2].astype(float)
        first, right, down = at.swapaxes(0, 1)
        steps = eyes(len(at))
        steps[:, :2] = np.stack([right - first, down - first, first], 2)
        self.move(list(corners), steps)

    def crop(self, chosen: dict[int, dict[str, Any]], side: int) -> None:
        """To boxes (left, top, right, bottom) px made `side` px large; all of it where none is."""
        was = self.side
        if not chosen or (side == was and not any("crop_coords" in p for p in chosen.values())):
            return
        boxes = [params.get("crop_coords", (0, 0, was, was)) for params in chosen.values()]
        left, top, right, bottom = np.array(boxes, dtype=float).T
        wide, high = (right - left) / side, (bottom - top) / side
        steps = eyes(len(boxes))
        steps[:, 0, 0], steps[:, 1, 1] = (n * (side - 1) / (was - 1) for n in (wide, high))
        steps[:, 0, 2] = (left - 0.5 + wide / 2) / (was - 1)
        steps[:, 1, 2] = (top - 0.5 + high / 2) / (was - 1)
        self.move(list(chosen), steps)
        self.side, self.resampled = side, True

    def warp(self, chosen: dict[int, dict[str, Any]], border: str) -> None:
        """By matrices in px. What lies beyond a picture's edge is that of the canvas as it is."""
        if self.resampled:
            self.render()
        if chosen:
            units = np.diag([self.side - 1, self.side - 1, 1.0])
            there = np.array([params["matrix"] for params in chosen.values()], dtype=float)
            self.move(list(chosen), np.linalg.inv(units) @ np.linalg.inv(there) @ units)
            self.borders[list(chosen)], self.resampled = border, True

    def render(self) -> None:
        """What moved so far becomes one resampling."""
        if self.moved:
            maps = 2 * self.maps[:, :2] - [0, 0, 1]
            self.plan.append(Sampling(self.side, maps.astype(np.float32), self.borders))
        self.begin()

    def colour(self, chosen: dict[int, dict[str, Any]]) -> None:
        """By ColorJitter, which makes its four changes of a picture in any order."""
        self.render()
        levels, counts, rows, turns = [], [], [], []
        for place in range(4 if chosen else 0):
            kept = np.tile(np.array([[1.0], [0.0], [0.0]], dtype=np.float32), self.n)
            before = len(rows)
            for i, params in chosen.items():
                number = params["order"][place]
                value = params[COLOURS[number]]
                if number == HUE:
                    if value:
                        rows.append(i)
                        turns.append(value)
                else:
                    kept[:, i] = value, number == SATURATION, number == CONTRAST
            levels.append(kept)
            counts.append(len(rows) - before)
        if levels:
            turns = np.array(turns, dtype=np.float32)
            self.plan.append(Colours(np.stack(levels), counts, np.array(rows, dtype=int), turns))


def eyes(n: int) -> np.ndarray:
    return np.tile(np.eye(3), (n, 1, 1))


def sample(images: torch.Tensor, plan: Sampling, mode: str) -> torch.Tensor:
    """Float [batch, 3, side, side] of float [batch, 3, h, w]."""
    maps = send(plan.maps, images.device)
    line = torch.linspace(0, 1, plan.side, device=maps.device)
    x = maps[:, None, None, :, 0] * line[:, None] + maps[:, None, None, :, 2]
    grid = x + maps[:, None, None, :, 1] * line[:, None, None]

    def of(rows: Any, border: str) -> torch.Tensor:
        return F.grid_sample(images[rows].float(), grid[rows], mode, border, align_corners=True)

    kinds = sorted(set(plan.borders))
    if len(kinds) == 1:
        return of(slice(None), kinds[0]).clamp_(0, 255)
    made = images.new_empty(len(grid), 3, plan.side, plan.side, dtype=torch.float32)
    for kind in kinds:
        rows = send(np.flatnonzero(plan.borders == kind), grid.device)
        made[rows] = of(rows, kind)
    return made.clamp_(0, 255)


def recolour(images: torch.Tensor, plan: Colours) -> torch.Tensor:
    """albumentations' ColorJitter of [batch, 3, h, w] of 0 to 255.

    In half precision on a GPU: its steps of at most 1/8 are finer than a picture's, and memory
    traffic is all that this costs.
    """
    if images.device.type == "cuda":
        images = images.half()
    levels = send(plan.levels, images.device).to(images.dtype)[..., None, None, None]
    rows = send(plan.rows, images.device).split(plan.counts)
    turns = send(plan.turns, images.device).to(images.dtype)[:, None, None, None]
    for (kept, own, mean), at, turn in zip(levels, rows, turns.split(plan.counts), strict=True):
        red, green, blue = images.unbind(1)
        shade = (LUMA[0] * red + LUMA[1] * green).add_(blue, alpha=LUMA[2])[:, None]
        shade = shade * own + shade.mean((2, 3), keepdim=True) * mean
        images = torch.lerp(shade, images, kept).clamp_(0, 255)  # away from black is brighter
        if len(at):
            images[at] = hued(images[at], turn).clamp_(0, 255)
    return images


def hued(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Hue turned by `factor` of a circle: in sectors of HSV's hexagon, as OpenCV's, unrounded."""
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = (images[:, k : k + 1] for k in range(3))
    safe = chroma.clamp(min=1e-3)  # grey has no hue
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    ).add_(6 * factor)
    offsets = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype)[:, None, None]
    k = (sector + offsets).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
