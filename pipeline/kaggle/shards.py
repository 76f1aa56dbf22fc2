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

from pipeline.kaggle.manifest import Member
from pipeline.parts.config import Runtime
from pipeline.parts.images import FilePixels

Source = Path | FilePixels  # packed pixels or the files; an opened memory map would travel whole
Looks = list[tuple[int, slice]]  # px, and which of the views at that size


class Shards:
    """`predict` runs in `n` processes with a GPU each, or here where `n` is at most 1."""

    def __init__(self, n: int):
        context = multiprocessing.get_context("spawn")
        self.pools = [
            ProcessPoolExecutor(1, mp_context=context, initializer=use_gpu, initargs=(i,))
            for i in range(n if n > 1 else 0)
        ]

    def predict(
        self, weights: Path, member: Member, source: Source, rows: np.ndarray, looks: Looks
    ):
        """Sum of probabilities over `looks`, float32 [len(rows), classes], in that order."""
        n = len(self.pools)
        if not n:
            return sum_of_looks(weights, member, source, rows, looks)
        tasks = [
            pool.submit(sum_of_looks, weights, member, source, rows[i::n], looks)
            for i, pool in enumerate(self.pools)
            if len(rows) > i
        ]
        parts = [task.result() for task in tasks]
        total = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
        for i, part in enumerate(parts):
            total[i::n] = part
        return total

    def close(self) -> None:
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)


def all_looks(member: Member) -> list[tuple[int, int]]:
    """Each way the member looks at a picture: size in px, number of the view."""
    from pipeline.parts.tta import views  # late: torch

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
    from pipeline.parts.infer import make_accelerator, predict_probabilities  # late: torch
    from pipeline.parts.model import load_model

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
