"""Runs side by side, and for two: is one better, or luckier? With --lb: and the leaderboard?

reads   runs/NAME/{oof,test}.npz and the records of their models; --lb: submissions/ledger.csv
run     python -m pipeline.compare demo demo-mixed
        python -m pipeline.compare --lb --public 0.3

Two runs are compared on the same held-out pictures, the second against the first. All that there
are: python -m pipeline.runs.
"""

from typing import Annotated, Any

import pandas as pd
import typer

from pipeline.analysis.blend_weights import nested_weights
from pipeline.analysis.evidence import Evidence, load_evidence, untouched
from pipeline.analysis.listing import SCIENCE, blend_row, print_rows
from pipeline.analysis.paired import changed_sides, counts_lead, is_luck, paired, refuse_foreign
from pipeline.analysis.standings import print_leaderboard
from pipeline.base import records
from pipeline.base.cli import UserError, print_table, run_stage, say, short
from pipeline.base.runs import load_blend, model_path
from pipeline.base.yaml_files import run_name
from pipeline.inference.metrics import sign_of
from pipeline.training.keys import in_todays_terms

SHOWN = 10  # pictures that changed sides
WON = {"chances": " (more labels right)", "numbers": " (nearer)"}
MEASURED = {"shares": "p(label)", "chances": "labels wrong", "numbers": "off by"}


def main(
    names: Annotated[list[str] | None, typer.Argument(help="runs or blends")] = None,
    lb: Annotated[bool, typer.Option("--lb", help="hold CV against the leaderboard")] = False,
    public: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="share of the test that is public")
    ] = 0.3,
    test: Annotated[
        int | None, typer.Option(min=2, help="how many pictures --lb's hidden test has")
    ] = None,
) -> None:
    names = list(dict.fromkeys(map(run_name, names or [])))
    if lb:
        print_leaderboard(names, public, test)
        return
    if not names:
        raise UserError("which runs? python -m pipeline.runs lists them")
    blends = {name: load_blend(name)[1] for name in names}
    refuse_foreign(blends)
    print_rows([blend_row(name, record, {}) for name, record in blends.items()])
    if len(names) == 2:
        print_pair(*(untouched(load_evidence(name)) for name in names))


def print_pair(a: Evidence, b: Evidence) -> None:
    """What `b` has won and lost against `a`, by chance or not, and by which settings."""
    found, metric = paired(a, b), a.record["metric"]
    differ, lead = found.won + found.lost, found.won - found.lost
    what, won = ("ids" if a.rules.picture else "pictures"), WON.get(a.kind, "")
    say("compare", f"{b.name} against {a.name}, on {len(a.target):,} held-out {what}:")
    interval = f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
    less = " (less is better)" if sign_of(metric) < 0 else ""
    say("compare", f"{metric}{less} {found.delta:+.4f}, {interval}")
    if all("decided" in one.record for one in (a, b)):
        judged = [one.record["decided"] for one in (a, b)]
        nested = [one["nested" if one["taken"] else "usual"] for one in judged]
        say("compare", "as decided, nested: {:.4f} → {:.4f}".format(*nested))
    for one in (a, b):
        if (score := nested_weights(one.record)) is not None:
            text = f"its weights are fitted on these pictures; nested {score:.4f}"
            say("compare", f"{one.name}: {text}")
    by_lead = counts_lead(a)
    p = f" (p {found.p:.2g})" if by_lead else ""
    say("compare", f"{differ:,} differ: {found.won:,} won{won}, {found.lost:,} lost{p}")
    verdict = "no more than luck" if is_luck(found, by_lead) else "more than luck"
    if not by_lead:
        text = f"by the interval: {verdict}"
    elif found.needed is None:
        text = "too few differ for any lead to matter: it takes 6"
    else:
        text = f"of {differ:,} a lead of {found.needed} is needed, it is {lead:+d}: {verdict}"
    say("compare", text)
    for change in setting_changes(a, b):
        say("compare", f"setting  {short(change, 61)}")
    print_sides(changed_sides(a, b), a, b)


def setting_changes(a: Evidence, b: Evidence) -> list[str]:
    """Settings that differ between two runs; of blends their members and weights."""
    if max(len(a.members), len(b.members)) > 1:
        return records.differences(a.record["key"]["weights"], b.record["key"]["weights"])
    return records.differences(*map(settings_of, (a, b)))


def settings_of(one: Evidence) -> dict[str, Any]:
    """Of the blend's one run, as its record tells them: some may be retired since."""
    [(run, member)] = one.record["key"]["members"].items()
    key = in_todays_terms(records.load(model_path(run, one.folds[0]))["key"])
    science = {part: key[part] for part in SCIENCE}
    return {**science, "tta": member["tta"]}


def print_sides(sides: pd.DataFrame, a: Evidence, b: Evidence) -> None:
    """The clearest of the pictures of which one run is nearer to the truth."""
    digits = "{:.0f} → {:.0f}" if a.decision and a.kind != "shares" else "{:.2f} → {:.2f}"
    for side, wrong, name in (("won", "a", a.name), ("lost", "b", b.name)):
        rows = sides[sides.side == side]
        more = f", the clearest {SHOWN}" if len(rows) > SHOWN else ""
        changes = [digits.format(*pair) for pair in zip(rows.of_a, rows.of_b, strict=True)]
        cells = list(zip(rows.image, rows.label, rows[wrong], changes, strict=True))[:SHOWN]
        head = ["id" if a.rules.picture else "picture", "label", f"{name} says", MEASURED[a.kind]]
        if cells:
            print_table(cells, head, f"{side} by {b.name}: {len(rows):,}{more}")


if __name__ == "__main__":
    run_stage(main)
