"""What an experiment will take on a machine that `bench` has measured, and what to cut first."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.base.cli import duration
from pipeline.base.config import Experiment
from pipeline.base.recipes import LONG
from pipeline.base.settings import sides
from pipeline.data.prepared import Prepared

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def seconds_of_head(trainer: "Trainer") -> float:
    """Of a fold's closed form, the passes over its pictures not counted; 0 where none is asked."""
    from pipeline.inference.features import MAX_IMAGES  # late: torch
    from pipeline.training.head_init import start_views, takes_kernel
    from pipeline.training.kernel_ridge import seconds_of_kernel

    how, model = trainer.settings, trainer.accelerator.unwrap_model(trainer.model)
    kernel = takes_kernel(how, len(trainer.labels))
    if not (how.model.head_init == "lda" or how.train.refit or kernel):
        return 0.0
    head = model.get_classifier()
    images, views = min(len(trainer.rows), MAX_IMAGES), len(start_views(how))
    once = seconds_of_lda(images, views, head.in_features, head.out_features)
    if kernel:  # judged on four fifths, for half the time, of a trained backbone too; made once
        turns = 2.0 if how.train.epochs else 1.5
        return once + turns * seconds_of_kernel(images, views, head.out_features)
    return once * (1 + how.train.refit)  # at the start, and at most as long at the end


def seconds_of_lda(images: int, views: int, width: int, classes: int) -> float:
    """What `lda` will take on this machine, from a chunk of images and one solution."""
    import torch  # late

    from pipeline.training.discriminant import CHUNK_IMAGES, SHRINKAGES, ClassMoments

    some, started = min(images, CHUNK_IMAGES), time.monotonic()
    labels = np.arange(some) % max(1, min(classes, some // 2))  # two of each, or nothing varies
    features = torch.randn(some, views, width)
    found = ClassMoments.of(features, labels, classes, np.arange(some))
    added = time.monotonic()
    found.solve(SHRINKAGES[-1])
    solution = time.monotonic() - added
    # a search of about four, in half the time each, and the last
    return (added - started) * images / some + 3 * solution


def plan(
    settings: Experiment, prepared: Prepared, table: pd.DataFrame, found: dict[str, Any]
) -> dict[str, float]:
    """Seconds of each part of the whole experiment on this machine."""
    from pipeline.inference.features import MAX_IMAGES
    from pipeline.launchers.pool import gpu_slots
    from pipeline.training.head_end import refits_head
    from pipeline.training.head_init import fits_features, start_views

    rates, n, epochs = found["rates"], settings.folds.n, settings.train.epochs
    rounds = -(-n // len(gpu_slots(settings.runtime, n)))  # folds that train one after another
    test, held = int((prepared.rows.split == "test").sum()), int((table.fold >= 0).sum())
    train, valid = len(table) - held / n, held / n  # own images of a fold
    images = min(len(table), MAX_IMAGES) * len(start_views(settings))
    images *= fits_features(settings)  # once for all folds
    refit = epochs > 0 and refits_head(settings, int(train))
    again = rounds * refit * images * train / len(table)
    # of a picture that the finished model sees
    pixels = settings.model.test_scale**2 if refit else 1.0
    return {
        "start of the folds": rounds * found["start"],
        "head": (images + pixels * again) / rates["forward"] + rounds * found["head"],
        "training": rounds * epochs * found["pictures"] / rates["both"],
        "validation": rounds * epochs * valid / rates["forward"],
        "predict oof": pixels * (rounds * valid if epochs else held) / rates["tta"],
        # untrained: one pass for all folds
        "predict test": pixels * (rounds if epochs else 1) * test / rates["tta"],
    }


def cuts(settings: Experiment, seconds: dict[str, float], budget: float) -> list[str]:
    """What to cut until the rest fits, that which costs the least accuracy first."""
    from pipeline.inference.tta import VIEWS, allowed

    left, texts, epochs = dict(seconds), [], settings.train.epochs
    views = len(allowed(VIEWS[settings.predict.tta], settings.model.size))
    if sum(left.values()) > budget and views > 2:
        left |= {part: left[part] * 2 / views for part in ("predict oof", "predict test")}
        texts.append(f"predict.tta: hflip  then {duration(sum(left.values()))}")
    if (over := sum(left.values()) - budget) > 0 and epochs > 1:
        each = (left["training"] + left["validation"]) / epochs
        fewer = max(1, int(epochs - over / each))
        left |= {part: left[part] * fewer / epochs for part in ("training", "validation")}
        short = settings.recipe.startswith("long") and fewer < LONG
        note = " (then recipe short, if none is named)" if short else ""
        texts.append(f"train.epochs: {fewer}{note}  then {duration(sum(left.values()))}")
    if (rest := sum(left.values())) > budget:
        share = (budget / rest) ** 0.5
        found = [max(16, int(side * share) // 16 * 16) for side in sides(settings.model.size)]
        smaller = found if isinstance(settings.model.size, tuple) else found[0]
        texts.append(f"model.size: {smaller}, as time goes with its square")
    return texts
