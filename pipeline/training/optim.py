"""What steps are taken: groups of parameters, their learning rates, averaged weights."""

import math
from functools import partial
from typing import Any

import timm.optim
import torch
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, TanhLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from pipeline.base.cli import UserError, short
from pipeline.base.config import Train
from pipeline.base.plugins import refuse_unknown
from pipeline.model.build import body
from pipeline.model.taps import classifier

SCHEDULES = {
    "cosine": CosineLRScheduler,
    "linear": partial(PolyLRScheduler, power=1.0),
    "tanh": TanhLRScheduler,
}


def parameter_groups(model: nn.Module, settings: Train) -> list[dict[str, Any]]:
    """Groups with `lr_scale`: layer decay in the backbone, a larger rate for the head.

    No weight decay on norms and biases. Only timm's schedulers apply `lr_scale`. Call it before
    freezing: frozen parameters have no gradient, so the optimizer leaves them and their (still
    empty) state alone until they are unfrozen.
    """
    head = list(classifier(model).parameters())
    in_head = {id(parameter) for parameter in head}
    decay, layer_decay = settings.weight_decay, settings.layer_decay
    backbone = body(model)
    spared = getattr(backbone, "no_weight_decay", set)()  # a ViT's embeddings
    groups = param_groups_layer_decay(backbone, decay, spared, layer_decay=layer_decay)
    split = []
    for group in groups:
        rest = [p for p in group["params"] if id(p) not in in_head]
        if rest:
            split.append({**group, "params": rest, "head": False})
    for matrices in (True, False):
        params = [p for p in head if (p.ndim > 1) is matrices]
        wanted = {"weight_decay": decay if matrices else 0.0, "lr_scale": settings.head_lr_mult}
        if params:
            split.append({"params": params, "head": True, **wanted})
    return split


def make_optimizer(
    groups: list[dict[str, Any]], settings: Train, own: dict[str, Any]
) -> torch.optim.Optimizer:
    """PyTorch's AdamW, one of the user's `own`, or timm's of that name, if its step needs no more
    than the gradients. Raises UserError.

    The groups hold their own weight decay.
    """
    name, rates = settings.optimizer, {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    if name in own:
        return own[name](groups, **rates)
    every = timm.optim.list_optimizers()
    known = [one for one in every if not timm.optim.get_optimizer_info(one).second_order]
    refuse_unknown("train.optimizer", name, [*own, *known])
    try:
        return timm.optim.create_optimizer_v2(groups, name, **rates)
    except Exception as error:  # a package that it lacks, a parameter that it cannot take
        raise UserError(f"train.optimizer: {name}: {short(error)}") from None


def make_schedule(optimizer: torch.optim.Optimizer, settings: Train, steps: int) -> Scheduler:
    """Linear warm-up, then the schedule to zero, per step; applies each group's lr_scale."""
    warmup = round(settings.warmup * steps)
    return SCHEDULES[settings.schedule](
        optimizer,
        t_initial=max(2, steps - warmup),  # of 1 timm warns; the one step is at full rate alike
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def warm_up_unfrozen(
    optimizer: torch.optim.Optimizer, settings: Train, steps: int, since: int
) -> None:
    """Damp the backbone's rate in its first steps after unfreezing, `since` steps ago.

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
