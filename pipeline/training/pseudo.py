"""Pseudo-labels: sure test pictures of a finished blend join what a fold is trained on.

Nested, or the out-of-fold score lies: fold k is taught by the blend's models of fold k alone, as
all others have seen the labels that fold k holds out. The method is that of Lee 2013.
"""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, say
from pipeline.base.config import Experiment
from pipeline.base.forms import in_cells
from pipeline.base.runs import GIVEN, fold_paths, load_blend, prediction_path
from pipeline.base.schema import Pseudo
from pipeline.data.prepared import Prepared
from pipeline.inference.answers import Answer
from pipeline.inference.blending import Blend, Mean
from pipeline.inference.predictions import Predictions


def pseudo_key(settings: Experiment, fold: int, prepared: Prepared, folds: str) -> dict[str, Any]:
    """For a fold's key: nothing without `pseudo`. Raises UserError for a run that cannot teach."""
    if settings.pseudo is None:
        return {}
    path, record = load_blend(settings.pseudo.run)
    if record["key"]["folds"] != folds:
        raise UserError(f"pseudo.run: {path} is of other folds than {settings.name}: it would leak")
    if record["key"].get("mean") == Mean.RANKS:
        text = "is a mean of ranks, which do not tell how sure an answer is"
        raise UserError(f"pseudo.run: {path} {text}; blend by probabilities or logits")
    answers = {}
    for run, about in record["key"]["members"].items():
        if about["tta"] == GIVEN:
            raise UserError(f"pseudo.run: {path} holds {run}, of folds unknown: it would leak")
        file = prediction_path(run, fold, "test", about["tta"])
        if (made := records.load(file)) is None or made["digest"] != about.get(f"test{fold}"):
            text = f"not what {path} was blended from; run python -m pipeline.ensemble again"
            raise UserError(f"pseudo.run: {file}: {text}")
        if made["key"]["pixels"] != prepared.record["digests"]["test"]:
            raise UserError(f"pseudo.run: {file}: the test pictures have changed since")
        answers[run] = made["digest"]
    key = {**settings.pseudo.model_dump(), "answers": answers}
    # what is not usual alone, so that folds trained before these were in the key stay up to date
    if len(set(record["key"]["weights"].values())) > 1:
        key["weights"] = record["key"]["weights"]
    if "mean" in record["key"]:
        key["mean"] = record["key"]["mean"]
    return {"pseudo": key}


def fold_answers(
    run: str, fold: int, image: list[str], classes: list[str], labels: bool
) -> np.ndarray:
    """Test predictions [len(image), classes] by the models of one fold, as their blend has them.

    `labels`: a picture has any number of them.
    """
    record = load_blend(run)[1]
    key, paths = record["key"], fold_paths(record, fold)
    found = [Predictions.load(path).aligned(image, classes) for path in paths.values()]
    weights = [key["weights"][member] for member in paths]
    return Blend(Mean(key.get("mean", Mean.PROBABILITIES)), labels)(found, weights)


def with_pseudo(
    settings: Experiment,
    fold: int,
    prepared: Prepared,
    classes: list[str],
    train: pd.DataFrame,
    targets: np.ndarray,
    answer: Answer,
) -> tuple[pd.DataFrame, np.ndarray]:
    """The training part of a fold and its targets, with the sure test pictures at their end.

    The targets are float32 [n, classes + 1] then: rows times their weight, and that weight.
    """
    how, rows = settings.pseudo, prepared.rows
    if how is None:
        return train, targets
    test = rows[rows.split == "test"]
    said = fold_answers(how.run, fold, list(test.id), classes, answer.kind == "chances")
    sure, soft = sure_answers(said, how, answer)
    say("train", f"fold {fold}  {sure.sum():,} of {len(sure):,} test pictures are taught")
    names = {"image": test.id, "row": test.index, "hash": test.hash, "fold": -1}  # -1: never scored
    hard = soft >= 0.5 if answer.kind == "chances" else soft  # labels stay bool
    rows = in_cells(list(map(tuple, hard)), test.id)
    target = soft.argmax(1) if answer.kind == "shares" else rows
    more = pd.DataFrame(names).assign(target=target)[sure]
    own = np.eye(len(classes), dtype=np.float32)[targets] if targets.ndim == 1 else targets
    weighted = np.hstack([soft[sure], np.ones((sure.sum(), 1))]) * how.weight
    both = np.ones((len(own) + len(weighted), own.shape[1] + 1), np.float32)
    both[: len(own), :-1], both[len(own) :] = own, weighted
    return pd.concat([train, more], ignore_index=True), both


def sure_answers(prob: np.ndarray, how: Pseudo, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of predictions [n, classes] are taught, bool [n], and what each would be."""
    if answer.kind == "numbers":
        return np.ones(len(prob), dtype=bool), answer.taught(prob)
    prob = prob.clip(0, 1)
    cases = np.stack([prob, 1 - prob], 2) if answer.kind == "chances" else prob[:, None]
    soft = cases**how.power
    soft /= soft.sum(2, keepdims=True)
    sure = cases.max(2).min(1) >= how.threshold  # of each label
    return sure, soft[..., 0] if answer.kind == "chances" else soft[:, 0]
