"""Forward and backward of a step as a CUDA graph each: one call instead of some thousand.

A GPU waits for each of them where its pictures are small: lite0 at 128 px in batches of 64 trained
1,520 images/s on an H200, and 9,512 with both passes recorded once and played back.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.base.cli import short, warn
from pipeline.inference.predictor import as_saved
from pipeline.model.freeze import training_norms
from pipeline.training.compiled import (
    Step,
    count_trained,
    gpus_in_use,
    gradient,
    largest_batch,
    unlike,
)

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
LEAST = 0.5  # of the recorded batch: fewer pictures are not worth a whole one


class Graph:
    """A trainer's `model(images)`, played back where it can be.

    It is recorded for the epoch's largest batch; where no picture can touch another's answer, a
    smaller one is filled up, and what was answered to the filling is dropped. A step of several
    parts is not played back: its gradients would be added to memory that the next part overwrites.
    """

    def __init__(self, trainer: "Trainer"):
        self.trainer = trainer
        runtime, train = trainer.settings.runtime, trainer.settings.train
        alone = train.accumulate == 1 and trainer.accelerator.num_processes == 1
        self.wanted = runtime.graph and not runtime.compile and alone and is_on_gpu(trainer)
        self.play: Step | None = None
        self.trained = 0  # parameters, for which it was recorded

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        model, n = self.trainer.model, len(images)
        if self.play and self.trainer.parts.n > 1:
            self.release()
        if self.play is None or n > self.size or n < LEAST * self.size:
            return model(images)
        if n == self.size:
            return self.play(images)
        if not self.fills:
            return model(images)
        return self.play(torch.cat([images, images[: self.size - n]]))[:n]

    def record(self) -> None:
        """Before the epoch's loader begins: its threads may ask nothing of a GPU meanwhile.

        Not done where it fails, or has other gradients than the step it stands for.
        """
        trainer, model = self.trainer, self.trainer.bare_model
        if not self.wanted or trainer.parts.n > 1:
            return
        if (trained := count_trained(model)) == self.trained:
            return
        self.release()
        images = largest_batch(trainer)
        self.trained, self.size = trained, len(images)
        self.fills = not training_norms(model)
        with torch.random.fork_rng(gpus_in_use()):  # training draws as it would without
            try:
                torch.manual_seed(0)
                expected = gradient(trainer, trainer.model, images)
                play = self.recorded(images)
                torch.manual_seed(0)
                reason = unlike(trainer, expected, play, images)
            except Exception as error:  # no memory, what cannot be recorded: of many kinds
                reason = short(error, 120)
        if reason:
            warn("train", f"runtime.graph: {reason}: steps are not played back")
        else:
            self.play = play

    def recorded(self, images: torch.Tensor) -> Step:
        step = Bare(self.trainer.bare_model, self.trainer.accelerator.mixed_precision)
        buffers = [buffer.clone() for buffer in step.buffers()]  # statistics: it is tried on noise
        try:
            with ended():
                play = torch.cuda.make_graphed_callables(step, (images,), allow_unused_input=True)
            # it reads 1/σ and -μ where they lie, when norms have long been given others
            step.constants = [vars(module).get("statistics") for module in step.modules()]
            return play
        finally:
            for buffer, before in zip(step.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def release(self) -> None:
        """Give its memory back."""
        self.play, self.trained = None, 0
        gc.collect()  # the recorded module and its forward refer to each other


@contextmanager
def ended() -> Iterator[None]:
    """A recording that fails is over: torch 2.8 to 2.11 stay at its stream, and their random
    numbers in it, where the next dropout fails (pytorch #171263)."""
    gpus = gpus_in_use()
    streams = [torch.cuda.current_stream(gpu) for gpu in gpus]
    states = [torch.cuda.default_generators[gpu].clone_state() for gpu in gpus]
    try:
        yield
    except Exception:
        for gpu, stream, state in zip(gpus, streams, states, strict=True):
            torch.cuda.set_stream(stream)
            torch.cuda.default_generators[gpu].graphsafe_set_state(state)
        raise


def is_on_gpu(trainer: "Trainer") -> bool:
    return trainer.accelerator.device.type == "cuda"


class Bare(nn.Module):
    """The model's own forward in half precision, whose casts are a part of each pass.

    Accelerate's keeps them for a pass, and would have them recorded once.
    """

    def __init__(self, model: nn.Module, precision: str):
        super().__init__()
        self.model, self.half = model, HALF.get(precision)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kind = images.device.type
        half = torch.autocast(kind, self.half, enabled=self.half is not None, cache_enabled=False)
        with half, as_saved(self.model):
            return self.model(images).float()
