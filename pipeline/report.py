"""A page to look at: scores, classes, errors as pictures, calibration, drift, a map.

reads   runs/NAME/{oof,test}.npz and what they were made from, the pictures
writes  runs/NAME/report.html: one file, which needs no network
run     python -m pipeline.report demo

`ensemble` writes a short page in seconds. This one adds what needs a pass of the backbone: nearest
training pictures, where the model looks, drift from training to test, the map, the augmentations.
"""

import time
from typing import Annotated

import typer

from pipeline.base.cli import run_stage, say, took
from pipeline.pages.compose import write_report


def main(names: Annotated[list[str], typer.Argument(help="of experiments or blends")]) -> None:
    for name in names:
        started = time.monotonic()
        out = write_report(name, full=True)
        say("report", f"{out}: {out.stat().st_size / 1e6:.1f} MB, {took(started)}")


if __name__ == "__main__":
    run_stage(main)
