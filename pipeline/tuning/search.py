"""What `bench` measured for a backbone on this machine, and training and inference go by.

All images/s are those of the real Trainer, loader and inference.
"""

import gc
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pipeline.base.config import Experiment, Runtime
from pipeline.base.device import workers
from pipeline.base.libc import cores
from pipeline.data.loader import Batch, EpochBatches, grouped, load_batches
from pipeline.data.on_device import DeviceLoader
from pipeline.inference.predictor import Predictor
from pipeline.inference.tta import VIEWS
from pipeline.training.graph import is_on_gpu
from pipeline.tuning.machine import synchronize

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

LIMIT = 40.0  # seconds after which no further choice is measured
SECONDS = 2.0  # of one measurement
FASTER = 1.05  # a smaller gain is noise, and no reason to leave the default
FIRST_IMAGES = 8  # of the step that tells how long a measurement will take
LARGEST_BATCH = 1024  # images, of inference
COMPILES = 600.0  # seconds of a fold's training from which on a minute of compiling may pay


class Choices:
    """What was measured and what was fastest; what the experiment's `runtime` says is not chosen.

    `tried` holds name, value and images/s, None where no time was left.
    """

    def __init__(self, runtime: Runtime):
        self.runtime, self.end = runtime, time.monotonic() + LIMIT
        self.chosen: dict[str, Any] = {}
        self.tried: list[tuple[str, Any, float | None]] = []

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
        for value in () if name in self.runtime.model_fields_set else others:
            if time.monotonic() > self.end:
                self.tried.append((name, value, None))
                break
            rate = measure(value)
            self.tried.append((name, value, rate))
            # measured anew, as a machine's speed drifts: only what is faster both times is
            if rate > FASTER * best and rate > FASTER * measure(self.chosen[name]):
                best, self.chosen[name] = rate, value
        return best


class Measured(NamedTuple):
    trainer: "Trainer"  # with all that was chosen
    choices: Choices
    rates: dict[str, float]  # images/s, see `search`
    ready: float  # time.monotonic() when the first Trainer stood


def search(settings: Experiment, build: Callable[[Runtime], "Trainer"]) -> Measured:
    """Choose precision, memory format, compiling, workers and batch, one after another.

    The rates are those of the training step and of the loader alone, of both, and of inference
    without and with the experiment's TTA.
    """
    choices = Choices(settings.runtime)

    def made(**changes: Any) -> "Trainer":
        gc.collect()  # a Trainer and its Graph refer to each other: the last one holds its memory
        torch.cuda.empty_cache()
        return build(settings.runtime.model_copy(update=changes))

    trainer, ready = made(), time.monotonic()
    batch = next(iter(trainer.loader))
    first, size = step_rate(trainer, batch, FIRST_IMAGES, 0), len(batch[0])
    if not is_on_gpu(trainer):  # a step of a second says as much as a longer one
        size = max(FIRST_IMAGES, min(size, int(first)))

    def measure(trainer: "Trainer") -> float:
        if not is_on_gpu(trainer):
            rate = step_rate(trainer, batch, FIRST_IMAGES, 0)
            if rate < first / 2:  # a precision without units of its own takes ten times as long
                return rate
        return step_rate(trainer, batch, size, SECONDS)

    rates = {"model": measure(trainer)}
    every = step_choices(trainer, rates["model"])
    del trainer  # its memory is for those that follow
    for name, (default, *others) in every.items():

        def changed(value: Any, name: str = name) -> float:
            return measure(made(**{**choices.chosen, name: value}))

        rates["model"] = choices.choose(name, default, others, changed, rates["model"])
    trainer = made(**choices.chosen)
    rates["both"] = choose_workers(choices, trainer, size)
    rates["loader"] = load_rate(trainer, size, choices.chosen["workers"], lambda group, n: None)
    rates["forward"] = choose_batch(choices, trainer)
    tta = settings.predict.tta, settings.predict.sizes or ()
    rates["tta"] = forward_rate(trainer, choices.chosen["predict_batch"], *tta)
    return Measured(trainer, choices, rates, ready)


def step_choices(trainer: "Trainer", rate: float) -> dict[str, list[Any]]:
    """Values that change the training step, the default first; `rate` in images/s."""
    runtime, train = trainer.settings.runtime, trainer.settings.train
    precision, on_gpu = trainer.accelerator.mixed_precision, is_on_gpu(trainer)
    precisions = [precision, "no", "bf16", *(["fp16"] if on_gpu else [])]
    found = {
        "precision": list(dict.fromkeys(precisions)),
        "channels_last": [runtime.channels_last, not runtime.channels_last],
    }
    if on_gpu:
        found["graph"] = [runtime.graph, not runtime.graph]
    if on_gpu and trainer.steps * train.batch_size * train.accumulate / rate > COMPILES:
        found["compile"] = [runtime.compile, not runtime.compile]
    return found


def choose_workers(choices: Choices, trainer: "Trainer", size: int) -> float:
    default = workers(trainer.settings.runtime, is_on_gpu(trainer))
    others = [n for n in (0, 1, 2, 4, 8) if n <= cores() and n != default]
    if isinstance(trainer.loader, DeviceLoader):  # which takes few
        others = []
    return choices.choose(
        "workers", default, others, lambda n: load_rate(trainer, size, n, trainer.step)
    )


def choose_batch(choices: Choices, trainer: "Trainer") -> float:
    """Doubled while it is done in less than a measurement; on a CPU larger ones are slower."""
    default, rates = choices.runtime.predict_batch, []

    def measure(batch: int) -> float:
        try:
            rates.append(forward_rate(trainer, batch))
        except torch.OutOfMemoryError:  # training's own tensors are there too: predict has more
            if batch == default:
                raise
            rates.append(0.0)
        return rates[-1]

    def doubled(batch: int) -> Iterator[int]:
        while (batch := 2 * batch) <= min(LARGEST_BATCH, SECONDS * rates[-1]):
            yield batch

    others = doubled(default) if is_on_gpu(trainer) else ()
    return choices.choose("predict_batch", default, others, measure)


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
            synchronize(device)
            started = time.monotonic()
    synchronize(device)
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
    runtime = trainer.settings.runtime.model_copy(update={"workers": count})
    loader = load_batches(trainer.loader.dataset, batches, runtime, device)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return images_per_s(grouped(endless, 1), use, SECONDS, device, warm=1 + count)


def forward_rate(
    trainer: "Trainer", batch: int, tta: str = "none", sizes: Iterable[int] = ()
) -> float:
    """Images/s of inference, loader included: as many images as take about a second."""
    runtime = trainer.settings.runtime.model_copy(update={"predict_batch": batch})
    predictor = Predictor(trainer.model, trainer.preprocessing, trainer.accelerator, runtime)
    images, seconds = 2, 0.0
    while seconds < SECONDS / 2:
        images, started = 4 * images, time.monotonic()
        rows = np.resize(trainer.rows, images)
        predictor.probabilities(trainer.pixels, rows, VIEWS[tta], list(sizes), "bench")
        seconds = time.monotonic() - started
    return images / seconds
