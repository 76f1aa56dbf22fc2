"""A batch in as many parts as a GPU has memory for."""

import os
from collections.abc import Callable

import numpy as np
import torch

from pipeline.base import records
from pipeline.base.cli import say, warn
from pipeline.base.config import Experiment
from pipeline.base.device import machine_folder


class Parts:
    """How many parts of a batch go through the network one after another: `n`, at first one.

    What was found is kept for this machine: the next fold does not run out of memory again.
    """

    def __init__(self, settings: Experiment) -> None:
        runtime = settings.runtime
        what = [settings.model.model_dump(), settings.train.batch_size, runtime.precision]
        self.kept = machine_folder(runtime) / f"parts-{records.digest(what)}.json"
        self.n = int(records.read_json(self.kept)["parts"]) if self.kept.exists() else 1
        if self.n > 1:
            say("train", f"a step takes its pictures in {self.n} parts, as {self.kept} says")

    def until_it_fits(
        self, work: Callable[[], torch.Tensor], images: int, label: str
    ) -> torch.Tensor:
        """`work()`, anew with twice the parts, to the same gradients, while memory is too short.

        `images` are those of the largest batch. Ranks of a group would wait for each other: there
        torch's error ends it, as for a single picture.
        """
        drawn = np.random.get_state()
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                at_once = -(-images // self.n)
                if at_once < 2 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
                    raise
            self.n *= 2
            records.write_json(self.kept, {"parts": self.n})
            text = f"no memory for {at_once} pictures at once: a step takes them in smaller parts"
            warn("train", f"{label}: {text}, to the same gradients")
            torch.cuda.empty_cache()
            np.random.set_state(drawn)  # the same mixing
