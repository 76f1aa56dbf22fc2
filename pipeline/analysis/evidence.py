"""What a finished blend knows of its pictures: all that report, review and suspects begin with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from pipeline.base import records
from pipeline.base.cli import UserError, short
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, Mix, Model, Predict, Train, root
from pipeline.base.runs import folds_of, load_blend, model_path
from pipeline.data.decisions import load_changes
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import classes_of, folds_digest, load_folds, slices
from pipeline.inference.predictions import Predictions, out_of_fold


@dataclass(frozen=True)
class Evidence:
    """A blend, its members and their pictures; n scored training rows, m test rows, C classes."""

    name: str
    settings: Experiment  # of the first member, as it was trained
    record: dict[str, Any]  # of runs/NAME/test.npz
    table: pd.DataFrame  # [n] image, label, group, fold, target, row (of the packed pixels)
    classes: list[str]
    prob: np.ndarray  # float32 [n, C], out of fold
    members: dict[str, np.ndarray]  # of each run the same
    test: pd.DataFrame  # [m] image, row
    test_prob: np.ndarray  # float32 [m, C]
    prepared: Prepared

    @property
    def folds(self) -> list[int]:
        """Those that were blended, of each member."""
        return folds_of(self.record)

    @cached_property
    def target(self) -> np.ndarray:
        """int [n]"""
        return self.table.target.to_numpy()

    @cached_property
    def answer(self) -> np.ndarray:
        """int [n], the class with the largest probability."""
        return self.prob.argmax(1)

    @cached_property
    def right(self) -> np.ndarray:
        """bool [n]"""
        return self.answer == self.target

    @cached_property
    def twins(self) -> np.ndarray:
        """bool [n], rows that have a pixel-identical (or grouped) partner."""
        return ~slices(self.table)["no_twins"]

    @cached_property
    def conflicts(self) -> np.ndarray:
        """bool [n], twins whose labels contradict each other."""
        return ~slices(self.table)["no_conflicts"]


def load_evidence(name: str, decided: bool = True) -> Evidence:
    """What `python -m pipeline.ensemble` made, by its name (or the YAML of its one run).

    Labels are as people decided, without what they left out; or as they were given. Raises
    UserError where something is missing, or no longer what was blended.
    """
    name = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    path, record = load_blend(name)
    rules = load_competition(record["key"]["competition"])
    if not rules.has_pages:
        text = "pages speak of one class a picture, and of one picture an id"
        raise UserError(f"{name}: task: {rules.task} has no pages as yet: {text}")
    settings, table = find_folds(trained_settings(record), record["key"]["folds"])
    classes, given = classes_of(table, rules.form), table[table.fold.isin(folds_of(record))]
    if not len(given):
        raise UserError(f"{name}: all pictures were trained on: none is held out to tell of")
    prepared = load_prepared(settings)
    mended = load_changes(settings, prepared).applied(table) if decided else table
    used = (mended.loc[given.index].fold >= 0).to_numpy()
    scored = mended.loc[given.index[used]].reset_index(drop=True)
    oof, test = Predictions.load(path.with_name("oof.npz")), Predictions.load(path)
    scored["target"] = scored.label.map({label: i for i, label in enumerate(classes)})
    scored["row"] = pixel_rows(prepared, "train", list(scored.image))
    tested = {"image": test.image, "row": pixel_rows(prepared, "test", test.image)}
    members = {
        run: out_of_fold(run, about["tta"], given, classes)[used]
        for run, about in record["key"]["members"].items()
    }
    return Evidence(
        name=name,
        settings=settings,
        record=record,
        table=scored,
        classes=classes,
        prob=oof.aligned(list(given.image), classes)[used],
        members=members,
        test=pd.DataFrame(tested),
        test_prob=test.aligned(test.image, classes),
        prepared=prepared,
    )


def load_current(name: str) -> Evidence:
    """As `load_evidence`; raises UserError if decisions have changed since the blend was scored."""
    evidence = load_evidence(name)
    changes = load_changes(evidence.settings, evidence.prepared)
    if changes.key().get("labels") != evidence.record["key"].get("labels"):
        text = f"decided since it was scored; run python -m pipeline.ensemble {evidence.name}"
        raise UserError(f"{changes.path}: {text}")
    return evidence


def untouched(evidence: Evidence) -> Evidence:
    """Without the rows whose labels people decided anew: what runs before and after can share."""
    changes = load_changes(evidence.settings, evidence.prepared)
    if not changes:
        return evidence
    _, whole = find_folds(evidence.settings, evidence.record["key"]["folds"])
    touched = changes.applied(whole).set_index("image").touched
    kept = ~touched.loc[evidence.table.image].to_numpy()
    return with_rows(evidence, evidence.table[kept].reset_index(drop=True), kept)


def with_rows(evidence: Evidence, table: pd.DataFrame, kept: np.ndarray) -> Evidence:
    """Another table, of the `kept` rows (bool [n]) of the old one."""
    members = {run: prob[kept] for run, prob in evidence.members.items()}
    return replace(evidence, table=table, prob=evidence.prob[kept], members=members)


def trained_settings(record: dict[str, Any], run: str = "") -> Experiment:
    """Settings of a blend's run, or the first of them, whatever its YAML says by now."""
    run = run or next(iter(record["key"]["members"]))
    about = record["key"]["members"][run]
    model = model_path(run, folds_of(record)[0])
    trained = records.load(model)
    if trained is None:
        raise UserError(f"{model}: no trained model; run python -m pipeline.train {run}")
    parts = {part: trained["key"][part] for part in ("model", "augment", "mix", "train")}
    for part, cls in {"model": Model, "mix": Mix, "train": Train}.items():  # on or off, it is past
        parts[part] = {name: v for name, v in parts[part].items() if name not in cls.RETIRED}
    split = {"n": record["key"].get("of", len(folds_of(record)))}
    try:
        return Experiment(
            name=run,
            competition=record["key"]["competition"],
            predict=Predict.named(about["tta"]),
            folds=split,
            **parts,
        )
    except ValidationError as error:
        text = f"settings of another version ({short(error, 120)})"
        raise UserError(f"{model}.json: {text}; train it under a new name") from None


def find_folds(settings: Experiment, digest: str) -> tuple[Experiment, pd.DataFrame]:
    """The folds file of a digest, which may have any name. Raises UserError where it is gone."""
    paths = sorted(root("folds").glob("*.csv"))
    usual = [path for path in paths if path.stem.startswith(settings.competition_name)]
    for path in usual + [path for path in paths if path not in usual]:
        split = settings.folds.model_copy(update={"name": path.stem})
        named = settings.model_copy(update={"folds": split})
        try:
            table = load_folds(named)
        except UserError:  # of other folds, or none at all
            continue
        if folds_digest(table) == digest:
            return named, table
    text = f"no file holds the folds that {settings.name} was trained on"
    raise UserError(f"{root('folds')}: {text}; bring it back, or train under a new name")


def pixel_rows(prepared: Prepared, split: str, images: Sequence[str]) -> np.ndarray:
    """Where in the packed pixels pictures lie, int [n]. Raises UserError for one that is gone."""
    rows = prepared.rows[prepared.rows.split == split]
    where = dict(zip(rows.id, rows.index, strict=True))
    if gone := [image for image in images if image not in where]:
        text = f"{len(gone)} {split} pictures are not there, first {gone[0]!r}"
        raise UserError(f"{prepared.folder}: {text}; run python -m pipeline.prepare")
    return np.array([where[image] for image in images], dtype=int)
