"""Stage 4: probabilities of the held-out and the test images, from each fold's model.

reads   runs/EXPERIMENT/foldK/model.safetensors and its record, the packed pixels
writes  runs/EXPERIMENT/foldK/{oof,test}.TTA.npz (with predict.sizes .TTA-128-160.npz): image,
        classes, prob
run     python -m pipeline.predict demo --split oof --tta d4 [--launcher ray]

Out-of-fold and test images go through the same function and the same views. A model's record
says how its pictures are prepared; the experiment only says where they are.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took
from pipeline.base.config import Experiment, load_experiment, root
from pipeline.base.runs import Split, model_path, prediction_path
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import folds_digest, load_folds
from pipeline.inference.predictions import Predictions
from pipeline.launchers import ray_cluster

VERSION = 1


class Splits(StrEnum):
    OOF = "oof"
    TEST = "test"
    BOTH = "both"


class TTA(StrEnum):
    NONE = "none"
    HFLIP = "hflip"
    FLIPS = "flips"
    DIAGONALS = "diagonals"
    D4 = "d4"
    FIVE_CROP = "five-crop"


def main(
    experiment: str,
    split: Annotated[Splits, typer.Option()] = Splits.BOTH,
    tta: Annotated[
        TTA | None, typer.Option(help="default: the experiment's; its sizes stay")
    ] = None,
    launcher: Annotated[
        ray_cluster.Launcher, typer.Option(help="where the pictures are looked at")
    ] = ray_cluster.Launcher.LOCAL,
) -> None:
    settings = load_experiment(experiment)
    if tta:
        predict = settings.predict.model_copy(update={"tta": tta.value})
        settings = settings.model_copy(update={"predict": predict})
    prepared, table = load_prepared(settings), load_folds(settings)
    folds = folds_digest(table)
    predict = predict_on_cluster if launcher == ray_cluster.Launcher.RAY else predict_rows
    started, made = time.monotonic(), 0
    for fold in range(settings.folds.n):
        model = model_path(settings.name, fold)
        record = records.load(model)
        if record is None:
            raise UserError(f"{model}: not trained; run python -m pipeline.train {experiment}")
        if record["key"]["folds"] != folds:
            raise UserError(f"{model}: trained on another split than the folds file holds now")
        held_out = table.image[table.fold == fold]
        for part in ["oof", "test"] if split == Splits.BOTH else [split.value]:
            made += update(settings, fold, part, prepared, list(held_out), record, predict)
    parts = "{oof,test}" if split == Splits.BOTH else split
    where = root("runs") / settings.name / "fold*" / f"{parts}.{settings.predict.looks}.npz"
    say("predict", f"{where}, {took(started) if made else 'up to date'}")


def predict_rows(
    settings: Experiment, fold: int, prepared: Prepared, split: Split, rows: np.ndarray, label: str
) -> np.ndarray:
    """Probabilities float32 [len(rows), classes] of rows of the packed pixels, in that order."""
    from pipeline.base.device import make_accelerator, tuned
    from pipeline.inference.features import MOST, probabilities_without_training  # late: torch
    from pipeline.inference.predictor import predict_probabilities
    from pipeline.model.build import arranged, load_model

    model, record = load_model(model_path(settings.name, fold))
    if (fit := record["preprocessing"]["fit"]) != settings.model.fit:
        raise UserError(f"fold {fold} was trained on pictures made square by {fit}")
    runtime = tuned(settings).runtime
    accelerator = make_accelerator(runtime)
    where, tta, sizes = record["preprocessing"], settings.predict.tta, settings.predict.sizes
    model = arranged(model, runtime, where["size"], accelerator.device)
    part = "test" if split == "test" else "train"
    few = (prepared.rows.split == part).sum() <= MOST
    if few and not (record["key"]["train"]["epochs"] or sizes or tta == "five-crop"):
        return probabilities_without_training(model, settings, where, part, rows, tta, accelerator)
    return predict_probabilities(
        model,
        prepared.pixels,
        rows,
        where,
        tta,
        accelerator,
        runtime,
        label,
        sizes or (),
    )


def predict_on_cluster(
    settings: Experiment, fold: int, prepared: Prepared, split: Split, rows: np.ndarray, label: str
) -> np.ndarray:
    """As `predict_rows`, by all machines of a Ray cluster."""
    from pipeline.base.device import tuned  # late: torch

    if not settings.train.epochs:  # a new head alone: the parts would all wait for one backbone
        return predict_rows(settings, fold, prepared, split, rows, label)
    predict = partial(predict_rows, settings, fold, prepared, split, label=label)
    return ray_cluster.predict_shards(
        predict, rows, settings.runtime, tuned(settings).runtime.predict_batch
    )


def update(
    settings: Experiment,
    fold: int,
    split: Split,
    prepared: Prepared,
    held_out: list[str],
    record: dict[str, Any],
    predict: Callable[..., np.ndarray] = predict_rows,
) -> bool:
    """Make one prediction file unless it is current; returns whether it was made."""
    looks = settings.predict.looks
    out = prediction_path(settings.name, fold, split, looks)
    key = {
        "version": VERSION,
        "model": record["digest"],
        "pixels": prepared.record["digests"]["train" if split == "oof" else "test"],
        "size": prepared.record["key"]["size"],
        "images": records.digest(held_out) if split == "oof" else None,
        "split": split,
        "tta": looks,
    }

    def work() -> dict[str, Any]:
        rows = prepared.rows
        in_test = rows.split == "test"
        chosen = rows[in_test] if split == "test" else rows[rows.id.isin(held_out) & ~in_test]
        label = f"fold {fold}  {split} {settings.predict.tta}"
        prob = predict(settings, fold, prepared, split, chosen.index.to_numpy(), label)
        Predictions(list(chosen.id), record["classes"], prob).save(out)
        return {"images": len(chosen), "folds": record["key"]["folds"]}

    return records.make(out, key, work)


if __name__ == "__main__":
    run_stage(main)
