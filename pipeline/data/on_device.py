"""Pictures that stay in a GPU's memory, and are made into batches there.

Loader processes give 3,000 to 4,000 pictures a second whatever their number (16 cores, 224 px); an
H200 trains faster than that.
"""

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.canvas import Plan, send

if TYPE_CHECKING:
    from pipeline.data.batch_augment import BatchAugment
    from pipeline.data.images import Pixels
    from pipeline.data.loader import Batch, BatchSpec, Pictures
    from pipeline.data.resize import BatchResize

SHARE = 0.5  # of the free memory of a GPU that pictures may take
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
