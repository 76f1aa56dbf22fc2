"""A model's look at many pictures, shared among processes of one GPU each.

Processes are started anew (spawn): a notebook has often touched CUDA already, and a forked child
of such a process cannot use it.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.base.cli import warn
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.data.images import FilePixels
from pipeline.kaggle.notebook.guard import RESERVE
from pipeline.kaggle.notebook.manifest import Member

Source = Path | FilePixels  # packed pixels or the files; an opened memory map would travel whole
Looks = list[tuple[int, slice]]  # px, and which of the views at that size
OVERTIME = RESERVE / 3  # seconds after the deadline that a process may still answer in


class Shards:
    """`predict` runs in `n` processes with a GPU each, or here where there is no GPU.

    One GPU has its process too: what kills that does not end the notebook, whose output counts.
    """

    def __init__(self, n: int, deadline: Deadline):
        self.n, self.deadline = n, deadline
        self.pools: list[ProcessPoolExecutor] = []
        self.others = multiprocessing.active_children()

    def predict(
        self, weights: Path, member: Member, source: Source, rows: np.ndarray, looks: Looks
    ) -> np.ndarray:
        """Sum of probabilities over `looks`, float32 [len(rows), classes], in that order.

        After any failure all processes are replaced, since a dead one answers no more and CUDA
        remembers some errors, and the work is done once more, where there is time for it.
        """
        work = (weights, member, source, rows, looks)
        if not self.n:
            return sum_of_looks(*work)
        started = self.deadline.clock()
        try:
            return self._share(*work)
        except Exception as error:
            self.close()
            if not self.deadline.fits(self.deadline.clock() - started):
                raise
            warn("kernel", f"GPU processes are replaced, {member.file} again: {told(error)}")
        try:
            return self._share(*work)
        except Exception:
            self.close()
            raise

    def _share(
        self, weights: Path, member: Member, source: Source, rows: np.ndarray, looks: Looks
    ) -> np.ndarray:
        """Every n-th row to each process; one that is silent past the deadline is given up."""
        n = self.n
        self.pools = self.pools or [new_pool(i) for i in range(n)]
        tasks = [
            pool.submit(sum_of_looks, weights, member, source, rows[i::n], looks)
            for i, pool in enumerate(self.pools)
            if len(rows) > i
        ]
        parts = [task.result(max(0.0, self.deadline.left()) + OVERTIME) for task in tasks]
        total = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
        for i, part in enumerate(parts):
            total[i::n] = part
        return total

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for child in multiprocessing.active_children():
            if child not in self.others:
                child.kill()
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)
        self.pools = []


def new_pool(gpu: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=use_gpu, initargs=(gpu,))


def told(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def all_looks(member: Member) -> list[tuple[int, int]]:
    """Each way the member looks at a picture: size in px, number of the view."""
    from pipeline.inference.tta import views  # late: torch

    return [(size, i) for size in member.sizes for i in range(len(views(member.tta, size)))]


def together(looks: list[tuple[int, int]]) -> Looks:
    """Looks one after another, those at one size in one pass."""
    at_size: dict[int, list[int]] = {}
    for size, view in looks:
        at_size.setdefault(size, []).append(view)
    return [(size, slice(seen[0], seen[-1] + 1)) for size, seen in at_size.items()]


def use_gpu(number: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = str(number)


def count_gpus() -> int:
    import torch  # late: importing this module must stay cheap in a new process

    return torch.cuda.device_count()


def sum_of_looks(
    weights: Path, member: Member, source: Source, rows: np.ndarray, looks: Looks
) -> np.ndarray:
    """As `Shards.predict`, in this process."""
    from pipeline.base.device import make_accelerator  # late: torch
    from pipeline.inference.predictor import predict_probabilities
    from pipeline.model.build import load_model

    pixels = np.load(source, mmap_mode="r") if isinstance(source, Path) else source
    model, record = load_model(weights)

    def look(runtime: Runtime) -> np.ndarray:
        accelerator = make_accelerator(runtime)
        total = 0
        for size, some in looks:
            mean = predict_probabilities(
                model.to(accelerator.device),
                pixels,
                rows,
                record["preprocessing"],
                member.tta,
                accelerator,
                runtime,
                f"{member.run} fold {member.fold}",
                [size],
                some,
            )
            total = total + mean * (some.stop - some.start)
        return total

    return with_room(look)


def with_room(look: Callable[[Runtime], np.ndarray]) -> np.ndarray:
    """`look`, in ever smaller batches while the GPU's memory does not hold them."""
    from torch import OutOfMemoryError

    runtime = Runtime()
    while True:
        try:
            return look(runtime)
        except OutOfMemoryError:
            if runtime.predict_batch == 1:
                raise
            runtime = runtime.model_copy(update={"predict_batch": runtime.predict_batch // 2})
