"""One model's probabilities of many pictures, computed by a process for each GPU.

Processes are started anew (spawn): a notebook has often touched CUDA already, and a forked child
of such a process cannot use it.
"""

import multiprocessing
import os
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.base.cli import short, warn
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.data.images import FilePixels
from pipeline.kaggle.notebook.guard import RESERVE
from pipeline.kaggle.notebook.manifest import BundledModel

Source = Path | FilePixels  # packed pixels or the files; an opened memory map would travel whole
OVERTIME = RESERVE / 3  # seconds after the deadline that a process may still answer in


class GpuWorkers:
    """`n` processes; without a GPU one, too: what kills that does not end the notebook."""

    def __init__(self, n: int, deadline: Deadline):
        self.n, self.deadline = n, deadline
        self.pools: list[Executor] = []
        self.others = multiprocessing.active_children()

    def predict(
        self, weights: Path, model: BundledModel, source: Source, rows: np.ndarray
    ) -> np.ndarray:
        """Mean probability over the model's views, float32 [len(rows), classes], in that order.

        After any failure all processes are replaced, since a dead one answers no more and CUDA
        remembers some errors, and the work is done once more, where there is time for it.
        """
        started = self.deadline.clock()
        try:
            return self._predict(weights, model, source, rows)
        except Exception as error:
            if not self.deadline.fits(self.deadline.clock() - started):
                raise
            why = f"{type(error).__name__}: {short(error)}"
            warn("notebook", f"GPU workers are replaced, {model.file} again: {why}")
        return self._predict(weights, model, source, rows)

    def _predict(
        self, weights: Path, model: BundledModel, source: Source, rows: np.ndarray
    ) -> np.ndarray:
        """Every n-th row to each process; one that is silent past the deadline is given up."""
        n = min(self.n, len(rows))
        self.pools = self.pools or [new_worker(gpu) for gpu in range(self.n)]
        prob: list[np.ndarray | None] = [None] * len(rows)
        try:
            tasks = [
                pool.submit(run_views, weights, model, source, rows[i::n])
                for i, pool in enumerate(self.pools[:n])
            ]
            for i, task in enumerate(tasks):
                prob[i::n] = task.result(max(0.0, self.deadline.left()) + OVERTIME)
        except Exception:
            self.close()
            raise
        return np.stack(prob)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for child in multiprocessing.active_children():
            if child not in self.others:
                child.kill()
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)
        self.pools = []


def new_worker(gpu: int) -> Executor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=use_gpu, initargs=(gpu,))


def use_gpu(number: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = str(number)


def count_gpus() -> int:
    import torch  # late: importing this module must stay cheap in a new process

    return torch.cuda.device_count()


def run_views(weights: Path, model: BundledModel, source: Source, rows: np.ndarray) -> np.ndarray:
    """As `GpuWorkers.predict`, in this process; in smaller batches where the memory is short."""
    from accelerate.utils import find_executable_batch_size  # late: torch

    from pipeline.inference.predictor import Predictor
    from pipeline.inference.tta import VIEWS

    pixels = np.load(source, mmap_mode="r") if isinstance(source, Path) else source

    @find_executable_batch_size(starting_batch_size=Runtime().predict_batch)
    def predict(batch_size: int) -> np.ndarray:
        predictor = Predictor.load(weights, Runtime(predict_batch=batch_size))
        views, sizes = VIEWS[model.predict.tta], model.predict.sizes or ()
        return predictor.probabilities(pixels, rows, views, sizes, model.name)

    return predict()
