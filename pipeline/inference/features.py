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
from accelerate import Accelerator
from safetensors.torch import save
from torch import nn

from pipeline.base import records
from pipeline.base.config import Experiment
from pipeline.base.locks import locked
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.inference.predictor import batches_in_order, inference_precision, over_views
from pipeline.inference.tta import View, view_name, views
from pipeline.model.build import classifier, head_inputs, head_logits

VERSION = 1
MOST = 20_000  # pictures of a split; features of more are neither kept nor held in memory


def frozen_features(
    model: nn.Module,
    settings: Experiment,
    preprocessing: dict[str, Any],
    split: str,
    rows: np.ndarray,
    looks: list[View],
    accelerator: Accelerator,
) -> torch.Tensor:
    """What the head is given, float32 [len(rows), views, width], for rows of the packed pixels.

    All pictures of the split are computed, in their order, whichever rows are asked for: batches
    that depended on the fold would change the last bits. One file a view lies beside the pixels,
    named by a digest of the backbone's weights and of all else that it depends on.
    Of a backbone that is the fold's own nothing is kept.
    """
    prepared = load_prepared(settings)
    every = np.flatnonzero(prepared.rows.split == split)
    if len(every) > MOST or moves_batchnorm(settings):
        found = compute(model, prepared, settings, preprocessing, rows, looks, accelerator)
        return torch.stack(found, 1)
    key = {
        "version": VERSION,
        "backbone": backbone_digest(model),
        "taps": list(getattr(model, "taps", [])),  # what a Pyramid reads
        "preprocessing": preprocessing,
        "pixels": prepared.record["digests"][split],
        "precision": inference_precision(accelerator),
        "device": accelerator.device.type,
    }
    files = {view_name(look): feature_file(prepared, key, split, look) for look in looks}
    with locked(prepared.folder / "features"):  # folds side by side all want them
        missing = [look for look in looks if not records.is_current(files[view_name(look)], key)]
        if missing:
            started = time.monotonic()
            found = compute(model, prepared, settings, preprocessing, every, missing, accelerator)
            for look, values in zip(missing, found, strict=True):
                save_features(files[view_name(look)], values, key, started)
    at = np.searchsorted(every, rows)
    kept = [np.load(files[view_name(look)], mmap_mode="r")[at] for look in looks]
    return torch.from_numpy(np.stack(kept, 1))


def moves_batchnorm(settings: Experiment) -> bool:
    """Whether the head's start must see the fold's own statistics, which training will move."""
    return settings.model.batchnorm == "train" and settings.train.epochs > 0


def compute(
    model: nn.Module,
    prepared: Prepared,
    settings: Experiment,
    preprocessing: dict[str, Any],
    rows: np.ndarray,
    looks: list[View],
    accelerator: Accelerator,
) -> list[torch.Tensor]:
    """Features [len(rows), width] for each view, in one pass over the pictures."""
    data = (prepared.pixels, rows, preprocessing["size"], preprocessing, accelerator)
    read, precision = partial(head_inputs, model), inference_precision(accelerator)
    found: list[list[torch.Tensor]] = [[] for _ in looks]
    model.eval()
    with torch.inference_mode():
        for images in batches_in_order(*data, settings.runtime, label="features"):
            given = over_views(read, images, looks, precision)
            for kept, one in zip(found, given, strict=True):
                kept.append(one.cpu())
    return [torch.cat(kept) for kept in found]


def probabilities_without_training(
    model: nn.Module,
    settings: Experiment,
    preprocessing: dict[str, Any],
    split: str,
    rows: np.ndarray,
    tta: str,
    accelerator: Accelerator,
) -> np.ndarray:
    """As `predict_probabilities`, of a model whose head alone is new: from the kept features."""
    looks = views(tta, preprocessing["size"])
    features = frozen_features(model, settings, preprocessing, split, rows, looks, accelerator)
    with torch.inference_mode():
        logits = [head_logits(model, one.to(accelerator.device)) for one in features.unbind(1)]
        return torch.stack([one.softmax(1) for one in logits]).mean(0).cpu().numpy()


def feature_file(prepared: Prepared, key: dict[str, Any], split: str, look: View) -> Path:
    name = f"{records.digest(key)}-{split}-{view_name(look)}.npy"
    return prepared.folder / "features" / name


def save_features(path: Path, values: torch.Tensor, key: dict[str, Any], started: float) -> None:
    with records.writing(path) as tmp, tmp.open("wb") as file:
        np.save(file, values.numpy())
    records.commit(path, key, started)


def backbone_digest(model: nn.Module) -> str:
    """Digest of every tensor but the head's and what a head's start sets."""
    head = {tensor.data_ptr() for tensor in classifier(model).parameters()}
    state = {
        name: value.contiguous().cpu()
        for name, value in model.state_dict().items()
        if value.data_ptr() not in head and name not in ("mean", "scale")  # a Pyramid's
    }
    return hashlib.blake2b(save(state), digest_size=8).hexdigest()
