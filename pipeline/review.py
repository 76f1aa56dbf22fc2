"""Shows the labels that a finished run doubts, so that a person can mend them.

reads   runs/EXPERIMENT/{oof,test}.npz (ensemble), the packed pixels, labels/COMPETITION.csv
writes  labels/COMPETITION.csv: a line for each decision (commit this file)
run     python -m pipeline.review demo [--export review.html] [--take decisions.csv]

A local page: one picture at a time, decided by one key. Nothing is retrained: `train` goes by the
decisions when it is run under a new name. --export writes a page that needs no server, for a
notebook or for somebody who knows the subject; --take adds the decisions that were made there.
"""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from pipeline.analysis.evidence import Evidence, load_evidence
from pipeline.analysis.neighbours import load_features
from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took, warn
from pipeline.data.decisions import append, changes_of, decisions_path, read_log, standing
from pipeline.pages.desk import Desk

NEEDED = ("starlette", "uvicorn", "jinja2")


def main(
    experiment: str,
    port: Annotated[int, typer.Option(min=1, max=65535, help="of 127.0.0.1")] = 8765,
    export: Annotated[Path | None, typer.Option(help="write a page that needs no server")] = None,
    take: Annotated[Path | None, typer.Option(help="add decisions from such a page")] = None,
) -> None:
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UserError(f"review needs {', '.join(missing)}: pip install -r requirements.txt")
    started = time.monotonic()
    evidence = load_evidence(experiment, decided=False)
    if take:
        take_over(evidence, take)
    if take and not export:
        return
    evidence.refuse_ranks()
    desk = Desk(evidence, *load_features(evidence))
    if export:
        from pipeline.pages.export import static_page  # late: needs jinja2's MarkupSafe

        with records.writing(export) as tmp:
            tmp.write_text(static_page(desk), encoding="utf-8")
        megabytes = export.stat().st_size / 1e6
        say("review", f"{export}: {len(desk.queue)} suspects, {megabytes:.1f} MB, {took(started)}")
    else:
        from pipeline.pages.server import serve  # late: needs starlette

        say("review", f"{experiment}: {len(desk.queue)} suspects, {took(started)}; {desk.path}")
        serve(desk, port)


def take_over(evidence: Evidence, source: Path) -> None:
    """Add the lines of another log that are not there yet, if it fits this competition."""
    if not source.exists():
        raise UserError(f"{source}: no such file")
    log, rows = read_log(source), evidence.prepared.rows
    train = rows[rows.split == "train"]
    changes = changes_of(standing(log), train, source, evidence.rules.form)
    path = decisions_path(evidence.settings.competition_name)
    added = append(path, log.to_dict("records"))
    say("review", f"{path}: {added} lines of {source} added: {changes}")
    if changes.foreign:
        warn("review", f"{source}: {changes.foreign:,} decisions are for ids or pixels not here")


if __name__ == "__main__":
    run_stage(main)
