"""Runs side by side, and for two: is one better, or luckier? With --lb: and the leaderboard?

reads   runs/NAME/{oof,test}.npz and the records of their models; --lb: submissions/ledger.csv
run     python -m pipeline.compare demo demo-mixed
        python -m pipeline.compare --lb --public 0.3

Without names all finished runs are listed, by competition and folds. Two runs are compared on the
same held-out pictures, the second against the first.
"""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from pipeline.analysis.evidence import Evidence, load_evidence, untouched
from pipeline.analysis.leaderboard import sign_of
from pipeline.analysis.paired import changed_sides, held_out, paired, refuse_foreign
from pipeline.analysis.standings import print_leaderboard
from pipeline.base import records
from pipeline.base.cli import (
    UserError,
    duration,
    mean_std,
    print_table,
    run_stage,
    say,
    short,
    warn,
)
from pipeline.base.config import root
from pipeline.base.runs import cv_of, folds_of, load_blend, model_path
from pipeline.training.keys import in_todays_terms

Blends = dict[str, dict[str, Any]]  # name: record
SHOWN = 10  # pictures that changed sides


def main(
    names: Annotated[list[str] | None, typer.Argument(help="runs or blends; default all")] = None,
    lb: Annotated[bool, typer.Option("--lb", help="hold CV against the leaderboard")] = False,
    public: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="share of the test that is public")
    ] = 0.3,
) -> None:
    names = list(dict.fromkeys(Path(n).stem if n.endswith(".yaml") else n for n in names or []))
    if lb:
        print_leaderboard(names, public)
    elif names:
        blends = {name: load_blend(name)[1] for name in names}
        refuse_foreign(blends)
        print_runs(blends)
        if len(names) == 2:
            print_pair(*(untouched(load_evidence(name)) for name in names))
    else:
        for group in every_group():
            print_runs(group)


def every_group() -> list[Blends]:
    """All finished runs and blends by competition and folds. Raises UserError for none at all."""
    groups: dict[tuple[str, str, tuple[int, ...]], Blends] = {}
    for path in sorted(root("runs").glob("*/test.npz")):
        try:
            name, record = path.parent.name, load_blend(path.parent.name)[1]
            groups.setdefault(held_out(record), {})[name] = record
        except UserError as error:
            warn("compare", f"left out: {error}")
    if not groups:
        raise UserError(f"{root('runs')}: no finished run; ./run.sh EXPERIMENT makes one")
    return [groups[key] for key in sorted(groups)]


def print_runs(blends: Blends) -> None:
    """A table, the best CV first."""
    one = next(iter(blends.values()))
    metric, competition = one["metric"], Path(one["key"]["competition"]).stem
    rows = [(cv_of(record), name, record) for name, record in blends.items()]
    rows.sort(key=lambda row: -sign_of(metric) * sum(row[0]["folds"]) / len(row[0]["folds"]))
    folds = len(rows[0][0]["folds"])
    print_table(
        [
            [name, mean_std(cv["folds"]), f"{cv['all']:.4f}", *made_of(record)]
            for cv, name, record in rows
        ],
        ["run", "CV mean ± std", "OOF", "training", "px", "backbone"],
        f"{competition}, {metric}, {folds} folds",
    )


def made_of(blend: dict[str, Any]) -> list[str]:
    """Seconds of training, picture size and backbone of a blend's members, as text."""
    models = [models_of(run, folds_of(blend)) for run in blend["key"]["members"]]
    known = [found[0]["key"]["model"] for found in models if found]
    if len(known) < len(models):
        return ["?"] * 3
    return [
        duration(sum(model["seconds"] for found in models for model in found)),
        " + ".join(dict.fromkeys(str(how["size"]) for how in known)),
        " + ".join(dict.fromkeys(how["backbone"] for how in known)),
    ]


def models_of(run: str, folds: list[int]) -> list[dict[str, Any]]:
    """Records of the models of these folds."""
    found = (records.load(model_path(run, fold)) for fold in folds)
    return [record for record in found if record]


def print_pair(a: Evidence, b: Evidence) -> None:
    """What `b` has won and lost against `a`, by chance or not, and by which settings."""
    found, metric = paired(a, b), a.record["metric"]
    differ, lead = found.won + found.lost, found.won - found.lost
    say("compare", f"{b.name} against {a.name}, on {len(a.target):,} held-out pictures:")
    interval = f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
    less = " (less is better)" if sign_of(metric) < 0 else ""
    say("compare", f"{metric}{less} {found.delta:+.4f}, {interval}")
    say("compare", f"{differ} differ: {found.won} won, {found.lost} lost (p {found.p:.2g})")
    if found.needed is None:
        text = "too few differ for any lead to matter: it takes 6"
    else:
        verdict = "no more than luck" if abs(lead) < found.needed else "more than luck"
        text = f"of {differ} a lead of {found.needed} is needed, it is {lead:+d}: {verdict}"
    say("compare", text)
    for change in setting_changes(a, b):
        say("compare", f"setting  {short(change, 61)}")
    print_sides(changed_sides(a, b), a.name, b.name)


def setting_changes(a: Evidence, b: Evidence) -> list[str]:
    """Settings that differ between two runs; of blends their members and weights."""
    if max(len(a.members), len(b.members)) > 1:
        return records.differences(a.record["key"]["weights"], b.record["key"]["weights"])
    return records.differences(*map(settings_of, (a, b)))


def settings_of(one: Evidence) -> dict[str, Any]:
    """Of the blend's one run, as its record tells them: some may be retired since."""
    [(run, member)] = one.record["key"]["members"].items()
    key = in_todays_terms(records.load(model_path(run, one.folds[0]))["key"])
    science = {part: key[part] for part in ("model", "augment", "mix", "train")}
    return {**science, "tta": member["tta"]}


def print_sides(sides: pd.DataFrame, a: str, b: str) -> None:
    """The clearest of the pictures that one of both alone has right."""
    for side, wrong, name in (("won", "a", a), ("lost", "b", b)):
        rows = sides[sides.side == side]
        more = f", the clearest {SHOWN}" if len(rows) > SHOWN else ""
        changes = [f"{x:.2f} → {y:.2f}" for x, y in zip(rows.prob_a, rows.prob_b, strict=True)]
        cells = list(zip(rows.image, rows.label, rows[wrong], changes, strict=True))[:SHOWN]
        head = ["picture", "label", f"{name} says", "p(label)"]
        if cells:
            print_table(cells, head, f"{side} by {b}: {len(rows)}{more}")


if __name__ == "__main__":
    run_stage(main)
