"""All runs and blends: scores, cost, leaderboard, and by what each differs from its base.

reads   runs/*/ and its records, submissions/ledger.csv
run     python -m pipeline.runs [leaves] [--json]

By competition, folds and metric, the best CV first. CV is the mean over folds ± their deviation,
with TTA; that of a run that was not blended yet is plain. A run's base is what `base:` or --set
says.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.analysis.listing import Row, every_row, in_order, print_rows
from pipeline.base.cli import UserError, did_you_mean, run_stage
from pipeline.base.config import root


def main(
    part: Annotated[str, typer.Argument(help="only names that hold this", metavar="[PART]")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs, with all digits")] = False,
) -> None:
    rows = in_order(every_row())
    chosen = [row for row in rows if part in row.name]
    if as_json:
        print(json.dumps(list(map(told, chosen)), indent=1, ensure_ascii=False, allow_nan=False))
    elif not rows:
        raise UserError(f"{root('runs')}: no trained run; ./run.sh EXPERIMENT makes one")
    elif not chosen:
        known = did_you_mean(part, [row.name for row in rows])
        raise UserError(f"no run's name holds {part!r}{known}")
    else:
        print_rows(chosen)


def told(row: Row) -> dict[str, Any]:
    values, cv = asdict(row), row.cv if row.scores else None
    competition, digest, only = values.pop("split")
    split = {"competition": Path(competition).stem, "folds": digest, "only": only}
    # no JSON has NaN, the score of a metric that is undefined on a fold
    text = json.dumps({"name": row.name, **split, "cv": cv, **values})
    return json.loads(text, parse_constant=lambda name: None)


if __name__ == "__main__":
    run_stage(main)
