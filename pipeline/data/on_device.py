"""Pictures that stay in a GPU's memory, and augmentation in batches there.

Loader processes give 3,000 to 4,000 pictures a second whatever their number (16 cores, 224 px); an
H200 trains faster than that. What is random is drawn by albumentations itself, picture by picture
and from the same seeds, so that both ways make the same pictures but for rounding; only the work
on pixels is done here, in one resampling where albumentations makes one a transform.
"""

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pipeline.data.augment import Augment, Resize
from pipeline.data.canvas import Canvas, Plan, Sampling, recolour, sample, send

if TYPE_CHECKING:
    from pipeline.data.images import Pixels
    from pipeline.data.loader import Batch, BatchSpec, Pictures

SHARE = 0.5  # of the free memory of a GPU that pictures may take
MODES = {cv2.INTER_NEAREST: "nearest", cv2.INTER_LINEAR: "bilinear", cv2.INTER_CUBIC: "bicubic"}
BORDERS = {cv2.BORDER_CONSTANT: "zeros", cv2.BORDER_REFLECT_101: "reflection"}
FLIPS = (A.HorizontalFlip, A.VerticalFlip, A.Transpose)
SYMMETRIES = (*FLIPS, A.RandomRotate90, A.D4, A.SquareSymmetry)
WARPS = (A.Rotate, A.Affine)
RESIZES = (A.RandomResizedCrop, A.Resize)
KNOWN = (*SYMMETRIES, *WARPS, *RESIZES, A.ColorJitter)
# where the corners of a picture of 2 x 2 are, as (x, y, 0): a transform of it tells what it moves
CORNERS = np.array([[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [1, 1, 0]]], dtype=np.uint8)
_held: dict[object, tuple["Pixels", torch.Tensor]] = {}


def resident(pixels: "Pixels", device: torch.device) -> torch.Tensor | None:
    """All of the packed pixels on a GPU, uint8 [n, side, side, 3], or None without the room.

    They are sent there once a process, and stay until `release`.
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


def release() -> None:
    """Give back the memory of `resident` pictures that nobody reads any more."""
    _held.clear()
    gc.collect()  # a Trainer and its loader refer to each other
    torch.cuda.empty_cache()


class Plans(Dataset):
    """Indexed by a BatchSpec: it, and what shall be done to the pixels of its pictures."""

    def __init__(self, transform: "BatchAugment | BatchResize", side: int):
        self.transform, self.side = transform, side

    def __getitem__(self, spec: "BatchSpec") -> tuple["BatchSpec", Plan]:
        return spec, self.transform.plan(len(spec.rows), self.side, spec.seed)


class DeviceLoader:
    """As a DataLoader of `pictures`: batches (floats [batch, size, size, 3] of 0 to 255, targets).

    `there` are the packed pixels on the device, `plans` a DataLoader of `Plans`.
    """

    def __init__(self, pictures: "Pictures", there: torch.Tensor, plans: DataLoader):
        self.dataset, self.there, self.plans = pictures, there, plans

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator["Batch"]:
        device, transform = self.there.device, self.plans.dataset.transform
        for spec, plan in self.plans:
            images = self.there[send(self.dataset.rows[spec.rows], device)]
            made = transform(images.permute(0, 3, 1, 2), plan)
            yield made.permute(0, 2, 3, 1), send(self.dataset.targets[spec.rows], device)


def is_batched(transform: Augment | Resize) -> bool:
    """Whether all of a transform is known here."""
    if isinstance(transform, Resize):
        return transform.mode in MODES
    return all(is_known(step) for step in transform.compose.transforms)


def is_known(step: A.BasicTransform) -> bool:
    """Whether `step` is one of KNOWN, with no setting that would make it another.

    A subclass may do anything. Pictures of a batch that are not square, or not of one size, are
    made by loader processes.
    """
    mode = getattr(step, "interpolation", cv2.INTER_LINEAR)
    if type(step) not in KNOWN or mode not in MODES:
        return False
    if isinstance(step, WARPS):
        odd = getattr(step, "crop_border", False) or getattr(step, "fit_output", False)
        return not odd and step.border_mode in BORDERS and not np.any(step.fill)
    if isinstance(step, RESIZES):
        height, width = made_size(step)
        return height == width and step.p == 1 and not step.area_for_downscale
    return True


def made_size(step: A.RandomResizedCrop | A.Resize) -> tuple[int, int]:
    """Height and width in px of what it makes of any picture."""
    return (step.height, step.width) if isinstance(step, A.Resize) else tuple(step.size)


class BatchResize:
    """The eval transform, rounded as OpenCV does."""

    def __init__(self, resize: Resize):
        self.size, self.mode = resize.size, MODES[resize.mode]

    def plan(self, n: int, side: int, seed: int) -> Plan:
        return []

    def __call__(self, images: torch.Tensor, plan: Plan) -> torch.Tensor:
        images = images.float()
        if images.shape[2:] == self.size:
            return images
        corners = None if self.mode == "nearest" else False
        made = F.interpolate(images, self.size, mode=self.mode, align_corners=corners)
        return made.round_().clamp_(0, 255)


class BatchAugment:
    """An `Augment` for uint8 batches [batch, 3, side, side]; equal pictures for an equal seed."""

    def __init__(self, augment: Augment):
        self.augment, self.steps = augment, augment.compose.transforms
        self.mode = MODES[self.steps[-1].interpolation]

    def __call__(self, images: torch.Tensor, plan: Plan) -> torch.Tensor:
        images = images.float()
        for part in plan:
            if isinstance(part, Sampling):
                images = sample(images, part, self.mode)
            else:
                images = recolour(images, part)
        return images

    def plan(self, n: int, side: int, seed: int) -> Plan:
        """What shall be done to `n` pictures, `side` px wide."""
        canvas = Canvas(n, side)
        for step, chosen in zip(self.steps, self.draw(n, side, seed), strict=True):
            if isinstance(step, A.ColorJitter):
                canvas.colour(chosen)
            elif isinstance(step, RESIZES):
                canvas.crop(chosen, made_size(step)[0])
            elif isinstance(step, WARPS):
                canvas.warp(chosen, BORDERS[step.border_mode])
            else:
                canvas.turn({i: step.apply(CORNERS, **params) for i, params in chosen.items()})
        canvas.render()
        return canvas.plan

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
                if isinstance(step, RESIZES):
                    shape = (*made_size(step), 3)
        return drawn
