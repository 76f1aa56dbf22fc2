"""Kills real stages at random moments; what they leave must be that of an undisturbed run.

reads   nothing: a small competition is drawn
writes  into a temporary folder
run     python -m tests.kills [--kills 60] [--seed 0]

The default recipe on real weights: every block read, closed form, then two epochs of two folds.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say
from pipeline.demo import draw_competition

STAGES = ["prepare", "folds", "train", "predict", "ensemble", "submit"]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
# by the signal itself, -15 and -2, end a Python that has not begun our code or has left it, and one
# that was met within an eval() of some import
POLITE = {signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2), signal.SIGKILL: (-9,)}
TIMED = ("log.csv", "report.html", ".lock")  # seconds stand in them, or the process
BEGUN = 0.3  # seconds until Python itself has begun, and our handlers are there
SETTINGS = {
    "competition": "demo",
    "folds": {"n": 2},
    "model": {"size": 48},
    "mix": {"mixup": 0.2, "cutmix": 1.0, "prob": 0.5},
    "train": {"epochs": 2, "batch_size": 16, "ema": 0.2},
    "predict": {"tta": "hflip"},
}


def main(
    kills: Annotated[int, typer.Option(min=1)] = 60, seed: Annotated[int, typer.Option()] = 0
) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        draw_competition(home / "data" / "demo", train=120, test=24, species=6, size=64, workers=1)
        seconds = undisturbed(home)
        whole, done, rounds = contents(home), 0, 0
        while done < kills:
            rounds += 1
            clear(home)
            for stage in STAGES:
                done += disturbed(home, stage, seconds[stage], draw)
            refuse_differences(whole, contents(home))
            say("kills", f"{done} in {rounds} rounds: 0 of {len(whole)} files differ")


def undisturbed(home: Path) -> dict[str, float]:
    """Seconds that each stage takes."""
    (home / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    seconds = {}
    for stage in STAGES:
        started = time.monotonic()
        if code := start(home, stage).wait():
            raise UserError(f"{stage} ended with {code}, undisturbed")
        seconds[stage] = time.monotonic() - started
    return seconds


def disturbed(home: Path, stage: str, seconds: float, draw: random.Random) -> int:
    """Run a stage to its end, killing it up to five times on the way; returns how often."""
    for kills in range(5):
        process = start(home, stage)
        try:
            process.wait(BEGUN + draw.uniform(0, seconds))
            return kills
        except subprocess.TimeoutExpired:
            sent = draw.choice(SIGNALS)
            process.send_signal(sent)
            code, said = process.wait(), process.stderr.read()
            if code not in (0, *POLITE[sent]) or "Traceback" in said:
                raise UserError(f"{stage} ended with {code} after {sent.name}:\n{said}") from None
    if code := start(home, stage).wait():
        raise UserError(f"{stage} ended with {code}, after kills")
    return 5


def start(home: Path, stage: str) -> subprocess.Popen:
    roots = ("data", "runs", "folds", "submissions", "weights")
    places = {f"{name.upper()}_DIR": str(home / name) for name in roots}
    what = "run" if stage == "submit" else str(home / "run.yaml")
    return subprocess.Popen(
        [sys.executable, "-m", f"pipeline.{stage}", what],
        env={**os.environ, **places},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(home: Path) -> dict[str, str]:
    """Digest of all that the stages made; of an archive its arrays, of a record its key."""
    found = {}
    for root in ("runs", "folds", "submissions"):
        for path in sorted((home / root).rglob("*")):
            name = str(path.relative_to(home))
            if not path.is_file() or path.name in TIMED:
                continue
            if path.suffix == ".json":
                found[name] = records.digest(records.load(path.with_suffix(""))["key"])
            elif path.suffix == ".npz":
                with np.load(path) as data:
                    found[name] = records.digest([data[key].tolist() for key in data])
            else:
                found[name] = records.file_digest(path)
    return found


def clear(home: Path) -> None:
    for root in ("runs", "folds", "submissions"):
        for path in sorted((home / root).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def refuse_differences(whole: dict[str, str], now: dict[str, str]) -> None:
    """Raises UserError for a file that differs, is missing, or should not be there."""
    if bad := sorted(k for k in whole.keys() | now.keys() if whole.get(k) != now.get(k)):
        raise UserError(f"{len(bad)} files differ after kills: {', '.join(bad[:10])}")


if __name__ == "__main__":
    run_stage(main)
