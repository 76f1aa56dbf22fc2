"""A batch in as many parts as a GPU has memory for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.base import records
from pipeline.base.cli import say, warn
from pipeline.base.config import Experiment
from pipeline.base.device import lacks_memory, machine_folder
from pipeline.model.freeze import fewest_images, training_norms
from pipeline.training import distributed


class Parts:
    """How many parts of a batch go through the network one after another: `n`, at first one.

    What was found is kept for this machine: the next fold does not run out of memory again.
    """

    def __init__(self, settings: Experiment) -> None:
        runtime = settings.runtime
        what = [settings.model.model_dump(), settings.train.batch_size, runtime.precision]
        kept = machine_folder(runtime) / f"parts-{records.digest(what)}.json"
        self.n = int(records.read_json(kept)["parts"]) if kept.exists() else 1
        if self.n > 1:
            say("train", f"a step takes its pictures in {self.n} parts, as {kept} says")
        self.kept: Path | None = kept  # None: what is found is for this process alone
        self.least = 1  # images of a part
        # BatchNorm's statistics, by a try that fails too, and the numbers of their batches
        self.moved: list[list[torch.Tensor]] = []
        self.before: list[list[torch.Tensor]] = []

    def begin_epoch(self, model: nn.Module) -> None:
        """Find what steps of a model move and need, in the mode in which it is."""
        self.n = distributed.broadcast_from_main(self.n)  # ranks' machines may differ
        self.least = fewest_images(model)
        every = [buffer for norm in training_norms(model) for buffer in norm.buffers()]
        # a list a dtype: a GPU that trains on small pictures waits for each call, and of mixed
        # ones PyTorch makes a call a tensor
        kinds = {buffer.dtype for buffer in every}
        self.moved = [[one for one in every if one.dtype == kind] for kind in kinds]
        self.before = [[torch.empty_like(one) for one in some] for some in self.moved]

    def of(self, images: int) -> int:
        """Parts of a batch of which each rank has so many images, or one more.

        As many on all ranks, which wait for each other's gradients of each.
        """
        return max(1, min(self.n, images // self.least))

    def until_it_fits(self, work: Callable[[], Any], images: int, label: str) -> Any:
        """`work()`, anew with twice the parts, while memory is too short.

        To the same gradients, unless BatchNorm trains: it normalises each part by itself. `images`
        are those of the largest batch. Ranks of a group would wait for each other: there torch's
        error ends it, as for parts that can be no smaller.
        """
        drawn, known = np.random.get_state(), self.n
        for before, moved in zip(self.before, self.moved, strict=True):
            torch._foreach_copy_(before, moved)
        while True:
            try:
                done = work()
                break
            except RuntimeError as error:
                smallest = self.n >= images // self.least
                if not lacks_memory(error) or smallest or int(os.environ.get("WORLD_SIZE", 1)) > 1:
                    raise
            at_once = -(-images // self.n)
            self.n *= 2
            text = f"no memory for {at_once} pictures at once: a step takes them in smaller parts"
            each = "each normalised by itself (model.batchnorm: train)"
            warn("train", f"{label}: {text}, {each if self.moved else 'to the same gradients'}")
            for before, moved in zip(self.before, self.moved, strict=True):
                torch._foreach_copy_(moved, before)
            torch.cuda.empty_cache()
            np.random.set_state(drawn)  # the same mixing
        if self.kept and self.n > known:  # not where no number of parts helped
            records.write_json(self.kept, {"parts": self.n})
        return done
