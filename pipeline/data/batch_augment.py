"""Augmentation in batches on a GPU: the pictures that `Augment` makes one by one, but for rounding.

What is random is drawn by albumentations itself, picture by picture and from the same seeds; only
the work on pixels is done here, in one resampling where albumentations makes one a transform.
"""

from typing import TYPE_CHECKING, Any

import albumentations as A
import cv2
import numpy as np
import torch

from pipeline.data.canvas import Canvas, Plan, Sampling, recolour, sample
from pipeline.data.resize import MODES

if TYPE_CHECKING:
    from pipeline.data.augment import Augment

BORDERS = {cv2.BORDER_CONSTANT: "zeros", cv2.BORDER_REFLECT_101: "reflection"}
FLIPS = (A.HorizontalFlip, A.VerticalFlip, A.Transpose)
SYMMETRIES = (*FLIPS, A.RandomRotate90, A.D4, A.SquareSymmetry)
WARPS = (A.Rotate, A.Affine)
RESIZES = (A.RandomResizedCrop, A.Resize)
KNOWN = (*SYMMETRIES, *WARPS, *RESIZES, A.ColorJitter)
# where the corners of a picture of 2 x 2 are, as (x, y, 0): a transform of it tells what it moves
CORNERS = np.array([[[0, 0, 0], [1, 0, 0]], [[0, 1, 0], [1, 1, 0]]], dtype=np.uint8)


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


class BatchAugment:
    """An `Augment` for uint8 batches [batch, 3, side, side]; equal pictures for an equal seed."""

    def __init__(self, augment: "Augment"):
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
