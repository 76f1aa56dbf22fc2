"""torch.compile, where a step of it is the step that was compiled."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.base.cli import short, warn
from pipeline.base.settings import sides
from pipeline.model.freeze import train_mode
from pipeline.model.head import OwnHead

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

Step = Callable[[torch.Tensor], torch.Tensor]  # from pictures to logits
MOST_APART = 0.1  # of the gradient's length; half precision alone makes some .01


def compile_step(trainer: "Trainer") -> None:
    """Compile a trainer's model; where that fails, or has other gradients, it stays as it was.

    Compilers have erred with fixed BatchNorm (pytorch #104984, #175952, #181696): of two steps on
    the same noise, one before and one after, the gradients are compared. Ranks of a group that
    have no memory for it end, as they would in training.
    """
    if not trainer.settings.runtime.compile:
        return
    model = trainer.bare_model
    trainer.set_mode()
    trainer.compiled_for = count_trained(model)
    stop_drawing(model)
    try:
        images = largest_batch(trainer)
        before = gradient(trainer, trainer.model, images)
        model.compile(dynamic=False)  # batches have one size, or two
        reason = unlike(trainer, before, trainer.model, images)
    except torch.OutOfMemoryError as error:  # training takes a batch in parts then
        if trainer.accelerator.num_processes > 1:
            raise
        reason = short(error, 120)
    if reason:
        uncompile(model)
        torch.cuda.empty_cache()
        warn("train", f"runtime.compile: {reason}: the model is not compiled")
    train_mode(model, trainer.settings.model.batchnorm)


def compile_anew(trainer: "Trainer") -> None:
    """Compile and compare again, once other layers train: the step is another one then."""
    model = trainer.bare_model
    if not model._compiled_call_impl or count_trained(model) == trainer.compiled_for:
        return
    uncompile(model)
    with torch.random.fork_rng(gpus_in_use()):  # training draws as it would without
        compile_step(trainer)


def stop_drawing(model: nn.Module) -> None:
    """Switch off what draws random numbers in training: a compiler draws its own.

    A head of the user's own may do so in its `forward`; of it BatchNorm alone stays as it trains.
    """
    own = set(model.head.modules()) if isinstance(model, OwnHead) else set()
    for module in model.modules():
        draws = "drop" in type(module).__name__.lower() or module in own
        if draws and not isinstance(module, _BatchNorm):
            module.training = False


def unlike(trainer: "Trainer", expected: torch.Tensor, call: Step, images: torch.Tensor) -> str:
    """Why the step by `call` is not the one that has the `expected` gradients, or nothing."""
    try:
        apart = float((gradient(trainer, call, images) - expected).norm() / expected.norm())
    except Exception as error:  # no compiler, no memory, what it does not know: of many kinds
        return short(error, 120)
    return "" if apart <= MOST_APART else f"its gradients differ by {apart:.0%}"  # NaN too


def uncompile(model: nn.Module) -> None:
    model._compiled_call_impl = None


def count_trained(model: nn.Module) -> int:
    """Parameters that train."""
    return sum(p.requires_grad for p in model.parameters())


def gpus_in_use() -> list[int]:
    """The one of this process, or none."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []


def largest_batch(trainer: "Trainer") -> torch.Tensor:
    """Noise like the largest batch that passes the network at once, normalised [n, 3, h, w].

    A rank has its share of what the epoch is cut into, and takes that in parts. It is the same each
    time.
    """
    most, ranks = max(trainer.batches.sizes), trainer.accelerator.num_processes
    n = -(-most // ranks)
    n = -(-n // trainer.parts.of(most // ranks))
    shape, draw = sides(trainer.preprocessing["size"]), torch.Generator().manual_seed(0)
    noise = torch.randint(256, (n, *shape, 3), dtype=torch.uint8, generator=draw)
    return trainer.normalise(noise)


def gradient(trainer: "Trainer", call: Step, images: torch.Tensor) -> torch.Tensor:
    """Of the sum of weighted logits, float32 [parameters that train]; it leaves nothing behind."""
    model = trainer.bare_model
    kept = [buffer.clone() for buffer in model.buffers()]  # BatchNorm's statistics
    model.zero_grad(set_to_none=True)  # of the last step
    try:
        logits = call(images).float()
        weights = torch.linspace(-1, 1, logits.numel(), device=logits.device)
        (logits * weights.view_as(logits)).sum().backward()
        found = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
        return torch.cat(found)
    finally:  # without memory, too
        model.zero_grad(set_to_none=True)
        for buffer, before in zip(model.buffers(), kept, strict=True):
            buffer.copy_(before)
