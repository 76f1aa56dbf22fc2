"""Mixed batches: mix-up (Zhang et al. 2018) and CutMix (Yun et al. 2019), on the device."""

import torch
import torch.nn.functional as F
from timm.data import Mixup

from pipeline.parts.config import Mix


class Mixer:
    """Mix-up and CutMix on the device (timm), for odd batches too: the last image stays plain.

    `smoothing_left` is what the loss must still smooth: soft targets are smoothed already.
    """

    def __init__(self, settings: Mix, classes: int, smoothing: float):
        self.mixup = None
        if settings.mixup or settings.cutmix:
            self.mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                prob=settings.prob,
                label_smoothing=smoothing,
                num_classes=classes,
            )
        self.smoothing_left = 0.0 if self.mixup else smoothing
        self.classes, self.smoothing = classes, smoothing

    def __call__(
        self, images: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns images and int targets, or soft ones [batch, classes] whose rows sum to 1."""
        if self.mixup is None:
            return images, target
        even = len(images) // 2 * 2
        mixed, soft = self.mixup(images[:even], target[:even])
        if even == len(images):
            return mixed, soft
        one_hot = F.one_hot(target[even:], self.classes).to(soft.dtype)
        plain = one_hot * (1 - self.smoothing) + self.smoothing / self.classes
        return torch.cat([mixed, images[even:]]), torch.cat([soft, plain])
