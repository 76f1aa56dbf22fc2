"""What changes from step to step: the learning rate, thawed layers, averaged weights."""

import math

import torch
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from pipeline.base.config import Train


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: Train, steps: int
) -> CosineLRScheduler:
    """Linear warm-up, then a half cosine to zero, per step; applies each group's lr_scale."""
    warmup = round(settings.warmup * steps)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, steps - warmup),  # of 1 timm warns; the one step is at full rate alike
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def warm_up_thawed(
    optimizer: torch.optim.Optimizer, settings: Train, steps: int, since: int
) -> None:
    """Damp the backbone's rate in its first steps after thawing, `since` steps ago.

    Its optimizer state is still empty, and Adam's first steps are as large as the rate allows.
    """
    warmup = max(1, round(settings.warmup * steps))
    if since < warmup:
        for group in optimizer.param_groups:
            if not group["head"]:
                group["lr"] *= (since + 1) / (warmup + 1)


def make_ema(model: nn.Module, settings: Train, steps: int) -> ModelEmaV3 | None:
    """Weight average over a window of `settings.ema` of all steps.

    A fixed decay of 0.9998 would leave a short run near its random start.
    """
    if not settings.ema:
        return None
    return ModelEmaV3(model, decay=math.exp(-1 / max(1.0, settings.ema * steps)), use_warmup=True)
