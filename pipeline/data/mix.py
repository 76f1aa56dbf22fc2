"""Mixed batches on the device: mix-up (Zhang et al. 2018), CutMix (Yun et al. 2019).

All random numbers come from NumPy's global generator, which the training seeds every epoch.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup

from pipeline.base.config import Mix

Mixed = tuple[torch.Tensor, torch.Tensor]


class Mixer:
    """Mixes a share of the batches by one of the methods that are on, drawn at random.

    Nothing is smoothed here: the loss does that. `epoch` is told by the training: in the last
    `off_epochs` every batch stays as it is.
    """

    def __init__(self, settings: Mix, classes: int, epochs: int):
        self.classes, self.prob = classes, settings.prob
        self.epoch, self.mixed_epochs = 0, epochs - settings.off_epochs
        self.methods: dict[str, Callable[[torch.Tensor, torch.Tensor], Mixed]] = {}
        if settings.mixup:
            self.methods["mixup"] = partial(in_pairs, Mixup(settings.mixup, 0.0))
        if settings.cutmix:
            self.methods["cutmix"] = partial(in_pairs, Mixup(0.0, settings.cutmix))

    def __call__(self, images: torch.Tensor, target: torch.Tensor) -> Mixed:
        """Mix [batch, 3, h, w], in place or not, and int targets [batch] or rows [batch, classes].

        Returns them as they are, or pictures of equal shape and soft rows [batch, classes] that
        add up as the targets' rows did.
        """
        off = not self.methods or self.epoch >= self.mixed_epochs
        if off or np.random.rand() >= self.prob:
            return images, target
        name = list(self.methods)[np.random.randint(len(self.methods))]
        return self.methods[name](images, as_rows(target, self.classes))


def in_pairs(mixup: Mixup, images: torch.Tensor, rows: torch.Tensor) -> Mixed:
    """timm's methods, which want pairs: the last picture of an odd batch stays plain."""
    even = len(images) // 2 * 2
    if not even:
        return images, rows
    # timm mixes labels only: told each image's number as its label, it answers with shares
    mixup.num_classes, mixup.label_smoothing = even, 0.0
    mixed, shares = mixup(images[:even], torch.arange(even, device=images.device))
    own, pair = shares.diagonal().unsqueeze(1), rows[:even]
    soft = pair * own + pair.flip(0) * (1 - own)
    return torch.cat([mixed, images[even:]]), torch.cat([soft, rows[even:]])


def as_rows(target: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Labels int64 [batch], or rows already, as float32 rows [batch, classes] that sum to 1.

    `smoothing` moves that share of each row to all classes alike (Szegedy et al. 2016).
    """
    rows = F.one_hot(target, classes).float() if target.ndim == 1 else target
    return rows * (1 - smoothing) + smoothing / classes if smoothing else rows
