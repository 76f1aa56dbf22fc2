"""A model's answers to its share of the pictures, in a process of its own on a GPU.

What kills the process, breaks its CUDA or lets it hang harms neither notebook nor other models.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.base import records
from pipeline.base.cli import Exit, guarded
from pipeline.base.config import Runtime
from pipeline.base.settings import Settings
from pipeline.data.images import FilePixels
from pipeline.inference.blending import Blend
from pipeline.kaggle.notebook.manifest import BundledModel
from pipeline.launchers.pool import Process, Slot

PROJECT = Path(__file__).parents[3]  # holds this package
Source = Path | FilePixels  # packed pixels, or the files
Job = tuple[int, int]  # number of a model, and of its share: every n-th picture


class Work(Settings):
    """What there is to do, for all processes; it lies in `scratch`, beside their answers."""

    scratch: Path
    weights: Path  # folder of the models' files
    sources: dict[str, Source]  # by a model's `form`
    rows: list[int]  # of a source: the pictures to answer
    models: list[BundledModel]
    classes: list[str]  # the columns of answers; a model may have been trained on another order
    shares: int
    ends: float  # time.time() at which a process is given up, whatever it is doing
    blend: Blend = Blend()  # of runs

    def start(self, job: Job, slot: Slot) -> Process:
        if not (told := self.scratch / "work.json").exists():
            told.write_text(self.model_dump_json(), encoding="utf-8")
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        command = ["-m", "pipeline.kaggle.notebook.answer", str(told), *map(str, job)]
        return Process(command, {**slot, "PYTHONPATH": path})

    def answer(self, job: Job) -> None:
        """Write the mean probability over the views, float32 [rows of the share, classes]."""
        prob = self.probabilities(self.models[job[0]], np.array(self.rows[job[1] :: self.shares]))
        with records.writing(self.out(job)) as tmp, tmp.open("wb") as file:
            np.save(file, prob)

    def probabilities(self, model: BundledModel, rows: np.ndarray) -> np.ndarray:
        from pipeline.inference.predictor import Predictor  # late: torch
        from pipeline.inference.tta import VIEWS

        source, how = self.sources[model.form], model.predict
        pixels = np.load(source, mmap_mode="r") if isinstance(source, Path) else source
        predictor = Predictor.load(self.weights / model.file, Runtime())
        prob = predictor.probabilities(pixels, rows, VIEWS[how.tta], how.sizes or (), model.name)
        own = records.load(self.weights / model.file)["classes"]
        return prob[:, [own.index(name) for name in self.classes]]

    def out(self, job: Job) -> Path:
        return self.scratch / "{}-{}.npy".format(*job)

    def answers(self, number: int) -> np.ndarray | None:
        """Those of a model's shares, in the order of `rows`; None where one lacks or is no number.

        A share that died twice has left no file.
        """
        files = [self.out((number, share)) for share in range(self.shares)]
        if not all(file.exists() for file in files):
            return None
        prob = np.concatenate([np.load(file) for file in files])
        there = [i for share in range(self.shares) for i in range(share, len(prob), self.shares)]
        return prob[np.argsort(there)] if np.isfinite(prob).all() else None


def main(told: str, number: str, share: str) -> None:
    work = Work.model_validate_json(Path(told).read_text(encoding="utf-8"))
    if (left := work.ends - time.time()) <= 0:
        sys.exit(Exit.PAUSED)
    signal.setitimer(signal.ITIMER_REAL, left)  # ends it, also within CUDA: nothing handles it
    work.answer((int(number), int(share)))


if __name__ == "__main__":
    guarded(main)(*sys.argv[1:])
