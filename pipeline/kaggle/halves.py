"""Weights at half precision: half the bytes to upload and to load, and what that costs."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pipeline.kaggle.manifest import Manifest, Member
from pipeline.kaggle.members import pictures_of
from pipeline.kaggle.shards import all_looks, sum_of_looks, together
from pipeline.parts.config import root
from pipeline.parts.metrics import METRICS
from pipeline.parts.predictions import Predictions, prediction_path
from pipeline.parts.prepared import Prepared


def halve(source: Path, target: Path) -> None:
    """Copy weights at fp16; a tensor that fp16 cannot hold stays as it is."""
    save_file({name: _half(tensor) for name, tensor in load_file(source).items()}, target)


def _half(tensor: torch.Tensor) -> torch.Tensor:
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if torch.isfinite(half).all() else tensor


def out_of_fold_score(manifest: Manifest, weights: Path, competition: str) -> float:
    """The blend's metric on the training images, each by models in `weights` new to it."""
    blend = Predictions.load(root("runs") / manifest.name / "oof.npz")
    row = {image: i for i, image in enumerate(blend.image)}
    total = np.zeros_like(blend.prob)
    for member in manifest.members:
        prepared = pictures_of(member, competition)
        path = prediction_path(member.run, member.fold, "oof", member.looks)
        held_out = Predictions.load(path).image
        prob = _look(member, weights, prepared, held_out)
        total[[row[image] for image in held_out]] += member.weight * prob
    rows = prepared.rows[prepared.rows.split == "train"]
    label = dict(zip(rows.id, rows.label, strict=True))
    target = np.array([manifest.classes.index(label[image]) for image in blend.image])
    return round(METRICS[manifest.metric](target, total), 5)


def _look(member: Member, weights: Path, prepared: Prepared, images: list[str]) -> np.ndarray:
    rows = prepared.rows
    position = {name: i for i, name in enumerate(rows.id) if rows.split[i] == "train"}
    source = prepared.folder / "pixels.npy" if prepared.record["packed"] else prepared.pixels
    chosen, looks = np.array([position[image] for image in images]), all_looks(member)
    return sum_of_looks(weights / member.file, member, source, chosen, together(looks)) / len(looks)
