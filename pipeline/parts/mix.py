"""Mixed batches: mix-up (Zhang et al. 2018) and CutMix (Yun et al. 2019), on the device."""

import torch
from timm.data import Mixup

from pipeline.parts.config import Mix
from pipeline.parts.loss import as_rows


class Mixer:
    """Mix-up and CutMix on the device (timm), for odd batches too: the last image stays plain.

    Nothing is smoothed here: the loss does that.
    """

    def __init__(self, settings: Mix, classes: int):
        self.mixup = None
        if settings.mixup or settings.cutmix:
            self.mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                prob=settings.prob,
                label_smoothing=0.0,
            )
        self.classes = classes

    def __call__(
        self, images: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes int targets or soft rows [batch, classes]; returns rows if it mixes at all."""
        if self.mixup is None or len(images) < 2:
            return images, target
        rows = as_rows(target, self.classes)
        even = len(images) // 2 * 2
        # timm mixes labels only: told each image's number as its label, it answers with shares
        self.mixup.num_classes = even
        mixed, shares = self.mixup(images[:even], torch.arange(even, device=images.device))
        own, pair = shares.diagonal().unsqueeze(1), rows[:even]
        soft = pair * own + pair.flip(0) * (1 - own)
        return torch.cat([mixed, images[even:]]), torch.cat([soft, rows[even:]])
