"""Weights of a blend that are fitted on out-of-fold answers, and what they are worth, nested."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.answered import held_out
from pipeline.analysis.members import Member
from pipeline.analysis.paired import bootstrap, middle
from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.forms import as_array
from pipeline.data.decisions import Changes
from pipeline.data.splits import classes_of
from pipeline.inference.blending import Blend, Mean
from pipeline.inference.metrics import METRICS, sign_of

ROUNDS = 100  # runs drawn into the bag: weights of a hundredth, which log loss wants


@dataclass(frozen=True)
class Held:
    """What weights are fitted on: `answers` of each run [n, classes], out of `fold` (int [n]).

    `group` ties twins, which are drawn together.
    """

    answers: Sequence[np.ndarray]
    target: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    metric: str
    blend: Blend

    def of(self, terms: Sequence[np.ndarray], rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return self.blend.averaged([term[rows] for term in terms], weights)


def fitted(
    members: list[Member],
    table: pd.DataFrame,
    changes: Changes,
    rules: Competition,
    mean: Mean,
    of: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Fitted weights and what they are worth, as the record of `out` has them if they are `of` it.

    Raises UserError for one run, or one fold, on which nothing can be judged.
    """
    if len(members) < 2 or len(members[0].folds) < 2:
        raise UserError("--weights fit takes several runs and several folds")
    record = records.load(out)
    if record and record["key"].get("fit") == of:
        return record["fitted"]
    classes = classes_of(table, rules.form)
    runs = {member.name: member.views for member in members}
    mended, oof = held_out(members[0].settings, runs, members[0].folds, table, changes, classes)
    used, names = (mended.fold >= 0).to_numpy(), list(runs)
    answers = [prob[used] for prob in oof]
    rows, target = mended[used], as_array(rules.form.targets(mended.label[used], classes))
    fold, group = rows.fold.to_numpy(), rows.group.to_numpy()
    how = Blend(mean, rules.form.kind == "chances")
    held = Held(answers, target, fold, group, rules.metric, how)
    return fit(held, names, [member.weight for member in members])


def fit(held: Held, names: Sequence[str], weights: Sequence[float]) -> dict[str, Any]:
    """For a record: the weights to use, those that were fitted, and the scores of both.

    `nested` is the score of weights that are fitted for each fold on all others; `low` and `high`
    are the 95 % interval of its gain over the `weights` that were given. Only where all of that is
    a gain the fitted weights are taken.
    """
    terms, given = held.blend.terms(held.answers), np.array(weights) / sum(weights)
    every, nested = np.ones(len(held.target), dtype=bool), np.empty_like(held.answers[0])
    for fold in np.unique(held.fold):
        out = held.fold == fold
        nested[out] = held.of(terms, out, climb(held, terms, ~out))
    found = climb(held, terms, every)
    probs = [held.of(terms, every, given), nested, held.of(terms, every, found)]
    before, after, seen = (METRICS[held.metric](held.target, prob) for prob in probs)
    draws = bootstrap(held.target, probs[:2], held.metric, held.group)
    low, high = middle(sign_of(held.metric) * (draws[:, 1] - draws[:, 0]))
    scores = {"given": before, "nested": after, "fitted": seen, "low": low, "high": high}
    return {
        "runs": list(names),
        "weights": (found if low > 0 else given).tolist(),
        "climbed": found.tolist(),
        "taken": bool(low > 0),
        **{name: round(float(value), 5) for name, value in scores.items()},
    }


def climb(held: Held, terms: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Weights float [k]: the bag of runs, drawn with replacement, that scored best on `rows`.

    Ensemble selection (Caruana et al. 2004): the run is added that makes the bag's score best,
    ROUNDS times; of the bags on the way the first of the best.
    """
    terms, target = [term[rows] for term in terms], held.target[rows]
    bag, best, at = np.zeros(len(terms)), (-np.inf, -np.inf), np.zeros(len(terms))
    for _ in range(ROUNDS):
        bags = bag + np.eye(len(terms))
        values = [_value(held, target, held.blend.averaged(terms, one)) for one in bags]
        first = max(range(len(bags)), key=values.__getitem__)
        bag = bags[first]
        if values[first] > best:
            best, at = values[first], bag
    return at / at.sum()


def _value(held: Held, target: np.ndarray, prob: np.ndarray) -> tuple[float, float]:
    """The metric, more being better; of equals that of the likelier answers."""
    score = sign_of(held.metric) * METRICS[held.metric](target, prob)
    return round(score, 9), -METRICS["log_loss"](target, prob) if target.ndim == 1 else 0.0


def nested_weights(record: dict[str, Any]) -> float | None:
    """The score by weights that are fitted without the fold they blend, by a blend's record; None
    where they are not fitted."""
    found = record.get("fitted", {})
    return found["nested"] if found.get("taken") else None


def in_words(found: dict[str, Any], metric: str) -> list[str]:
    """What came of fitting, for people: two lines."""
    parts = zip(found["climbed"], found["runs"], strict=True)
    weights = " + ".join(f"{weight:.2f} {name}" for weight, name in parts if weight)
    gain = sign_of(metric) * (found["nested"] - found["given"])
    interval = f"{gain:+.4f} nested, 95 % interval {found['low']:+.4f} to {found['high']:+.4f}"
    verdict = "taken" if found["taken"] else "no more than luck, the given weights stay"
    return [f"fitted weights: {weights}", f"{metric} better by {interval}: {verdict}"]
