"""What an untrained backbone says of pictures: computed once, kept for all folds and runs.

Every fold starts from the same first weights, so one pass over the training pictures serves all
of their heads; a run of `epochs: 0` is predicted from such passes alone.
"""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from pipeline.base import records
from pipeline.base.config import Experiment
from pipeline.base.locks import locked
from pipeline.data.prepared import load_prepared
from pipeline.inference.predictor import Predictor
from pipeline.inference.tta import View, allowed, view_name
from pipeline.model.build import apart, head_inputs, head_logits
from pipeline.model.taps import classifier

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
        every = np.flatnonzero(self.prepared.rows.split == split)
        if len(every) > MAX_IMAGES or moves_batchnorm(self.settings):
            return self.compute(rows, views)
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
        at = np.searchsorted(every, rows)
        found = np.empty((len(rows), len(views), kept[0].shape[1]), np.float32)
        for i, values in enumerate(kept):  # stacked, they would all be there twice
            found[:, i] = values[at]
        return torch.from_numpy(found)

    def keep(self, rows: np.ndarray, wanted: list[tuple[Path, View]], key: dict[str, Any]) -> None:
        """Compute views of rows of the packed pixels, and write each to its file."""
        started = time.monotonic()
        made = self.compute(rows, [view for _, view in wanted]).numpy()
        for i, (path, _) in enumerate(wanted):
            with records.writing(path) as tmp, tmp.open("wb") as file:
                np.save(file, made[:, i])
            records.commit(path, key, started)

    def compute(self, rows: np.ndarray, views: list[View]) -> torch.Tensor:
        """float32 [len(rows), views, width], in one pass over the pictures."""
        found, done = None, 0
        with torch.inference_mode():
            for images in self.predictor.batches(self.prepared.pixels, rows, self.size, "features"):
                given = self.predictor.over_views(partial(head_inputs, self.model), images, views)
                if found is None:  # only now the width is known
                    found = np.empty((len(rows), len(views), given[0].shape[1]), np.float32)
                for i, values in enumerate(given):
                    found[done : done + len(images), i] = values.cpu().numpy()
                done += len(images)
        return torch.from_numpy(found)

    def probabilities(self, split: str, rows: np.ndarray, views: list[View]) -> np.ndarray:
        """As `Predictor.probabilities`, of a model whose head alone is new."""
        views, found = allowed(views, self.size), []
        with torch.inference_mode():
            for some in self.of(split, rows, views).split(CHUNK):
                seen = some.to(self.predictor.device).unbind(1)
                answers = [self.predictor.answer(head_logits(self.model, one)) for one in seen]
                found.append(torch.stack(answers).mean(0).cpu())
        return torch.cat(found).numpy()


def remove_oldest(folder: Path, used: list[Path]) -> None:
    """Until all but those in use fit into KEPT_GB; the time of its record tells a file's use."""
    for file in used:
        records.record_path(file).touch()
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
