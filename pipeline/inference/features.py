"""What an untrained backbone says of pictures: computed once, kept for all folds and runs.

Every fold starts from the same first weights, so one pass over the training pictures serves all
of their heads; a run of `epochs: 0` is predicted from such passes alone.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from pipeline.base import records
from pipeline.base.cli import say_once
from pipeline.base.config import Experiment
from pipeline.base.locks import locked
from pipeline.data.prepared import load_prepared
from pipeline.inference.predictor import Predictor
from pipeline.inference.tta import View, allowed, view_name
from pipeline.model.build import apart, head_inputs, head_logits
from pipeline.model.taps import classifier

Part = list[torch.Tensor]  # of each view float32 [some rows, width], on the CPU
VERSION = 1
MAX_IMAGES = 20_000  # of a split; features of more are neither kept nor held in memory
CHUNK = 1024  # pictures of which a head is asked at once: a kernel's Gaussians are many
KEPT_GB = 8.0  # of a competition's pictures at a size; those not used for longest go


class FrozenFeatures:
    """What the head of an untrained model is given, of pictures of an experiment.

    All pictures of a split are computed, in their order, whichever rows are asked for: batches
    that depended on the fold would change the last bits. One file a view lies beside the pixels,
    named by a digest of the backbone's weights and of all else that it depends on.
    Of a backbone that is the fold's own nothing is kept.
    """

    def __init__(self, predictor: Predictor, settings: Experiment):
        self.predictor, self.model, self.settings = predictor, predictor.model, settings
        self.prepared, self.size = load_prepared(settings), predictor.preprocessing["size"]

    def of(self, split: str, rows: np.ndarray, views: list[View]) -> torch.Tensor:
        """float32 [len(rows), views, width], for rows of the packed pixels."""
        return together(self.parts(split, rows, views), len(rows))

    def compute(self, rows: np.ndarray, views: list[View]) -> torch.Tensor:
        """As `of`, without a look at what is kept."""
        return together(self.computed(rows, views), len(rows))

    def parts(self, split: str, rows: np.ndarray, views: list[View]) -> Iterator[Part]:
        """What `of` gives, some rows after another."""
        every = np.flatnonzero(self.prepared.rows.split == split)
        if len(every) > MAX_IMAGES:
            text = f"features of {len(every):,} {split} pictures are not kept, as they are over"
            say_once("features", f"{text} {MAX_IMAGES:,}: they are made anew each time")
        if len(every) > MAX_IMAGES or moves_batchnorm(self.settings):
            yield from self.computed(rows, views)
            return
        kept, at = self.kept(split, every, views), np.searchsorted(every, rows)
        for some in np.array_split(at, range(CHUNK, len(at), CHUNK)):
            yield [torch.from_numpy(values[some]) for values in kept]

    def computed(self, rows: np.ndarray, views: list[View]) -> Iterator[Part]:
        """The same by one pass over the pictures, a batch after another."""
        given = partial(head_inputs, self.model)
        for images in self.predictor.batches(self.prepared.pixels, rows, self.size, "features"):
            with torch.inference_mode():
                part = self.predictor.over_views(given, images, views)
            yield [values.cpu() for values in part]

    def kept(self, split: str, every: np.ndarray, views: list[View]) -> list[np.ndarray]:
        """Of each view the file of a split's pictures, float32 [len(every), width]."""
        key = {
            "version": VERSION,
            "backbone": backbone_digest(self.model),
            "taps": list(getattr(self.model, "taps", [])),  # what a BlockHead reads
            "preprocessing": self.predictor.preprocessing,
            # in their order, which the record's digest of a split leaves out
            "pixels": records.digest(self.prepared.rows.hash[every].tolist()),
            "precision": self.predictor.precision,
            "device": self.predictor.device.type,
        }
        folder = self.prepared.folder / "features"
        files = [folder / f"{records.digest(key)}-{split}-{view_name(v)}.npy" for v in views]
        with locked(folder):  # folds side by side all want them
            made = zip(files, views, strict=True)
            if missing := [pair for pair in made if not records.is_current(pair[0], key)]:
                self.keep(every, missing, key)
            kept = [np.load(file, mmap_mode="r") for file in files]
            remove_oldest(folder, files)
        return kept

    def keep(self, rows: np.ndarray, wanted: list[tuple[Path, View]], key: dict[str, Any]) -> None:
        """Compute views of rows of the packed pixels, each into its file.

        Eight views of the most pictures may be 5 GB: no more than a batch is held.
        """
        started = time.monotonic()
        with ExitStack() as stack:
            paths = [stack.enter_context(records.writing(path)) for path, _ in wanted]
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for part in self.computed(rows, [view for _, view in wanted]):
                for file, values in zip(files, part, strict=True):
                    if not file.tell():  # as np.save begins
                        shape = len(rows), values.shape[1]
                        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(values.numpy().tobytes())
        for path, _ in wanted:
            records.commit(path, key, started)

    def probabilities(self, split: str, rows: np.ndarray, views: list[View]) -> np.ndarray:
        """As `Predictor.probabilities`, of a model whose head alone is new."""
        found = []
        with torch.inference_mode():
            for part in self.parts(split, rows, allowed(views, self.size)):
                seen = [head_logits(self.model, one.to(self.predictor.device)) for one in part]
                answers = torch.stack([self.predictor.answer(one) for one in seen])
                found.append(answers.mean(0).cpu())
        return torch.cat(found).numpy()


def together(parts: Iterable[Part], n: int) -> torch.Tensor:
    """float32 [n, views, width] of parts of n rows; no tensor of inference alone."""
    found, done = None, 0
    for part in parts:
        if found is None:  # only now the width is known
            found = np.empty((n, len(part), part[0].shape[1]), np.float32)
        for i, values in enumerate(part):  # stacked, they would all be there twice
            found[done : done + len(values), i] = values
        done += len(part[0])
    return torch.from_numpy(found)


def remove_oldest(folder: Path, used: list[Path]) -> None:
    """Until all but those in use fit into KEPT_GB; the time of its record tells a file's use."""
    for file in used:
        records.record_path(file).touch()
    for left in folder.glob(".*.npy.*.tmp"):  # by a writer that was killed: the folder is locked
        left.unlink(missing_ok=True)
    others = [file for file in folder.glob("*.npy") if file not in used]
    room = KEPT_GB * 1e9 - sum(file.stat().st_size for file in used)
    for file in sorted(others, key=last_use, reverse=True):
        if (room := room - file.stat().st_size) < 0:
            records.record_path(file).unlink(missing_ok=True)
            file.unlink()


def last_use(file: Path) -> float:
    """Seconds; a file that has no record, of a writer that was killed, comes first."""
    record = records.record_path(file)
    return record.stat().st_mtime if record.exists() else 0.0


def moves_batchnorm(settings: Experiment) -> bool:
    """Whether the head's start must see the fold's own statistics, which training will move."""
    return settings.model.batchnorm == "train" and settings.train.epochs > 0


def backbone_digest(model: nn.Module) -> str:
    """Digest of every tensor but the head's and what a head's start sets."""
    head = {tensor.data_ptr() for tensor in classifier(model).parameters()}
    state = {
        name: value
        for name, value in model.state_dict().items()
        if value.data_ptr() not in head
        and not name.startswith("kernel.")
        and name not in ("mean", "scale")  # a BlockHead's
    }
    return hashlib.blake2b(save(apart(state)), digest_size=8).hexdigest()
