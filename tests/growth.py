"""CPU time and memory of the stages that train nothing, over growing competitions; no test itself.

reads   nothing: pictures of 64 px are drawn, predictions are random numbers
writes  docs/growth.png, and everything else into a temporary folder
run     python -m tests.growth [--largest 100000] [--out docs/growth.png]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pandas as pd
import typer
import yaml
from matplotlib.figure import Figure

from pipeline.base import records
from pipeline.base.cli import run_stage, say
from pipeline.base.config import load_experiment, root
from pipeline.base.runs import prediction_path
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import folds_digest, load_folds
from pipeline.figures.charts import blank_charts, finish_chart
from pipeline.inference.predictions import Predictions

SIDE, CLASSES = 64, [f"class {i:02}" for i in range(50)]
MILLION = 1_000_000
STAGES = ["prepare", "folds", "ensemble", "submit"]
CHILD = """
import runpy, sys, time
sys.argv = sys.argv[1:]
try:
    runpy.run_module(f"pipeline.{sys.argv[0]}", run_name="__main__", alter_sys=True)
finally:
    status = open("/proc/self/status").read()
    peak = next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)
    print(time.process_time(), peak)
"""  # CPU time: what else runs does not count; not ru_maxrss: it begins with the parent's


def main(
    largest: Annotated[int, typer.Option(help="training images")] = 100_000,
    out: Annotated[Path, typer.Option()] = Path("docs/growth.png"),
) -> None:
    found = {stage: [] for stage in STAGES}  # stage → (images, CPU seconds, bytes)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("data", "runs", "folds", "submissions"):
            os.environ[f"{name.upper()}_DIR"] = str(Path(folder, name))
        n = 1000
        while n <= largest:
            experiment = draw_competition(Path(folder), n)
            for stage in STAGES:
                if stage == "ensemble":
                    invent_predictions(experiment)
                found[stage].append((n, *run(stage, experiment)))
            n *= 10
        million = invent_blend(Path(folder), experiment)
        say("growth", f"submit of {MILLION:,} rows: {cost(*run('submit', million))}")
    draw(found).savefig(out)
    say("growth", str(out))


def draw_competition(folder: Path, n: int) -> str:
    """`n` training and a quarter as many test pictures, all different; returns the experiment."""
    rng, name = np.random.default_rng(n), f"growth-{n}"
    data = folder / "data" / name
    (data / "images").mkdir(parents=True)
    ids = [f"{i}.jpg" for i in range(n + n // 4)]
    for image in ids:
        small = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(data / "images" / image), cv2.resize(small, (SIDE, SIDE)))
    labels = rng.choice(CLASSES, n)
    pd.DataFrame({"image": ids[:n], "label": labels}).to_csv(data / "train.csv", index=False)
    test = pd.DataFrame({"image": ids[n:], "label": CLASSES[0]})
    test.to_csv(data / "test.csv", index=False)
    test.to_csv(data / "sample_submission.csv", index=False)
    return write_experiment(folder, name, name)


def write_experiment(folder: Path, name: str, competition: str, **settings: str) -> str:
    """YAML of an experiment `name` on a competition written beside it; returns its path."""
    path, rules = folder / f"{name}.yaml", folder / "competitions" / f"{competition}.yaml"
    rules.parent.mkdir(exist_ok=True)
    rules.write_text(yaml.safe_dump({"image": "images/{image}", **settings}))
    path.write_text(yaml.safe_dump({"competition": str(rules), "model": {"size": SIDE}}))
    return str(path)


def invent_predictions(experiment: str) -> None:
    """Random probabilities of every fold, as `predict` would have written them."""
    settings, rng = load_experiment(experiment), np.random.default_rng(0)
    table, data = load_folds(settings), root("data") / settings.competition_name
    digests = load_prepared(settings).record["digests"]
    test = pd.read_csv(data / "test.csv").image
    for fold in range(settings.folds.n):
        for split, images in (("oof", table.image[table.fold == fold]), ("test", test)):
            path = prediction_path(settings.name, fold, split, "none")
            prob = rng.dirichlet(np.ones(len(CLASSES)), len(images)).astype(np.float32)
            Predictions(list(images), CLASSES, prob).save(path)
            key = {"pixels": digests["train" if split == "oof" else "test"]}
            records.commit(path, key, time.monotonic(), folds=folds_digest(table))


def invent_blend(folder: Path, experiment: str) -> str:
    """The last competition with a million test rows, and their blend; returns its name."""
    settings = load_experiment(experiment)
    sample = f"sample-{MILLION}.csv"
    write_experiment(folder, "million", settings.competition_name, sample=sample)
    ids = [f"{i}.jpg" for i in range(MILLION)]
    table = pd.DataFrame({"image": ids, "label": CLASSES[0]})
    table.to_csv(root("data") / settings.competition_name / sample, index=False)
    record = records.load(root("runs") / settings.name / "test.npz")
    facts = {name: record[name] for name in ("metric", "scores")}
    prob = np.random.default_rng(0).random((MILLION, len(CLASSES)), dtype=np.float32)
    out = root("runs") / "million" / "test.npz"
    Predictions(ids, CLASSES, prob / prob.sum(1, keepdims=True)).save(out)
    records.commit(out, record["key"], time.monotonic(), **facts)
    return "million"


def run(stage: str, experiment: str) -> tuple[float, float]:
    """CPU seconds and peak bytes of a stage in a process of its own."""
    asked = Path(experiment).stem if stage == "submit" else experiment
    command = [sys.executable, "-c", CHILD, stage, asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, kib = map(float, done.stdout.split()[-2:])
    say("growth", f"{Path(experiment).stem:<14} {stage:<9} {cost(seconds, 1024 * kib)}")
    return seconds, 1024 * kib


def cost(seconds: float, peak: float) -> str:
    return f"{seconds:6.1f} s {peak / 1e9:6.2f} GB"


def draw(found: dict[str, list[tuple[int, float, float]]]) -> Figure:
    figure, (seconds, memory) = blank_charts(2)
    for stage, rows in found.items():
        images, times, peaks = zip(*rows, strict=True)
        seconds.plot(images, times, "o-", label=stage)
        memory.plot(images, peaks, "o-", label=stage)
    caption = f"{SIDE} px, {len(CLASSES)} classes, a quarter as many test images, a process each"
    finish_chart(seconds, "CPU time of a stage", caption, "training images", "CPU seconds")
    finish_chart(memory, "Memory of a stage", "largest resident set", "training images", "bytes")
    return figure


if __name__ == "__main__":
    run_stage(main)
