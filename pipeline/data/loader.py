"""Batches of uint8 pictures whose randomness does not depend on the number of workers.

The sampler hands whole batches to workers, each with its own seed from (seed, fold, epoch, batch
number): 0, 1 or 8 workers give equal batches, and a resumed epoch equals an uninterrupted one.
"""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.base.cli import warn_once
from pipeline.base.config import Runtime
from pipeline.base.device import workers as loader_processes
from pipeline.data.images import Pixels
from pipeline.data.on_device import DeviceLoader, Plans, resident
from pipeline.data.resize import Resize
from pipeline.data.sampler import batches_of

if TYPE_CHECKING:
    from pipeline.data.augment import Augment

Batch = tuple[torch.Tensor, torch.Tensor]
PATIENCE = 300  # seconds for a batch, after which its worker is taken for dead
AHEAD = 2  # batches that a worker of PyTorch makes before they are asked for
DRAWERS = 2  # processes that draw what a GPU does to pictures: 13,000 to 60,000 a second each
SHARED = Path("/dev/shm")


class BatchSpec(NamedTuple):
    seed: int
    rows: list[int]  # positions in the dataset, not in the pixels


def derive_seed(*parts: int | str) -> int:
    """A 32-bit seed from names and numbers; unlike sums, (1, 2) and (2, 1) differ."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())


class Pictures(Dataset):
    """Indexed by a BatchSpec: (uint8 [batch, h, w, 3], targets of [batch]).

    `targets` is int [n], or float32 [n, classes] whose rows sum to 1.
    """

    def __init__(
        self,
        pixels: Pixels,
        rows: np.ndarray,
        targets: np.ndarray,
        transform: "Augment | Resize",
    ):
        self.pixels, self.rows, self.transform = pixels, rows, transform
        dtype = np.int64 if targets.ndim == 1 else np.float32
        self.targets = torch.from_numpy(np.array(targets, dtype=dtype))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, spec: BatchSpec) -> Batch:
        if self.transform.is_random:
            self.transform.seed(spec.seed)  # once a batch: per image it costs 0.2 ms
        images = np.stack([self.transform(self.pixels[self.rows[i]]) for i in spec.rows])
        return torch.from_numpy(images), self.targets[spec.rows]


class EpochBatches:
    """Shuffled batches of the current `epoch`, all within one image of equal size.

    Every image is used once an epoch, or what `draw` (epoch → n rows) says. No tiny last batch
    upsets BatchNorm, and none of one image, as long as there are two.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, draw: Callable[[int], np.ndarray] | None = None
    ):
        self.n, self.seed, self.epoch, self.draw = n, seed, 0, draw
        self.count = batches_of(n, batch_size)

    def __len__(self) -> int:
        return self.count

    @property
    def sizes(self) -> list[int]:
        """Images of each batch."""
        return [len(part) for part in np.array_split(np.arange(self.n), self.count)]

    def __iter__(self) -> Iterator[BatchSpec]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        if self.draw:
            order = self.draw(self.epoch)[order]
        for number, rows in enumerate(np.array_split(order, self.count)):
            yield BatchSpec(derive_seed(self.seed, self.epoch, number), rows.tolist())


def in_order(n: int, batch_size: int) -> list[BatchSpec]:
    starts = range(0, n, batch_size)
    return [BatchSpec(0, list(range(at, min(at + batch_size, n)))) for at in starts]


def grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` batches; the last may be shorter."""
    rest = iter(batches)
    while group := list(itertools.islice(rest, size)):
        yield group


def load_batches(
    pictures: Pictures, batches: Iterable[BatchSpec], runtime: Runtime, device: torch.device
) -> DataLoader | DeviceLoader:
    """Batches in order: made on a GPU that has room for all pictures, else by loader processes.

    What is random there is drawn by some of these meanwhile: a GPU whose own process draws between
    its steps is idle then.
    """
    on_gpu, transform = device.type == "cuda", pictures.transform
    workers, batched = loader_processes(runtime, on_gpu), transform.batched()
    there = resident(pictures.pixels, device) if batched else None
    if there is None:
        return in_processes(pictures, batches, affordable(workers, pictures, batches), pin=on_gpu)
    drawers = min(workers, DRAWERS) if transform.is_random else 0
    plans = Plans(batched, there.shape[1])
    return DeviceLoader(pictures, there, in_processes(plans, batches, drawers, persistent=True))


def in_processes(
    dataset: Dataset,
    batches: Iterable[BatchSpec],
    workers: int,
    pin: bool = False,
    persistent: bool = False,
) -> DataLoader:
    """`dataset[batch]` for each of the batches, in order, from worker processes or from none.

    Persistent ones stay for the next pass: to fork a process that uses a GPU takes it 50 ms.
    """
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,  # an index is already a whole batch
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=persistent and workers > 0,
        timeout=PATIENCE if workers else 0,
        # its own generator: the worker seeds must not disturb the training's random numbers
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_one_thread if workers else None,
        # another start would pickle the packed pixels, all of a memory map's content
        multiprocessing_context="fork" if workers else None,
    )


def affordable(workers: int, pictures: Pictures, batches: Iterable[BatchSpec]) -> int:
    """How many workers' batches /dev/shm can hold: a worker that finds it full waits for ever."""
    if not (workers and SHARED.is_dir()):
        return workers
    first = next(iter(batches))  # none is larger
    one = sum(part.nbytes for part in pictures[BatchSpec(first.seed, first.rows[:1])])
    batch, free = one * len(first.rows), shutil.disk_usage(SHARED).free
    fit = max(0, (free // batch - 2) // AHEAD)  # two are in use
    if fit >= workers:
        return workers
    text = f"{SHARED} has no room for the batches of {workers} loader processes: {fit} will do"
    warn_once("train", f"{text}; docker run --shm-size=2g gives more")
    return fit


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
