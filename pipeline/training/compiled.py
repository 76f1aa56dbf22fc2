"""torch.compile, where a step of it is the step that was compiled."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.base.cli import short, warn
from pipeline.base.settings import Size, sides

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

Step = Callable[[torch.Tensor], torch.Tensor]  # from pictures to logits
MOST_APART = 0.1  # of the gradient's length; half precision alone makes some .01


def compile_step(trainer: "Trainer") -> None:
    """Compile a trainer's model; where that fails, or has other gradients, it stays as it was.

    Compilers have erred with fixed BatchNorm (pytorch #104984, #175952, #181696): of two steps on
    the same noise, one before and one after, the gradients are compared.
    """
    model, batch = trainer.bare_model, trainer.settings.train.batch_size // trainer.parts.n
    trainer.set_mode()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():  # a compiler draws its own random numbers
            module.eval()
    images = trainer.normalise(noise(batch, trainer.preprocessing["size"]))
    before = gradient(trainer, trainer.model, images)
    model.compile(dynamic=False)  # batches have one size, or two
    if reason := unlike(trainer, before, trainer.model, images):
        uncompile(model)
        warn("train", f"runtime.compile: {reason}: the model is not compiled")


def unlike(trainer: "Trainer", expected: torch.Tensor, call: Step, images: torch.Tensor) -> str:
    """Why the step by `call` is not the one that has the `expected` gradients, or nothing."""
    try:
        apart = float((gradient(trainer, call, images) - expected).norm() / expected.norm())
    except Exception as error:  # no compiler, no memory, what it does not know: of many kinds
        return short(error, 120)
    return "" if apart <= MOST_APART else f"its gradients differ by {apart:.0%}"  # NaN too


def uncompile(model: nn.Module) -> None:
    model._compiled_call_impl = None


def noise(n: int, size: Size) -> torch.Tensor:
    """uint8 [n, h, w, 3], the same each time."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, *sides(size), 3), dtype=torch.uint8, generator=draw)


def gradient(trainer: "Trainer", call: Step, images: torch.Tensor) -> torch.Tensor:
    """Of the sum of weighted logits, float32 [parameters that train]; it leaves nothing behind."""
    model = trainer.bare_model
    kept = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's statistics
    logits = call(images).float()
    weights = torch.linspace(-1, 1, logits.numel(), device=logits.device)
    (logits * weights.view_as(logits)).sum().backward()
    found = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)
    return torch.cat(found)
