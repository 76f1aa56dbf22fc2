"""What `compare --lb` tells of submissions: their luck, their prospects, the two to select."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.blend_weights import nested_weights
from pipeline.analysis.evidence import Evidence, load_evidence, untouched
from pipeline.analysis.leaderboard import (
    LEAST,
    LUCK,
    Belief,
    believe,
    chance_to_lead,
    fit_offset,
    judge_picks,
    pick_two,
)
from pipeline.analysis.listing import number, public_scores
from pipeline.analysis.paired import MEANS, per_row, refuse_foreign, scored_on
from pipeline.base.cli import UserError, print_table, say, short, warn
from pipeline.base.config import root
from pipeline.base.runs import cv_of, load_blend
from pipeline.inference.metrics import sign_of
from pipeline.kaggle.api.upload import ledger_path, mean_of, read_ledger

Blends = dict[str, dict[str, Any]]  # records by name


def print_leaderboard(names: list[str], share: float, hidden: int | None = None) -> None:
    """CV against the leaderboard, what may change on its private part, and what to select.

    `share` of the test is public, which has as many pictures as here, or `hidden` ones. Raises
    UserError where there are no scores of Kaggle.
    """
    wanted = ("public", "cv", "oof")
    scored = [
        row for row in read_ledger() if row["status"] == "complete" and all(map(row.get, wanted))
    ]
    if not scored:
        text = "no submission has a score; python -m pipeline.submit NAME --upload gets one"
        raise UserError(f"{ledger_path()}: {text}")
    for name in names:
        load_blend(name)  # else one that is misspelt would be passed over
    table, told = pd.DataFrame(scored).astype(dict.fromkeys(wanted, float)), False
    for (slug, metric), rows in table.groupby(["slug", "metric"], sort=False):
        kept = blends_by(metric, rows.name)
        rows = as_decided(rows, kept)
        print_offset(slug, rows)
        chosen = names if kept.keys() & names else [] if names else comparable(kept)
        runs = [*evidence_of(chosen, strict=bool(names))]
        if len(runs) > 1:
            print_pick(runs, rows, share, hidden)
            told = True
    if names and not told:
        text = "name two, one of which has a score of Kaggle at least"
        say("compare", f"which two to select: {text}")


def evidence_of(names: list[str], strict: bool) -> Iterator[Evidence]:
    """Of blends; where they were not named, those that are no longer what was blended are told."""
    for name in names:
        try:
            yield untouched(load_evidence(name))
        except UserError as error:
            if strict:
                raise
            warn("compare", f"left out: {short(error)}")


def as_decided(rows: pd.DataFrame, blends: Blends) -> pd.DataFrame:
    """The ledger with CV and OOF by what decided the answers that were sent, as judged on other
    folds: a record's are those of plain answers, Kaggle's are not."""
    rows = rows.copy()
    for name, record in blends.items():
        if gain := fitted_gain(record):
            sent = (rows.name == name) & (rows.cv == float(mean_of(cv_of(record)["folds"])))
            rows.loc[sent, ["cv", "oof"]] += gain
            say("compare", f"{name}: its CV as fitted on other folds, {gain:+.4f}")
    return rows


def fitted_gain(blend: dict[str, Any]) -> float:
    """What thresholds, cuts or powers that a blend took are worth on other folds, less what its
    fitted weights lose there."""
    made, weights = blend.get("decided", {}), nested_weights(blend)
    gain = made["nested"] - made["usual"] if made.get("taken") else 0.0
    return gain if weights is None else gain + weights - blend["fitted"]["fitted"]


def blends_by(metric: str, names: Iterable[str]) -> Blends:
    """Those of the names that are blends, with scores by a metric."""
    there = [n for n in dict.fromkeys(names) if (root("runs") / n / "test.npz").exists()]
    found = {name: load_blend(name)[1] for name in there}
    return {name: record for name, record in found.items() if record["metric"] == metric}


def comparable(blends: Blends) -> list[str]:
    """Blends of the pictures that most of them held out; the others are named."""
    split = {name: scored_on(record) for name, record in blends.items()}
    [(most, _)] = Counter(split.values()).most_common(1) or [(None, 0)]
    if others := [name for name in split if split[name] != most]:
        text = "they held out other pictures; name those that you mean"
        say("compare", f"left out: {', '.join(others)}: {text}")
    return [name for name in split if split[name] == most]


def print_offset(slug: str, rows: pd.DataFrame) -> None:
    """Each submission's public score beside its CV, and what lies between the two."""
    found = fit_offset(rows.cv.to_numpy(), rows.public.to_numpy())
    lucky = np.abs(found.luck) > LUCK if found else np.zeros(len(rows), dtype=bool)
    shown = rows.assign(gap=rows.public - rows.cv, luck=np.where(lucky, "luck", ""))
    print_table(
        [
            [r.name, r.time[:16], number(r.cv), number(r.public), f"{r.gap:+.4f}", r.luck]
            for r in shown.itertuples(index=False)
        ],
        ["submission", "sent", "CV", "public", "public - CV", ""],
        f"{slug}, {rows.metric.iloc[0]}: {len(rows)} submissions with a score",
    )
    if found is None:
        text = f"an offset between CV and leaderboard takes {LEAST} submissions with a score"
        say("compare", f"{text}, here are {len(rows)}")
        return
    say("compare", f"public = CV {found.offset:+.4f} ± {found.error:.4f}")
    for name, luck in zip(rows.name[lucky], found.luck[lucky], strict=True):
        text = f"{name} is {luck:+.1f} deviations from that: luck, which private will hardly repeat"
        say("compare", text)


def print_pick(runs: list[Evidence], rows: pd.DataFrame, share: float, hidden: int | None) -> None:
    """What held-out and public pictures say together, and which two submissions to select."""
    refuse_foreign({one.name: one.record for one in runs})
    shown = len(runs[0].test)
    if hidden is None and runs[0].rules.code_competition:
        text = f"the hidden test has more pictures than the {shown} here: --test says how many"
        return say("compare", f"which two to select: {text}")
    names, known = [one.name for one in runs], public_scores()
    cvs = [mean_of(cv_of(one.record)["folds"]) for one in runs]  # else of a former blend
    public = np.array([known.get(key, np.nan) for key in zip(names, cvs, strict=True)])
    sign, here = sign_of(runs[0].record["metric"]), believe(runs)
    gains = np.array([fitted_gain(one.record) for one in runs])
    here = here._replace(score=here.score + sign * gains)
    # off what is believed: CV is a mean of folds, OOF of pictures that decisions changed, too
    every = [cv_of(one.record)["all"] for one in runs] + gains
    offset = float(np.median(rows.public - rows.oof) + np.median(every - sign * here.score))
    n_public = round(share * (hidden or shown))
    n_private = max(1, (hidden or shown) - n_public)
    both = here.updated(sign * (public - offset), n_public)
    expected = sign * both.score + offset
    columns = [[number(x) for x in column] for column in (sign * here.score, public, expected)]
    lines = list(zip(names, *columns, strict=True))
    print_table(
        [lines[i] for i in np.argsort(-both.score)],
        ["run", "OOF", "public", "private, expected"],
        f"{here.rows:,} held-out and {n_public:,} public pictures together",
    )
    first, second = np.argsort(-sign * public)[:2]
    if not np.isnan(public[second]):
        swap = chance_to_lead(both, second, first, n_private)
        text = f"{names[first]} leads {names[second]} by {abs(public[first] - public[second]):.4f}"
        say("compare", f"{text} in public; that it is behind in private: {swap:.0%}")
    return print_advice(runs, both, n_private)


def print_advice(runs: list[Evidence], both: Belief, n_private: int) -> None:
    """Which two to select, and what that choice has been worth on the held-out pictures."""
    best, metric = np.argsort(-both.score, kind="stable")[:2], runs[0].record["metric"]
    pair = pick_two(both, n_private)
    if len(runs) > 2 and metric in MEANS:
        each = [per_row(run.target, run.prob, metric) for run in runs]
        gain = judge_picks(sign_of(metric) * np.stack(each, 1), runs[0].table.group)
        better, worse = (gain > 0).mean(), (gain < 0).mean()
        text = f"{gain.mean():+.5f} ({better:.0%} up, {worse:.0%} down)"
        say("compare", f"two that differ against the two best, on held-out halves: {text}")
        pair = pair if gain.mean() > 0 else best
    first, second = (runs[i] for i in pair)
    text = "which are the two best" if set(pair) == set(best) else "not the two best"
    differ = int((first.errors != second.errors).sum())
    say("compare", f"select {first.name} and {second.name}: {text}, {differ} pictures differ")
