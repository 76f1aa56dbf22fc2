"""Stage 4: probabilities of the held-out and the test images, from each fold's model.

reads   runs/EXPERIMENT/foldK/model.safetensors and its record, the packed pixels
writes  runs/EXPERIMENT/foldK/{oof,test}.TTA.npz (with predict.sizes .TTA-128-160.npz): image,
        classes, prob
run     python -m pipeline.predict demo --split oof --tta d4

Out-of-fold and test images go through the same function and the same views. A model's record
says how its pictures are prepared; the experiment only says where they are.
"""

import time
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took
from pipeline.base.config import TTA, Experiment, load_experiment, root, with_tta
from pipeline.base.derived import NameOption, SetOption, derived
from pipeline.base.runs import Split, model_path, prediction_path
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import chosen_folds, folds_digest, load_folds
from pipeline.inference.predictions import Predictions

VERSION = 1


class Splits(StrEnum):
    OOF = "oof"
    TEST = "test"
    BOTH = "both"


def main(
    experiment: str,
    split: Annotated[Splits, typer.Option()] = Splits.BOTH,
    tta: Annotated[
        TTA | None, typer.Option(help="default: the experiment's; its sizes stay")
    ] = None,
    fold: Annotated[list[int] | None, typer.Option(help="only these folds")] = None,
    changes: SetOption = None,
    name: NameOption = None,
) -> None:
    experiment = derived(experiment, changes, name)
    settings = with_tta(load_experiment(experiment), tta)
    prepared, table = load_prepared(settings), load_folds(settings)
    folds = folds_digest(table)
    started, made = time.monotonic(), 0
    for k in chosen_folds(settings, fold):
        model = model_path(settings.name, k)
        record = records.load(model)
        if record is None:
            raise UserError(f"{model}: not trained; run python -m pipeline.train {experiment}")
        if record["key"]["folds"] != folds:
            raise UserError(f"{model}: trained on another split than the folds file holds now")
        held_out = list(table.image[table.fold == k])
        for part in ["oof", "test"] if split == Splits.BOTH else [split.value]:
            made += update(settings, k, part, prepared, held_out, record)
    parts = "{oof,test}" if split == Splits.BOTH else split
    where = root("runs") / settings.name / "fold*" / f"{parts}.{settings.predict.views_name}.npz"
    say("predict", f"{where}, {took(started) if made else 'up to date'}")


def update(
    settings: Experiment,
    fold: int,
    split: Split,
    prepared: Prepared,
    held_out: list[str],
    record: dict[str, Any],
) -> bool:
    """Make one prediction file unless it is current; returns whether it was made."""
    tta = settings.predict.views_name
    out = prediction_path(settings.name, fold, split, tta)
    key = {
        "version": VERSION,
        "model": record["digest"],
        "pixels": prepared.record["digests"]["train" if split == "oof" else "test"],
        "size": prepared.record["key"]["size"],
        "images": records.digest(held_out) if split == "oof" else None,
        "split": split,
        "tta": tta,
    }

    def work() -> dict[str, Any]:
        rows = prepared.rows
        in_test = rows.split == "test"
        chosen = rows[in_test] if split == "test" else rows[rows.id.isin(held_out) & ~in_test]
        prob = predict_rows(settings, fold, prepared, split, chosen.index.to_numpy(), record)
        Predictions(list(chosen.id), record["classes"], prob).save(out)
        return {"images": len(chosen), "folds": record["key"]["folds"]}

    return records.make(out, key, work)


def predict_rows(
    settings: Experiment,
    fold: int,
    prepared: Prepared,
    split: Split,
    rows: np.ndarray,
    record: dict[str, Any],
) -> np.ndarray:
    """Probabilities float32 [len(rows), classes] of rows of the packed pixels, in that order.

    `record` is that of the fold's model.
    """
    from pipeline.base.device import tuned  # late: torch
    from pipeline.inference.features import MAX_IMAGES, FrozenFeatures
    from pipeline.inference.predictor import Predictor
    from pipeline.inference.tta import VIEWS

    predictor = Predictor.load(model_path(settings.name, fold), tuned(settings).runtime)
    if (resize := predictor.preprocessing["fit"]) != settings.model.resize:
        raise UserError(f"fold {fold} was trained on pictures made square by {resize}")
    part, views = "test" if split == "test" else "train", VIEWS[settings.predict.tta]
    few = (prepared.rows.split == part).sum() <= MAX_IMAGES
    trained = record["key"]["train"]["epochs"]
    if few and not (trained or settings.predict.sizes):
        return FrozenFeatures(predictor, settings).probabilities(part, rows, views)
    label, sizes = f"fold {fold}  {split} {settings.predict.tta}", settings.predict.sizes or []
    return predictor.probabilities(prepared.pixels, rows, views, sizes, label)


if __name__ == "__main__":
    run_stage(main)
