"""The eval transform, nothing but the size: of a picture, or of a batch on its device."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from pipeline.base.settings import sides
from pipeline.data.canvas import Plan

INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
MODES = {cv2.INTER_NEAREST: "nearest", cv2.INTER_LINEAR: "bilinear", cv2.INTER_CUBIC: "bicubic"}


class Resize:
    """Of uint8 pictures [h, w, 3]."""

    is_random = False

    def __init__(self, size: int | Sequence[int], interpolation: str):
        self.size, self.mode = sides(size), INTERPOLATION[interpolation]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[:2] == self.size:
            return np.asarray(pixels)
        return cv2.resize(pixels, self.size[::-1], interpolation=self.mode)

    def batched(self) -> "BatchResize | None":
        """The same for batches on a GPU; None where PyTorch knows no such interpolation."""
        return BatchResize(self.size, MODES[self.mode]) if self.mode in MODES else None


class BatchResize:
    """Of uint8 batches [batch, 3, h, w], as float32; rounded as OpenCV does."""

    def __init__(self, size: tuple[int, int], mode: str):
        self.size, self.mode = size, mode

    def plan(self, n: int, side: int, seed: int) -> Plan:
        return []

    def __call__(self, images: torch.Tensor, plan: Plan) -> torch.Tensor:
        images = images.float()
        if images.shape[2:] == self.size:
            return images
        corners = None if self.mode == "nearest" else False
        made = F.interpolate(images, self.size, mode=self.mode, align_corners=corners)
        return made.round_().clamp_(0, 255)
