"""Stage 5: blend the folds of one or more runs, and score members and blend.

reads   runs/RUN/foldK/{oof,test}.TTA.npz of each run, the folds file, labels/COMPETITION.csv;
        of other people FOLDER/{oof,test}.{npz,csv}
writes  runs/NAME/{oof,test}.npz and their record with the scores, runs/NAME/report.html
run     python -m pipeline.ensemble resnet50d convnext_tiny:2 --name blend
        python -m pipeline.ensemble blend seresnext50 theirs/ --weights fit --name last

Folds count equally; runs too, unless RUN:WEIGHT says otherwise; a blend counts as its members.
--weights fit climbs by out-of-fold scores, and takes what it finds if the nested gain is real. Rows
and columns are matched by id and class name. Runs on different folds are refused: their blended
score would leak. --fold 0 makes runs/RUN-fold0, a first submission before the other folds are
trained.
"""

import time
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from pipeline.analysis.answered import held_out, studies_of
from pipeline.analysis.blend_weights import fitted, in_words
from pipeline.analysis.decided import decision_in_words, decisions, task_key
from pipeline.analysis.members import Member, is_blend, load_members, refuse_mixed
from pipeline.base import records
from pipeline.base.cli import UserError, mean_std, run_stage, say, short, took, warn
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import TTA, load_experiment, root
from pipeline.base.derived import SeedOption, seeds_of
from pipeline.base.forms import as_array
from pipeline.base.runs import BLEND_VERSION, GIVEN, cv_of, has_oof
from pipeline.base.settings import checked_name
from pipeline.data.decisions import Changes, load_changes
from pipeline.data.splits import classes_of, folds_digest, load_folds, slices
from pipeline.data.studies import by_id
from pipeline.inference.blending import Blend, Mean
from pipeline.inference.metrics import METRICS
from pipeline.inference.predictions import Predictions

FIT = 2  # version of how weights are fitted


class Weights(StrEnum):
    GIVEN = "given"  # equal, or as RUN:WEIGHT says
    FIT = "fit"


def main(
    runs: Annotated[list[str], typer.Argument(help="RUN, BLEND or FOLDER/, alone or :WEIGHT")],
    name: Annotated[str | None, typer.Option(help="default: the run, when it is one")] = None,
    fold: Annotated[list[int] | None, typer.Option(help="only these folds")] = None,
    tta: Annotated[TTA | None, typer.Option(help="default: each run's own; its sizes stay")] = None,
    seed: SeedOption = None,
    weights: Annotated[Weights, typer.Option(help="fit: to out-of-fold scores")] = Weights.GIVEN,
    mean: Annotated[Mean, typer.Option(help="of what")] = Mean.PROBABILITIES,
    no_report: Annotated[bool, typer.Option("--no-report", help="without the page")] = False,
) -> None:
    if name is not None:
        checked_name(name, "--name")
    members = load_members(runs, seed, fold, tta, mean)
    first, some = members[0].settings, members[0].folds
    if len(some) == first.folds.n:
        some = []
    if name is None:
        if len(runs) > 1 or is_blend(runs[0].partition(":")[0]):
            raise UserError("several runs need a --name")
        name = name_of(runs[0].partition(":")[0], seed, some)
    started, out = time.monotonic(), root("runs") / name / "test.npz"
    table, changes = load_folds(first), load_changes(first)
    rules, folds = load_competition(first.competition), folds_digest(table)
    refuse_mixed(members, folds)
    key = {
        "version": BLEND_VERSION,
        "competition": first.competition,
        "folds": folds,
        **members_key(members),
        **changes.key(),
        **({"only": some, "of": first.folds.n} if some else {}),
        **({"mean": mean} if mean != Mean.PROBABILITIES else {}),
        **task_key(rules, mean),
    }
    facts: dict[str, Any] = {}
    if weights == Weights.FIT:
        key["fit"] = {"version": FIT, "of": records.digest(key)}
        found = fitted(members, table, changes, rules, mean, key["fit"], out)
        facts, members = {"fitted": found}, weighted(members, found["weights"])
        key |= members_key(members)
    if (before := records.load(out)) and not has_oof(out, before):
        records.record_path(out).unlink(missing_ok=True)  # both files are made anew
    work = partial(blend, members, table, changes, rules, out, mean, facts)
    made, record = records.make(out, key, work), records.load(out)
    print_scores(record)
    say("ensemble", f"{out.parent}/{{oof,test}}.npz, {took(started) if made else 'up to date'}")
    if not no_report and cv_of(record)["folds"]:  # of held-out ones
        tell(out.parent.name)


def weighted(members: list[Member], weights: list[float]) -> list[Member]:
    """Those of some weight; before answers of others comes a run, whose settings are asked for."""
    pairs = zip(members, weights, strict=True)
    found = [replace(member, weight=weight) for member, weight in pairs if weight]
    own = [replace(members[0], weight=0.0)] if found[0].views == GIVEN else []
    return own + found


def members_key(members: list[Member]) -> dict[str, Any]:
    """Their shares, views and prediction files."""
    total = sum(member.weight for member in members)
    return {
        "weights": {m.name: m.weight / total for m in members},
        "members": {m.name: {"tta": m.views, **m.digests} for m in members},
    }


def blend(
    members: list[Member],
    table: pd.DataFrame,
    changes: Changes,
    rules: Competition,
    out: Path,
    mean: Mean,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write `out` (test) and its oof twin; return the scores of each member and of the blend,
    what they are scores of, and the `facts` that are known before.

    Test probabilities are the weighted mean over all fold models; an out-of-fold row comes from
    the one model of each member that has not seen it. Scores are by the labels as decided,
    without what is left out, which has probabilities for all that.
    """
    first, kind, classes = members[0], rules.form.kind, classes_of(table, rules.form)
    runs = {member.name: member.views for member in members}
    mended, oof = held_out(first.settings, runs, first.folds, table, changes, classes)
    weights = [member.weight for member in members]
    test_ids = Predictions.load(first.path(first.folds[0], "test")).image
    how = Blend(mean, kind == "chances")
    found = how(oof, weights)
    names = studies_of(first.settings, "test", test_ids)

    def answers(member: Member, fold: int) -> np.ndarray:
        prob = Predictions.load(member.path(fold, "test")).aligned(test_ids, classes)
        return by_id(names, prob, rules)[1] if names else prob

    tests = ([answers(member, fold) for fold in member.folds] for member in members)
    test = how.of_folds(tests, weights)
    records.record_path(out).unlink(missing_ok=True)  # it is of both files
    if len(mended):
        beside = out.with_name("oof.npz")
        Predictions(list(mended.image), classes, found, kind=kind).save(beside)
        facts["oof"] = records.fingerprint(beside)
    Predictions(list(dict.fromkeys(names or test_ids)), classes, test, kind=kind).save(out)
    scores = {
        f"{member.name} {member.views}": score(mended, prob, classes, rules)
        for member, prob in zip(members, oof, strict=True)
    }
    if len(members) > 1:
        scores["blend"] = score(mended, found, classes, rules)
    facts |= decisions(mended, found, classes, rules, changes.applied(table))
    return {"metric": rules.metric, "scores": scores, **facts}


def score(
    scored: pd.DataFrame, prob: np.ndarray, classes: list[str], rules: Competition
) -> dict[str, Any]:
    """The metric per fold and on slices of the held-out rows."""
    used = (scored.fold >= 0).to_numpy()  # not what decisions leave out
    scored, prob = scored[used], prob[used]
    target = as_array(rules.form.targets(scored.label, classes))
    folds = sorted(scored.fold.unique())

    def on(rows: np.ndarray) -> float:
        return round(METRICS[rules.metric](target[rows], prob[rows]), 5)

    parts = slices(scored, rules)
    return {
        "folds": [on((scored.fold == fold).to_numpy()) for fold in folds],
        **{name: on(rows) for name, rows in parts.items() if rows.any()},
        "rows": {name: int(rows.sum()) for name, rows in parts.items()},
    }


def print_scores(record: dict[str, Any]) -> None:
    wide = max(len(name) for name in record["scores"]) + 2
    rows = cv_of(record)["rows"]
    heads = {part: f"{part.replace('_', ' '):<8}" for part in rows} | {"all": "OOF all "}
    head = "  ".join(heads.values())
    print(f"{record['metric']:<{wide}}  CV mean ± std    {head}".rstrip())
    for name, scores in record["scores"].items():
        cells = ((f"{scores[p]:.4f}" if p in scores else "-", len(heads[p])) for p in heads)
        line = "  ".join(f"{cell:<{n}}" for cell, n in cells)
        print(f"{name:<{wide}}  {mean_std(scores['folds'])}  {line}".rstrip())
    if found := record.get("fitted"):
        for line in in_words(found, record["metric"]):
            say("ensemble", line)
    if "decided" in record:
        say("ensemble", decision_in_words(record))
    if "untouched" in rows:
        labels = record["key"]["labels"].partition(" (")[0]
        what = "ids" if "picture" in record["key"] else "pictures"
        say("ensemble", f"labels: {labels}; untouched: the other {rows['untouched']:,} {what}")


def tell(name: str) -> None:
    """Write the page about a blend, unless there is one. Without it the blend is done as well."""
    from pipeline.pages.compose import is_reported, report_path, write_report  # late: they draw

    started = time.monotonic()
    try:
        if made := not is_reported(name):
            write_report(name, full=False)
    except Exception as error:  # whatever it is: the scores stand
        warn("report", f"none was written: {short(error)}")
        return
    say("report", f"{report_path(name)}, {took(started) if made else 'up to date'}")


def name_of(experiment: str, seeds: list[int] | None, folds: list[int]) -> str:
    """The experiment's, unless these are some of its folds, or other seeds than its file lists."""
    other = seeds if seeds and set(seeds) != set(seeds_of(experiment)) else []
    parts = {"seed": sorted(set(other)), "fold": folds}
    named = [f"-{part}{'-'.join(map(str, some))}" for part, some in parts.items() if some]
    return load_experiment(experiment).name + "".join(named)


if __name__ == "__main__":
    run_stage(main)
