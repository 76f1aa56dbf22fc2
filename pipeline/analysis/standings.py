"""What `compare --lb` tells of submissions: their luck, their prospects, the two to select."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

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
from pipeline.analysis.paired import MEANS, held_out, per_row, refuse_foreign
from pipeline.base.cli import UserError, print_table, say, short, warn
from pipeline.base.config import root
from pipeline.base.runs import cv_of, load_blend
from pipeline.inference.metrics import sign_of
from pipeline.kaggle.api.upload import ledger_path, mean_of, read_ledger


def print_leaderboard(names: list[str], share: float) -> None:
    """CV against the leaderboard, what may change on its private part, and what to select.

    Raises UserError where there are no scores of Kaggle.
    """
    wanted = ("public", "cv", "oof")
    scored = [
        row for row in read_ledger() if row["status"] == "complete" and all(map(row.get, wanted))
    ]
    if not scored:
        text = "no submission has a score; python -m pipeline.submit NAME --upload gets one"
        raise UserError(f"{ledger_path()}: {text}")
    table = pd.DataFrame(scored).astype(dict.fromkeys(wanted, float))
    for (slug, metric), rows in table.groupby(["slug", "metric"], sort=False):
        print_offset(slug, rows)
        kept = [name for name in dict.fromkeys(rows.name) if is_scored_by(metric, name)]
        chosen = names if set(names) & set(kept) else [] if names else comparable(kept)
        runs = [*evidence_of(chosen, strict=bool(names))]
        if len(runs) > 1:
            print_pick(runs, rows, share)


def evidence_of(names: list[str], strict: bool) -> Iterator[Evidence]:
    """Of blends; where they were not named, those that are no longer what was blended are told."""
    for name in names:
        try:
            yield untouched(load_evidence(name))
        except UserError as error:
            if strict:
                raise
            warn("compare", f"left out: {short(error)}")


def is_scored_by(metric: str, name: str) -> bool:
    """Whether there is a blend of a name, with scores by a metric."""
    there = (root("runs") / name / "test.npz").exists()
    return there and load_blend(name)[1]["metric"] == metric


def comparable(names: list[str]) -> list[str]:
    """Blends of the pictures that most of them held out; the others are named."""
    split = {name: held_out(load_blend(name)[1]) for name in names}
    [(most, _)] = Counter(split.values()).most_common(1) or [(None, 0)]
    if others := [name for name in names if split[name] != most]:
        text = "they held out other pictures; name those that you mean"
        say("compare", f"left out: {', '.join(others)}: {text}")
    return [name for name in names if split[name] == most]


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


def print_pick(runs: list[Evidence], rows: pd.DataFrame, share: float) -> None:
    """What held-out and public pictures say together, and which two submissions to select."""
    refuse_foreign({one.name: one.record for one in runs})
    names, known = [one.name for one in runs], public_scores()
    cvs = [mean_of(cv_of(one.record)["folds"]) for one in runs]  # else of a former blend
    public = np.array([known.get(key, np.nan) for key in zip(names, cvs, strict=True)])
    # of OOF, as what is believed: CV, a mean of folds, may lie elsewhere
    offset, sign = float(np.median(rows.public - rows.oof)), sign_of(runs[0].record["metric"])
    n_public = round(share * len(runs[0].test))
    n_private = len(runs[0].test) - n_public
    here = believe(runs)
    both = here.updated(sign * (public - offset), n_public)
    expected = sign * both.score + offset
    shown = [[number(x) for x in column] for column in (sign * here.score, public, expected)]
    lines = list(zip(names, *shown, strict=True))
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
    print_advice(runs, both, n_private)


def print_advice(runs: list[Evidence], both: Belief, n_private: int) -> None:
    """Which two to select, and what that choice has been worth on the held-out pictures."""
    best, metric = np.argsort(-both.score, kind="stable")[:2], runs[0].record["metric"]
    pair = pick_two(both, n_private)
    if len(runs) > 2 and metric in MEANS:
        each = [per_row(run.target, run.prob, metric) for run in runs]
        gain = judge_picks(sign_of(metric) * np.stack(each, 1))
        better, worse = (gain > 0).mean(), (gain < 0).mean()
        text = f"{gain.mean():+.5f} ({better:.0%} up, {worse:.0%} down)"
        say("compare", f"two that differ against the two best, on held-out halves: {text}")
        pair = pair if gain.mean() > 0 else best
    first, second = (runs[i] for i in pair)
    text = "which are the two best" if set(pair) == set(best) else "not the two best"
    differ = int((first.errors != second.errors).sum())
    say("compare", f"select {first.name} and {second.name}: {text}, {differ} pictures differ")
