"""What albumentations draws for pictures, done to a batch of them at once: places and colours."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)


def send(values: "np.ndarray | torch.Tensor", device: torch.device) -> torch.Tensor:
    """A copy on the device that does not wait until it has done all it was given before.

    From ordinary memory it would: each batch was begun after the last, 16 ms later (H200).
    """
    tensor = torch.as_tensor(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Canvas:
    """Pictures float32 [batch, 3, side, side], and where their pixels shall be taken from.

    `maps` [batch, 3, 3] lead from a place on the canvas to one in the pictures.
    """

    def __init__(self, images: torch.Tensor, mode: str):
        self.images, self.mode, self.side = images, mode, images.shape[-1]
        self.begin()

    def begin(self) -> None:
        n = len(self.images)
        self.maps, self.borders = np.tile(np.eye(3), (n, 1, 1)), np.full(n, "border", dtype="<U10")
        self.moved = self.resampled = False

    def turn(self, corners: dict[int, np.ndarray]) -> None:
        """By flips and quarter turns, told by where the corners [2, 2, (x, y, 0)] come from."""
        for i, at in corners.items():
            first, right, down = at[[0, 0, 1], [0, 1, 0], :2].astype(int)
            step = np.eye(3)
            step[:2] = np.stack([right - first, down - first, first], 1)
            self.maps[i] = self.maps[i] @ step
            self.moved = True

    def crop(self, chosen: dict[int, dict[str, Any]], side: int) -> None:
        """To boxes (left, top, right, bottom) px made `side` px large; all of it where none is."""
        was = self.side
        if not chosen or (side == was and not any("crop_coords" in p for p in chosen.values())):
            return
        for i, params in chosen.items():
            left, top, right, bottom = params.get("crop_coords", (0, 0, was, was))
            wide, high = (right - left) / side, (bottom - top) / side
            step = np.eye(3)
            step[0, 0], step[1, 1] = (n * (side - 1) / (was - 1) for n in (wide, high))
            step[0, 2] = (left - 0.5 + wide / 2) / (was - 1)
            step[1, 2] = (top - 0.5 + high / 2) / (was - 1)
            self.maps[i] = self.maps[i] @ step
        self.side, self.moved, self.resampled = side, True, True

    def warp(self, chosen: dict[int, dict[str, Any]], border: str) -> None:
        """By matrices in px. What lies beyond a picture's edge is that of the canvas as it is."""
        if self.resampled:
            self.render()
        units = np.diag([self.side - 1, self.side - 1, 1.0])
        for i, params in chosen.items():
            inverse = np.linalg.inv(np.asarray(params["matrix"], dtype=float))
            self.maps[i] = self.maps[i] @ np.linalg.inv(units) @ inverse @ units
            self.borders[i], self.moved, self.resampled = border, True, True

    def render(self) -> torch.Tensor:
        """The pictures as they shall be, which the canvas holds from now on."""
        if self.moved:
            maps = send(self.maps[:, :2].astype(np.float32), self.images.device)
            line = torch.linspace(0, 1, self.side, device=maps.device)
            x = maps[:, None, None, :, 0] * line[:, None]
            y = maps[:, None, None, :, 1] * line[:, None, None]
            grid = (x + y + maps[:, None, None, :, 2]).mul_(2).sub_(1)
            self.images = self.sample(grid).clamp_(0, 255)
        self.begin()
        return self.images

    def sample(self, grid: torch.Tensor) -> torch.Tensor:
        def of(rows: Any, border: str) -> torch.Tensor:
            images, places = self.images[rows].float(), grid[rows]
            return F.grid_sample(images, places, self.mode, border, align_corners=True)

        kinds = sorted(set(self.borders))
        if len(kinds) == 1:
            return of(slice(None), kinds[0])
        made = self.images.new_empty(len(grid), 3, self.side, self.side)
        for kind in kinds:
            rows = send(np.flatnonzero(self.borders == kind), grid.device)
            made[rows] = of(rows, kind)
        return made


def jitter(images: torch.Tensor, chosen: dict[int, dict[str, Any]]) -> torch.Tensor:
    """albumentations' ColorJitter of [batch, 3, h, w] of 0 to 255.

    In half precision on a GPU: its steps of at most 1/8 are finer than a picture's, and memory
    traffic is all that this costs.
    """
    if images.device.type == "cuda":
        images = images.half()
    steps = [("brightness", brighter), ("contrast", starker), ("saturation", richer), ("hue", hued)]
    for place in range(4):
        for number, (name, function) in enumerate(steps):
            rows = [i for i, params in chosen.items() if params["order"][place] == number]
            if rows:
                at = send(rows, images.device)
                factors = np.array([chosen[i][name] for i in rows])[:, None, None, None]
                factor = send(factors, images.device).to(images.dtype)
                images[at] = function(images[at], factor).clamp_(0, 255)
    return images


def brighter(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return images.mul_(factor)


def starker(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    mean = gray(images).mean((2, 3), keepdim=True)
    return images.mul_(factor).add_(mean * (1 - factor))


def richer(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    shade = gray(images) * (1 - factor)
    return images.mul_(factor).add_(shade)


def gray(images: torch.Tensor) -> torch.Tensor:
    """[batch, 1, h, w]"""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green).add_(blue, alpha=LUMA[2])[:, None]


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
