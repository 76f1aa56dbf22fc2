"""The thresholds, cuts or powers of a blend, and their worth: fitted on OOF, judged nested."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.paired import FEW_DRAWS, resamples
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.forms import as_array, stem_of
from pipeline.inference.blending import Mean
from pipeline.inference.thresholds import DECIDED, SCALED, SHARPENED, as_sure, judge, usual

MOST_NUMBERS = 6  # of a decision that are told


def task_key(rules: Competition, mean: str) -> dict[str, Any]:
    """For a blend's key: what of the competition's rules its scores and decisions depend on.

    Raises UserError for a mean that is of probabilities.
    """
    if (rules.form.kind == "numbers" or rules.picture) and mean != Mean.PROBABILITIES:
        raise UserError(f"--mean {mean} is of probabilities, and of one picture an id")
    key: dict[str, Any] = {"picture": rules.picture} if rules.picture else {}
    if rules.plugins:
        key["plugins"] = rules.key()["plugins"]
    if rules.of_pictures != "mean":
        key["of_pictures"] = rules.of_pictures
    if sharpens(rules):
        key["sharpened"] = True
    if rules.task != "classes":
        key["task"] = {"name": rules.task, "metric": rules.metric, "answers": rules.submission}
    elif rules.metric != "accuracy":
        key["metric"] = [rules.metric, rules.submission, rules.k]
    if rules.task == "binary" and rules.positive != "1":
        key["positive"] = rules.positive
    return key


def sharpens(rules: Competition) -> bool:
    """Whether the score depends on how sure probabilities are."""
    return rules.submission == "probability" and rules.metric in SHARPENED


def decisions(
    scored: pd.DataFrame,
    prob: np.ndarray,
    classes: list[str],
    rules: Competition,
    table: pd.DataFrame,
) -> dict[str, Any]:
    """For a blend's record: by what its answers are decided, where the metric wants that.

    `scored` are the rows of the folds file that `prob` [n, classes] holds out, `table` are all of
    them: of the levels that there are a fold may lack some.
    """
    wanting = (SCALED if rules.k == 1 else set()) if rules.task == "classes" else DECIDED
    by_label = rules.submission == "label" and stem_of(rules.metric) in wanting
    if not (by_label or sharpens(rules)):
        return {}
    used = (scored.fold >= 0).to_numpy()  # not what decisions about labels leave out
    scored, prob = scored[used], prob[used]
    kind, every = rules.form.kind, as_array(rules.form.targets(table.label, classes))
    start = as_sure(kind) if sharpens(rules) else usual(every, prob, kind, rules.form.some)
    if scored.fold.nunique() < 2:  # nothing to judge by
        return {"decision": start.fact}
    target, fold = as_array(rules.form.targets(scored.label, classes)), scored.fold.to_numpy()
    counts = resamples(scored.group, FEW_DRAWS)
    draws = (np.repeat(np.arange(len(target)), count) for count in counts)
    return judge(start, target, prob, fold, rules.metric, draws).facts


def decision_in_words(record: dict[str, Any]) -> str:
    """What a blend's record says of its decision."""
    made, found = record["decision"], record["decided"]
    words = {"numbers": "cuts", "scales": "scales"}
    what = "powers" if "power" in made["kind"] else words.get(made["kind"], "thresholds")
    numbers = ", ".join(f"{number:.3g}" for number in made["numbers"][:MOST_NUMBERS])
    if (more := len(made["numbers"]) - MOST_NUMBERS) > 0:
        numbers += f" and {more} more"
        if len(set(made["numbers"])) == 1:
            numbers = f"{made['numbers'][0]:.3g} for all {len(made['numbers']):,}"
    gain = f"{found['nested'] - found['usual']:+.4f} nested"
    interval = f"95 %: {found['low']:+.4f} to {found['high']:+.4f}"
    end = f"{what} {numbers}" if found["taken"] else f"the usual {what} stay"
    return f"fitted {what} give {record['metric']} {gain}, {interval}: {end}"
