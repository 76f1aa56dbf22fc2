"""What `bench` measured for a backbone on this machine, and training and inference go by.

All images/s are those of the real Trainer, loader and inference.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.base.config import Experiment, Runtime
from pipeline.base.device import peak_memory_gb, workers
from pipeline.base.libc import cores
from pipeline.data.loader import Batch, EpochBatches, grouped, make_loader
from pipeline.inference.predictor import predict_probabilities
from pipeline.tuning.machine import wait

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

LIMIT = 40.0  # seconds after which no further choice is measured
SECONDS = 2.0  # of one measurement
FASTER = 1.05  # a smaller gain is noise, and no reason to leave the default
FEW = 8  # images of a first try
MOST = 1024  # images in a batch of inference
COMPILES = 600.0  # seconds of a fold's training from which on a minute of compiling may pay


class Search:
    """Measures one choice after another until the time is over, and keeps what is faster.

    `build(runtime)` makes a Trainer; what the experiment's `runtime` says is not chosen.
    """

    def __init__(self, settings: Experiment, build: Callable[[Runtime], "Trainer"]):
        self.runtime, self.build, self.end = settings.runtime, build, time.monotonic() + LIMIT
        self.looks = settings.predict.tta, settings.predict.sizes or ()
        self.chosen: dict[str, Any] = {}
        self.tried: list[tuple[str, Any, float | None]] = []  # images/s, None: no time was left

    def run(self) -> dict[str, float]:
        """Images/s of the loader and the training step alone, of both, and of inference."""
        self.trainer, self.ready = self.make(), time.monotonic()
        self.device = self.trainer.accelerator.device
        self.on_gpu = self.device.type == "cuda"
        batch = next(iter(self.trainer.loader))
        self.rough = step_rate(self.trainer, batch, FEW, 0)
        # on a CPU a step of a second says as much as a longer one
        size = len(batch[0]) if self.on_gpu else max(FEW, min(len(batch[0]), int(self.rough)))
        rates = {"model": self.choose_model(batch, size), "both": self.choose_workers(size)}
        nothing, count = lambda group, images: None, self.chosen["workers"]
        rates["loader"] = load_rate(self.trainer, size, count, nothing)
        rates["forward"] = self.choose_batch()
        rates["looks"] = forward_rate(self.trainer, self.chosen["predict_batch"], *self.looks)
        return rates

    def make(self, **changes: Any) -> "Trainer":
        """A Trainer with all that was chosen, and `changes`."""
        trainer = self.build(self.runtime.model_copy(update={**self.chosen, **changes}))
        trainer.epoch = max(0, trainer.settings.train.epochs - 1)
        trainer.set_mode()  # as in the last epoch, when all has thawed that ever does
        return trainer

    def choose_model(self, batch: Batch, size: int) -> float:
        best = self.measure_step(self.trainer, batch, size)
        choices = {"precision": ["no", "bf16"], "channels_last": [True, False]}
        if self.on_gpu:
            choices["precision"].append("fp16")
            train = self.trainer.settings.train
            if self.trainer.steps * train.batch_size * train.accumulate / best > COMPILES:
                choices["compile"] = [False, True]
        precision = self.trainer.accelerator.mixed_precision
        defaults = {**self.runtime.model_dump(), "precision": precision}
        for name, values in choices.items():

            def measure(value: Any, name: str = name) -> float:
                return self.measure_step(self.make(**{name: value}), batch, size)

            others = [value for value in values if value != defaults[name]]
            best = self.choose(name, defaults[name], others, measure, best)
        self.trainer = self.make()
        return best

    def measure_step(self, trainer: "Trainer", batch: Batch, size: int) -> float:
        if not self.on_gpu:  # a precision without units of its own takes ten times as long
            rough = step_rate(trainer, batch, FEW, 0)
            if rough < self.rough / 2:
                return rough
        return step_rate(trainer, batch, size, SECONDS)

    def choose_workers(self, size: int) -> float:
        def measure(count: int) -> float:
            return load_rate(self.trainer, size, count, self.trainer.step)

        default = workers(self.trainer.settings.runtime, self.on_gpu)
        others = [n for n in (0, 1, 2, 4, 8) if n <= cores() and n != default]
        return self.choose("workers", default, others, measure)

    def choose_batch(self) -> float:
        def measure(batch: int) -> float:
            return forward_rate(self.trainer, batch)

        default = self.runtime.predict_batch
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)  # training's peak is another matter
        doubled = itertools.takewhile(self.roomy, (default * 2**k for k in itertools.count(1)))
        return self.choose("predict_batch", default, doubled, measure)

    def roomy(self, batch: int) -> bool:
        """Whether a batch surely fits into memory, and is done in less than a measurement."""
        if batch > MOST or batch > SECONDS * self.tried[-1][2]:
            return False
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if self.on_gpu:
            total = torch.cuda.get_device_properties(self.device).total_memory
        peak = peak_memory_gb()["gpu_gb" if self.on_gpu else "ram_gb"]
        return peak * 1e9 < 0.45 * total  # it holds twice the last one's numbers

    def choose(
        self,
        name: str,
        default: Any,
        others: Iterable[Any],
        measure: Callable[[Any], float],
        best: float | None = None,
    ) -> float:
        """The best rate of the default (`best` if known) and, while there is time, the others."""
        best = best or measure(default)
        self.tried.append((name, default, best))
        self.chosen[name] = default
        for value in self.open(name, others):
            rate = measure(value)
            self.tried.append((name, value, rate))
            # measured anew, as a machine's speed drifts: only what is faster both times is
            if rate > FASTER * best and rate > FASTER * measure(self.chosen[name]):
                best, self.chosen[name] = rate, value
        return best

    def open(self, name: str, values: Iterable[Any]) -> Iterator[Any]:
        """The values of a choice, while there is time; none where the experiment has chosen."""
        if name not in self.runtime.model_fields_set:
            for value in values:
                if time.monotonic() > self.end:
                    self.tried.append((name, value, None))
                    return
                yield value


def images_per_s(
    groups: Iterable[list[Batch]],
    use: Callable[[list[Batch], int], Any],
    seconds: float,
    device: torch.device,
    warm: int = 1,
) -> float:
    """Images/s of `use(group, its images)` for `seconds`, the first `warm` groups not counted."""
    images, started = 0, float("inf")
    for number, group in enumerate(groups, start=1):
        size = sum(len(pixels) for pixels, _ in group)
        use(group, size)
        if number > warm:
            images += size
            if time.monotonic() - started > seconds:
                break
        elif number == warm:
            wait(device)
            started = time.monotonic()
    wait(device)
    return images / (time.monotonic() - started)


def step_rate(trainer: "Trainer", batch: Batch, size: int, seconds: float) -> float:
    """Images/s of the training step alone: the same `size` images, on the device already."""
    device = trainer.accelerator.device
    group = [tuple(part[:size].to(device) for part in batch)]
    return images_per_s(itertools.repeat(group), trainer.step, seconds, device)


def load_rate(
    trainer: "Trainer", size: int, count: int, use: Callable[[list[Batch], int], Any]
) -> float:
    """Images/s of batches of `size` from `count` loader processes, given to `use`."""
    device = trainer.accelerator.device
    batches = EpochBatches(len(trainer.rows), size, trainer.seed)
    loader = make_loader(trainer.loader.dataset, batches, count, device.type == "cuda")
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return images_per_s(grouped(endless, 1), use, SECONDS, device, warm=1 + count)


def forward_rate(
    trainer: "Trainer", batch: int, tta: str = "none", sizes: Iterable[int] = ()
) -> float:
    """Images/s of inference, loader included: as many images as take about a second."""
    runtime = trainer.settings.runtime.model_copy(update={"predict_batch": batch})
    given, images, seconds = (trainer.preprocessing, tta, trainer.accelerator, runtime), 2, 0.0
    while seconds < SECONDS / 2:
        images, started = 4 * images, time.monotonic()
        rows = np.resize(trainer.rows, images)
        predict_probabilities(trainer.model, trainer.pixels, rows, *given, "bench", sizes)
        seconds = time.monotonic() - started
    return images / seconds
