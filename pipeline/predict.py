"""Stage 4: probabilities of the held-out and the test images, from each fold's model.

reads   runs/EXPERIMENT/foldK/model.safetensors and its record, the packed pixels
writes  runs/EXPERIMENT/foldK/{oof,test}.TTA.npz (with predict.sizes .TTA-128-160.npz): image,
        classes, prob
run     python -m pipeline.predict demo --split oof --tta d4

Out-of-fold and test images go through the same function and the same views. A model's record
says how its pictures are prepared; the experiment only says where they are. Folds are predicted
one after another, or one a GPU.
"""

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took
from pipeline.base.config import TTA, Experiment, load_experiment, root, with_tta
from pipeline.base.derived import NameOption, SeedOption, SetOption, derived, each_seed
from pipeline.base.runs import Split, model_path, prediction_path
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import chosen_folds, folds_digest, load_folds
from pipeline.inference.predictions import Predictions
from pipeline.launchers.local import predict_folds
from pipeline.launchers.pool import gpu_slots

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
    seed: SeedOption = None,
    changes: SetOption = None,
    name: NameOption = None,
) -> None:
    started = time.monotonic()
    parts: list[Split] = ["oof", "test"] if split == Splits.BOTH else [split.value]
    runs = each_seed(derived(experiment, changes, name), seed)
    todo = {run: outdated(run, fold, parts, tta) for run in runs}
    stale = {(run, p.fold): 0 for run in runs for p in todo[run] if not p.of_features}
    runtime = load_experiment(runs[0]).runtime.model_copy(update={"gpus_per_fold": 1})
    if len(stale) > 1 and len(slots := gpu_slots(runtime, len(stale))) > 1:
        options = ["--split", split.value, *(["--tta", str(tta)] if tta else [])]
        predict_folds(list(stale), options, slots)
    for run, outdated_parts in todo.items():
        for part in outdated_parts:
            part.update()
        settings = with_tta(load_experiment(run), tta)
        where = root("runs") / settings.name / ("fold*" if fold is None else f"fold{set(fold)}")
        names = f"{{{','.join(parts)}}}.{settings.predict.views_name}.npz"
        say("predict", f"{where}/{names}, {took(started) if todo[run] else 'up to date'}")


def outdated(
    experiment: str, asked: list[int] | None, parts: list[Split], tta: TTA | None
) -> list["Part"]:
    """Raises UserError for a fold that is not trained, or was on another split."""
    settings = with_tta(load_experiment(experiment), tta)
    prepared, table = load_prepared(settings), load_folds(settings)
    found = []
    for k in chosen_folds(settings, asked):
        model = model_path(settings.name, k)
        record = records.load(model)
        if record is None:
            raise UserError(f"{model}: not trained; run python -m pipeline.train {experiment}")
        if record["key"]["folds"] != folds_digest(table):
            text = "trained on another split than the folds file holds now"
            raise UserError(f"{model}: {text}; restore the file, or train under another name")
        held_out = list(table.image[table.fold == k])
        own = parts if held_out else [part for part in parts if part == "test"]  # folds: all
        found += [Part(settings, k, part, prepared, held_out, record) for part in own]
    return [part for part in found if not records.is_current(part.out, part.key)]


@dataclass(frozen=True)
class Part:
    """The file of a fold's predictions of one split; `record` is that of its model."""

    settings: Experiment
    fold: int
    split: Split
    prepared: Prepared
    held_out: list[str]
    record: dict[str, Any]

    @property
    def out(self) -> Path:
        views = self.settings.predict.views_name
        return prediction_path(self.settings.name, self.fold, self.split, views)

    @property
    def pictures(self) -> str:
        """Which of the prepared ones."""
        return "test" if self.split == "test" else "train"

    @property
    def key(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "model": self.record["digest"],
            "pixels": self.prepared.record["digests"][self.pictures],
            "size": self.prepared.record["key"]["size"],
            "images": records.digest(self.held_out) if self.split == "oof" else None,
            "split": self.split,
            "tta": self.settings.predict.views_name,
        }

    def update(self) -> bool:
        """Make the file unless it is current; returns whether it was made."""
        if not records.make(self.out, self.key, self.work):
            return False
        from pipeline.base.device import trim_malloc  # late: torch

        trim_malloc()  # a model and what its layers do refer to each other
        return True

    def work(self) -> dict[str, Any]:
        chosen = self.prepared.rows[self.prepared.rows.split == self.pictures]
        if self.split == "oof":
            chosen = chosen[chosen.id.isin(self.held_out)]
        prob = self.predict(chosen.index.to_numpy())
        kind = self.record.get("answer", {}).get("kind", "shares")
        Predictions(list(chosen.id), self.record["classes"], prob, kind=kind).save(self.out)
        return {"images": len(chosen), "folds": self.record["key"]["folds"]}

    @property
    def of_features(self) -> bool:
        """Whether features of the untrained backbone, which all folds share, give the answers."""
        from pipeline.inference.features import MAX_IMAGES  # late: torch

        few = (self.prepared.rows.split == self.pictures).sum() <= MAX_IMAGES
        return few and not (self.record["key"]["train"]["epochs"] or self.settings.predict.sizes)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities float32 [len(rows), classes] of rows of the packed pixels, in order."""
        from pipeline.base.device import tuned  # late: torch
        from pipeline.inference.features import FrozenFeatures
        from pipeline.inference.predictor import Predictor
        from pipeline.inference.tta import VIEWS

        settings, prepared = self.settings, self.prepared
        predictor = Predictor.load(model_path(settings.name, self.fold), tuned(settings).runtime)
        if (resize := predictor.preprocessing["fit"]) != settings.model.resize:
            raise UserError(f"fold {self.fold} was trained on pictures made square by {resize}")
        views = VIEWS[settings.predict.tta]
        if self.of_features:
            return FrozenFeatures(predictor, settings).probabilities(self.pictures, rows, views)
        label = f"fold {self.fold}  {self.split} {settings.predict.tta}"
        sizes = settings.predict.sizes or []
        return predictor.probabilities(prepared.pixels, rows, views, sizes, label)


if __name__ == "__main__":
    run_stage(main)
