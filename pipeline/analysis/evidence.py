"""What a finished blend knows of its pictures: all that report, review and suspects begin with."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.answered import held_out
from pipeline.analysis.past import find_folds, trained_settings
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import Experiment
from pipeline.base.forms import as_array
from pipeline.base.runs import folds_of, has_oof, is_as_blended, load_blend
from pipeline.base.yaml_files import run_name
from pipeline.data.decisions import Changes, load_changes
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import classes_of
from pipeline.data.studies import answered
from pipeline.inference.blending import Mean
from pipeline.inference.predictions import Predictions
from pipeline.inference.thresholds import Decision, usual


@dataclass(frozen=True)
class Evidence:
    """A blend, its members and their pictures; n scored training rows, m test rows, C classes.

    Where an id has several pictures a row is an id, and `row` the first of them.
    """

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
    rules: Competition = field(default_factory=Competition)

    @property
    def folds(self) -> list[int]:
        """Those that were blended, of each member."""
        return folds_of(self.record)

    @cached_property
    def target(self) -> np.ndarray:
        """What is true: int [n] of classes, bool [n, C] of labels, float [n, C] of numbers."""
        return as_array(self.table.target)

    @property
    def kind(self) -> str:
        """shares, chances or numbers: what `prob` holds."""
        return self.rules.form.kind

    def refuse_ranks(self) -> None:
        """Raises UserError where `prob` are ranks: report and review go by how sure answers are."""
        if self.record["key"].get("mean") == Mean.RANKS:
            text = f"{self.name} is a mean of ranks, which do not tell how sure an answer is"
            raise UserError(f"{text}: name a member, or blend it by --mean probabilities")

    @cached_property
    def decision(self) -> Decision | None:
        """Its thresholds or cuts; None where the likeliest class is answered, or numbers."""
        made = Decision(**self.record["decision"]) if "decision" in self.record else None
        if made and not made.sharpens:
            return made
        decided = self.rules.task not in ("classes", "regression")
        some = self.rules.form.some
        return usual(self.target, self.prob, self.kind, some) if decided else None

    @cached_property
    def answer(self) -> np.ndarray:
        """What is answered, in the form of `target`."""
        return self.answers(self.prob)

    def answers(self, prob: np.ndarray) -> np.ndarray:
        """The same of any predictions [m, C]: by the blend's decision."""
        found = self.decision(prob) if self.decision else prob
        if self.kind == "shares":
            return found.argmax(1)
        return found.astype(bool) if self.kind == "chances" else found

    @cached_property
    def errors(self) -> np.ndarray:
        """float [n], how far an answer is from the truth: 0 where it is right, 1 where it is not.

        Where k classes are answered what average precision lacks to 1; of labels how many are
        wrong; of a number how far off it is, of several the mean in deviations of their column.
        """
        off = self.answer != self.target
        if self.kind == "chances":
            return off.sum(1).astype(float)
        if self.kind == "numbers":
            spread = self.target.std(0) if self.target.shape[1] > 1 else 1.0
            return (np.abs(self.answer - self.target) / np.maximum(spread, 1e-12)).mean(1)
        if self.rules.k == 1:
            return off.astype(float)
        best = np.argsort(-self.prob, axis=1, kind="stable")[:, : self.rules.k]
        return 1 - ((best == self.target[:, None]) / np.arange(1, best.shape[1] + 1)).sum(1)

    @cached_property
    def surprise(self) -> np.ndarray:
        """float [n], how little the truth was expected: less its class's probability, the furthest
        that a label's chance is off, the mean distance of its numbers in deviations."""
        if self.kind == "shares":
            return -self.prob[np.arange(len(self.prob)), self.target]
        off = np.abs(self.prob - self.target)
        if self.kind == "chances":
            return off.max(1)
        return (off / np.maximum(self.target.std(0), 1e-12)).mean(1)

    @cached_property
    def right(self) -> np.ndarray:
        """bool [n], all that is answered is true; where k classes are, the first of them."""
        off = self.answer != self.target
        return ~off if off.ndim == 1 else ~off.any(1)

    @property
    def verb(self) -> str:
        """What is done with a picture, before an answer."""
        return "called" if self.rules.task != "regression" else "predicted"

    def told(self, answers: np.ndarray) -> list[str]:
        """Answers as people read them, a text a row."""
        names = self.classes
        if self.kind == "shares":
            return [names[i] for i in answers]
        if self.kind == "chances":
            found = (np.array(names, dtype=object)[row] for row in answers)
            return [", ".join(row) or "no label" for row in found]
        if len(names) == 1:
            return [f"{row[0]:.4g}" for row in answers]
        return [
            ", ".join(f"{name} {x:.4g}" for name, x in zip(names, row, strict=True))
            for row in answers
        ]

    @cached_property
    def pictures(self) -> dict[int, np.ndarray]:
        """By `row` all rows of the packed pixels that are of its id; none where each has one."""
        rows = self.prepared.rows
        if "study" not in rows:
            return {}
        found = rows.groupby(["split", "study"], sort=False).groups.values()
        return {int(some[0]): some.to_numpy() for some in found}

    @cached_property
    def pixels(self) -> np.ndarray:
        """A digest of each row's pixels [n]."""
        return self.prepared.rows.hash.to_numpy()[self.table.row]

    @cached_property
    def twins(self) -> np.ndarray:
        """bool [n], rows that have a pixel-identical partner."""
        return pd.Series(self.pixels).duplicated(keep=False).to_numpy()

    @cached_property
    def conflicts(self) -> np.ndarray:
        """bool [n], twins whose labels contradict each other.

        Pictures that are tied by a group column alone may well differ in their labels.
        """
        return (self.table.label.groupby(self.pixels).transform("nunique") > 1).to_numpy()


def load_evidence(name: str, decided: bool = True) -> Evidence:
    """What `python -m pipeline.ensemble` made, by its name (or the YAML of its one run).

    Labels are as people decided, without what they left out; or as they were given. Raises
    UserError where something is missing, or no longer what was blended.
    """
    asked, name = name, run_name(name)
    path, record = load_blend(name, asked)
    rules = load_competition(record["key"]["competition"])
    settings, table = find_folds(trained_settings(record), record["key"]["folds"])
    classes, folds = classes_of(table, rules.form), folds_of(record)
    if not table.fold.isin(folds).any():
        raise UserError(f"{name}: all pictures were trained on: none is held out to tell of")
    prepared = load_prepared(settings)
    changes = load_changes(settings, prepared) if decided else Changes(Path())
    runs = {run: about["tta"] for run, about in record["key"]["members"].items()}
    if moved := [run for run in runs if not is_as_blended(record, run)]:
        text = f"{moved[0]} was trained or predicted anew since"
        raise UserError(f"{name}: {text}; run python -m pipeline.predict, then ensemble, again")
    if not has_oof(path, record):
        text = "out-of-fold answers are lost, or those of another blend"
        raise UserError(f"{name}: its {text}; run python -m pipeline.ensemble again")
    given, each = held_out(settings, runs, folds, table, changes, classes)
    used = (given.fold >= 0).to_numpy()
    scored = given[used].reset_index(drop=True)
    oof, test = Predictions.load(path.with_name("oof.npz")), Predictions.load(path)
    scored["target"] = rules.form.targets(scored.label, classes)
    scored["row"] = pixel_rows(prepared, "train", list(scored.image))
    tested = {"image": test.image, "row": pixel_rows(prepared, "test", test.image)}
    return Evidence(
        name=name,
        settings=settings,
        record=record,
        table=scored,
        classes=classes,
        prob=oof.aligned(list(given.image), classes)[used],
        members={run: prob[used] for run, prob in zip(runs, each, strict=True)},
        test=pd.DataFrame(tested),
        test_prob=test.aligned(test.image, classes),
        prepared=prepared,
        rules=rules,
    )


def load_current(name: str) -> Evidence:
    """As `load_evidence`; raises UserError if decisions have changed since the blend was scored."""
    evidence = load_evidence(name)
    changes = load_changes(evidence.settings, evidence.prepared)
    if changes.key().get("labels") != evidence.record["key"].get("labels"):
        text = f"decided since it was scored; run python -m pipeline.ensemble {name}"
        raise UserError(f"{changes.path}: {text}")
    return evidence


def untouched(evidence: Evidence) -> Evidence:
    """Without the rows whose labels people decided anew: what runs before and after can share."""
    if "touched" not in evidence.table:
        return evidence
    kept = ~evidence.table.touched.to_numpy(bool)
    table = evidence.table[kept].reset_index(drop=True)
    members = {run: prob[kept] for run, prob in evidence.members.items()}
    return replace(evidence, table=table, prob=evidence.prob[kept], members=members)


def pixel_rows(prepared: Prepared, split: str, images: Sequence[str]) -> np.ndarray:
    """Where in the packed pixels (the first pictures of) ids lie, int [n].

    Raises UserError for one that is gone.
    """
    names = answered(prepared.rows[prepared.rows.split == split]).drop_duplicates()
    where = dict(zip(names, names.index, strict=True))
    if gone := [image for image in images if image not in where]:
        text = f"{len(gone)} {split} pictures are not there, first {gone[0]!r}"
        raise UserError(f"{prepared.folder}: {text}; run python -m pipeline.prepare")
    return np.array([where[image] for image in images], dtype=int)
