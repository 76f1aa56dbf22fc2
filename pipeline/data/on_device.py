"""Pictures that stay in a GPU's memory, and augmentation in batches there.

Loader processes give 3,000 to 4,000 pictures a second whatever their number (16 cores, 224 px); an
H200 trains faster than that. What is random is drawn by albumentations itself, picture by picture
and from the same seeds, so that both ways make the same pictures but for rounding; only the work
on pixels is done here, in one resampling where albumentations makes one a transform.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch.nn import functional as F

from pipeline.data.augment import Augment, Resize

if TYPE_CHECKING:
    from pipeline.data.images import Pixels
    from pipeline.data.loader import Batch, BatchSpec, Pictures

SHARE = 0.5  # of the free memory of a GPU that pictures may take
MODES = {cv2.INTER_NEAREST: "nearest", cv2.INTER_LINEAR: "bilinear", cv2.INTER_CUBIC: "bicubic"}
BORDERS = {cv2.BORDER_CONSTANT: "zeros", cv2.BORDER_REFLECT_101: "reflection"}
SYMMETRIES = (A.HorizontalFlip, A.VerticalFlip, A.Transpose, A.RandomRotate90, A.D4)
WARPS = (A.Rotate, A.Affine)
KNOWN = (*SYMMETRIES, *WARPS, A.RandomResizedCrop, A.Resize, A.ColorJitter)
# where the corners of a picture of 2 x 2 are, as (x, y, 0): a transform of it tells what it moves
CORNERS = np.array([[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [1, 1, 0]]], dtype=np.uint8)
LUMA = (0.299, 0.587, 0.114)
_held: dict[object, tuple["Pixels", torch.Tensor]] = {}


def resident(pixels: "Pixels", device: torch.device) -> torch.Tensor | None:
    """All of the packed pixels on a GPU, uint8 [n, side, side, 3], or None without the room.

    They are sent there once a process.
    """
    if device.type != "cuda" or not isinstance(pixels, np.ndarray):
        return None
    key = getattr(pixels, "filename", id(pixels)), device
    if key not in _held:
        if pixels.nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
            return None
        there = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(pixels), 1024):
            part = torch.from_numpy(np.array(pixels[start : start + 1024]))
            there[start : start + 1024] = part.to(device)
        _held[key] = pixels, there
    return _held[key][1]


def send(values: "np.ndarray | torch.Tensor", device: torch.device) -> torch.Tensor:
    """A copy on the device that does not wait until it has done all it was given before.

    From ordinary memory it would: each batch was begun after the last, 16 ms later (H200).
    """
    tensor = torch.as_tensor(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class DeviceLoader:
    """As a DataLoader of `pictures`: batches (floats [batch, size, size, 3] of 0 to 255, targets).

    `there` are the packed pixels on the device.
    """

    def __init__(self, pictures: "Pictures", batches: Iterable["BatchSpec"], there: torch.Tensor):
        self.dataset, self.batches, self.there = pictures, batches, there
        made_by = BatchAugment if isinstance(pictures.transform, Augment) else BatchResize
        self.transform = made_by(pictures.transform)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator["Batch"]:
        device = self.there.device
        for spec in self.batches:
            images = self.there[send(self.dataset.rows[spec.rows], device)]
            made = self.transform(images.permute(0, 3, 1, 2), spec.seed)
            yield made.permute(0, 2, 3, 1), send(self.dataset.targets[spec.rows], device)


def is_batched(transform: Augment | Resize) -> bool:
    """Whether all of a transform is known here."""
    if isinstance(transform, Resize):
        return transform.mode in MODES
    return all(is_known(step) for step in transform.compose.transforms)


def is_known(step: A.BasicTransform) -> bool:
    """Whether `step` is one of KNOWN, with no setting that would make it another."""
    if not isinstance(step, KNOWN) or getattr(step, "interpolation", cv2.INTER_LINEAR) not in MODES:
        return False
    if isinstance(step, WARPS):
        odd = getattr(step, "crop_border", False) or getattr(step, "fit_output", False)
        return not odd and step.border_mode in BORDERS and not np.any(step.fill)
    if isinstance(step, A.RandomResizedCrop):
        return step.size[0] == step.size[1] and not step.area_for_downscale
    return True


class BatchResize:
    """The eval transform, rounded as OpenCV does."""

    def __init__(self, resize: Resize):
        self.size, self.mode = resize.size, MODES[resize.mode]

    def __call__(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        images = images.float()
        if images.shape[2:] == self.size:
            return images
        corners = None if self.mode == "nearest" else False
        made = F.interpolate(images, self.size, mode=self.mode, align_corners=corners)
        return made.round_().clamp_(0, 255)


class BatchAugment:
    """An `Augment` for uint8 batches [batch, 3, side, side]; equal pictures for an equal seed.

    Places are told in units: 0 is the centre of the first pixel and 1 that of the last.
    """

    def __init__(self, augment: Augment):
        self.augment, self.steps = augment, augment.compose.transforms
        self.mode = MODES[self.steps[-1].interpolation]

    def __call__(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        canvas = Canvas(images.float(), self.mode)
        drawn = self.draw(len(images), canvas.side, seed)
        for step, chosen in zip(self.steps, drawn, strict=True):
            if isinstance(step, A.ColorJitter):
                canvas.images = jitter(canvas.render(), chosen)
            elif isinstance(step, A.RandomResizedCrop | A.Resize):
                side = step.size[0] if isinstance(step, A.RandomResizedCrop) else step.height
                canvas.crop(chosen, side)
            elif isinstance(step, WARPS):
                canvas.warp(chosen, BORDERS[step.border_mode])
            else:
                canvas.turn({i: step.apply(CORNERS, **params) for i, params in chosen.items()})
        return canvas.render()

    def draw(self, n: int, side: int, seed: int) -> list[dict[int, dict[str, Any]]]:
        """Of each step the pictures it is applied to, and its parameters, as Compose draws them."""
        self.augment.seed(seed)
        compose, drawn = self.augment.compose, [{} for _ in self.steps]
        for i in range(n):
            compose.py_random.random()  # Compose asks whether it shall be applied itself
            shape = (side, side, 3)
            for step, chosen in zip(self.steps, drawn, strict=True):
                if step.should_apply():
                    params = {**step.get_params(), "shape": shape}
                    chosen[i] = params | step.get_params_dependent_on_data(params, {})
                if isinstance(step, A.RandomResizedCrop) and i in chosen:
                    shape = (*step.size, 3)
        return drawn


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
            (x, y, _), (right, down) = at[0, 0], (at[0, 1], at[1, 0])
            columns = [[int(right[k]) - int(at[0, 0, k]) for k in (0, 1)] + [0]]
            columns += [[int(down[k]) - int(at[0, 0, k]) for k in (0, 1)] + [0], [x, y, 1]]
            self.maps[i] = self.maps[i] @ np.array(columns).T
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
