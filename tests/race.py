"""Accuracy over wall-clock time, beside other programs on the same pictures; no test itself.

reads   an experiment's data and folds, its backbone's ImageNet weights
writes  FILE.jsonl, a line a run, and with `draw` a picture of such a file
run     python -m tests.race run leaves-lite0 ours:0 ours:5 fastai:5 timm:5 logistic:0 race.jsonl
        python -m tests.race draw race.jsonl docs/race.png

Every program trains on what fold 0 leaves in and answers its held-out pictures. The clock runs
from the start of its process, on pictures as they lie on the disk, until the answers are there.
fastai is not among the requirements: pip install fastai.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import timm
import torch
import typer
from torch import nn

from pipeline.base.cli import UserError, guarded, say
from pipeline.base.config import Experiment, load_experiment
from pipeline.base.runs import prediction_path
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, load_folds, split_rows
from pipeline.inference.metrics import accuracy
from pipeline.inference.predictions import Predictions
from pipeline.inference.tta import VIEWS
from pipeline.model.backbone import build_backbone

WORKERS = 2
TICKS = {30: "30 s", 60: "1 min", 120: "2", 300: "5", 600: "10", 1200: "20", 2400: "40", 4800: "80"}
OURS = ["prepare", "folds", "train --fold 0", "predict --fold 0 --split oof"]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Task(NamedTuple):
    """A fold as other programs want it; `path` and `target` are columns of both tables."""

    settings: Experiment
    train: pd.DataFrame
    valid: pd.DataFrame
    classes: list[str]

    @classmethod
    def of(cls, experiment: str) -> "Task":
        settings = load_experiment(experiment)
        prepared, table = load_prepared(settings), load_folds(settings)
        classes = classes_of(table)
        parts = split_rows(prepared.rows, table, classes, 0)
        files = [str(prepared.data / path) for path in prepared.rows.path]
        return cls(settings, *(p.assign(path=[files[i] for i in p.row]) for p in parts), classes)

    def score(self, prob: np.ndarray) -> float:
        return round(float(accuracy(self.valid.target.to_numpy(), prob)), 4)


@app.command()
@guarded
def run(
    experiment: str,
    programs: Annotated[list[str], typer.Argument(help="NAME:EPOCHS, one after another")],
    out: Path,
) -> None:
    """Run programs in turn; a line of FILE.jsonl each."""
    for stage in OURS[:2]:
        stages(experiment, [stage])
    for program in programs:
        name, epochs = program.split(":")
        if name not in PROGRAMS:
            raise UserError(f"{program}: the programs are {', '.join(PROGRAMS)}")
        command = [sys.executable, "-m", "tests.race", "one", experiment, name, epochs]
        started = time.monotonic()
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds = round(time.monotonic() - started, 1)
        found = {"program": name, "epochs": int(epochs), "seconds": seconds}
        found |= json.loads(told.splitlines()[-1])
        with out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        say("race", str(found))


@app.command(hidden=True)
def one(experiment: str, name: str, epochs: int) -> None:
    """What `run` times: the last line printed is the scores."""
    plain, tta = PROGRAMS[name][1](experiment, epochs)
    print("\n" + json.dumps({"plain": plain, "tta": tta}))


def ours(experiment: str, epochs: int, *options: str) -> tuple[float, float]:
    task, name = Task.of(experiment), f"race-{epochs}"
    with tempfile.TemporaryDirectory() as runs:
        os.environ["RUNS_DIR"] = runs
        stages(experiment, OURS, f"--set=train.epochs={epochs}", f"--name={name}", *options)
        log = pd.read_csv(Path(runs, name, "fold0", "log.csv"))
        tta = load_experiment(str(Path(runs, name, f"{name}.yaml"))).predict.tta
        found = Predictions.load(prediction_path(name, 0, "oof", tta))
    order = pd.Index(found.image).get_indexer(task.valid.image)
    return round(float(log.valid_score.iloc[-1]), 4), task.score(found.prob[order])


def quick(experiment: str, epochs: int) -> tuple[float, float]:
    return ours(experiment, epochs, "--set=augment=[]", "--set=predict.tta=none")


def stages(experiment: str, names: list[str], *options: str) -> None:
    for stage in names:
        verb, *own = stage.split()
        command = [sys.executable, "-m", f"pipeline.{verb}", experiment, *own]
        subprocess.run([*command, *options], check=True, stdout=sys.stderr)


def logistic(experiment: str, epochs: int) -> tuple[float, float]:
    """scikit-learn's regression on the frozen backbone's last features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    task = Task.of(experiment)
    model = pretrained(task.settings).eval()
    model.reset_classifier(0)
    with torch.inference_mode():
        train, valid = (
            np.concatenate([model(images).numpy() for images, _ in timm_batches(task, rows)])
            for rows in (task.train, task.valid)
        )
    found = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    score = task.score(found.fit(train, task.train.target).predict_proba(valid))
    return score, score


def fastai(experiment: str, epochs: int) -> tuple[float, float]:
    """As its documentation teaches: vision_learner, aug_transforms, fine_tune, tta."""
    from fastai.vision import all as fast

    task = Task.of(experiment)
    size = task.settings.model.size
    every = pd.concat([task.train.assign(held=False), task.valid.assign(held=True)])
    every["name"] = [task.classes[i] for i in every.target]
    fast.set_seed(task.settings.train.seed)
    loaders = fast.ImageDataLoaders.from_df(
        every, "/", fn_col="path", label_col="name", valid_col="held", bs=64, num_workers=WORKERS,
        item_tfms=fast.Resize(round(1.2 * size)),
        batch_tfms=fast.aug_transforms(size=size, flip_vert=True),
    )  # fmt: skip
    with timm_weights(task.settings), tempfile.TemporaryDirectory() as folder:
        learner = fast.vision_learner(loaders, task.settings.model.backbone, path=folder)
        with learner.no_bar(), learner.no_logging():
            learner.fine_tune(epochs - 1, base_lr=4e-3, freeze_epochs=1)
            found = [learner.get_preds()[0].numpy(), learner.tta()[0].numpy()]
    order = [list(loaders.vocab).index(name) for name in task.classes]
    return tuple(task.score(prob[:, order]) for prob in found)


def timm_loop(experiment: str, epochs: int) -> tuple[float, float]:
    """timm's data, mixing, loss, optimizer and schedule in the order of its train.py.

    As --opt adamw --lr 1e-3 --scale .35 1 --vflip .5 --warmup-epochs 1 --channels-last, from ten
    epochs on with --mixup .2 --cutmix 1 --mixup-prob .5. It has no TTA and is given D4's views.
    """
    from timm.data import Mixup
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    task = Task.of(experiment)
    torch.manual_seed(task.settings.train.seed)
    model = pretrained(task.settings)
    model.reset_classifier(len(task.classes))
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    schedule, _ = create_scheduler_v2(
        optimizer, "cosine", epochs, warmup_epochs=1, warmup_lr=1e-5, min_lr=1e-6
    )
    mixes = epochs >= 10
    mixup = Mixup(0.2, 1.0, prob=0.5, label_smoothing=0.1, num_classes=len(task.classes))
    loss = SoftTargetCrossEntropy() if mixes else LabelSmoothingCrossEntropy(0.1)
    batches = timm_batches(task, task.train, training=True)
    for epoch in range(epochs):
        model.train()
        schedule.step(epoch)
        for images, target in batches:
            images, target = mixup(images, target) if mixes else (images, target)
            optimizer.zero_grad()
            loss(model(images.contiguous(memory_format=torch.channels_last)), target).backward()
            optimizer.step()
        print(f"timm epoch {epoch + 1}/{epochs}", file=sys.stderr)
    model.eval()
    with torch.inference_mode():
        found = [
            torch.stack([model(view(images)).softmax(1) for view in VIEWS["d4"]])
            for images, _ in timm_batches(task, task.valid)
        ]
    views = torch.cat(found, 1).numpy()
    return task.score(views[0]), task.score(views.mean(0))


def timm_batches(
    task: Task, rows: pd.DataFrame, training: bool = False
) -> torch.utils.data.DataLoader:
    """Normalised pictures and targets, as `timm.data.create_loader` makes them."""
    from timm.data import ImageDataset, create_loader
    from timm.data.readers.reader import Reader

    class Rows(Reader):
        def __getitem__(self, index: int) -> tuple[object, int]:
            return Path(rows.path.iloc[index]).open("rb"), int(rows.target.iloc[index])

        def __len__(self) -> int:
            return len(rows)

        def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
            return rows.path.iloc[index]

    how, size = timm.get_pretrained_cfg(task.settings.model.backbone), task.settings.model.size
    return create_loader(
        ImageDataset("", reader=Rows()), (3, size, size), 64,
        is_training=training, use_prefetcher=False, num_workers=WORKERS, persistent_workers=False,
        mean=how.mean, std=how.std, interpolation=how.interpolation, crop_pct=1.0,
        scale=(0.35, 1), vflip=0.5, device=torch.device("cpu"),
    )  # fmt: skip


def pretrained(settings: Experiment) -> nn.Module:
    return build_backbone(settings.model, 0).to(memory_format=torch.channels_last)


@contextmanager
def timm_weights(settings: Experiment) -> Iterator[None]:
    """`timm.create_model` gives this backbone with its weights: fastai asks it, not a hub."""
    real, given = timm.create_model, build_backbone(settings.model, 0).state_dict()

    def create(name: str, pretrained: bool = False, **how: object) -> nn.Module:
        model = real(name, **how)
        fitting = {key: given[key] for key, value in model.state_dict().items() if key in given}
        model.load_state_dict(fitting, strict=False)
        return model

    timm.create_model = create
    try:
        yield
    finally:
        timm.create_model = real


@app.command()
@guarded
def draw(results: Path, out: Path) -> None:
    """A line a program: accuracy over time, filled with TTA, hollow without."""
    from matplotlib.figure import Figure

    from pipeline.figures.charts import GREY, LINE

    table = pd.read_json(results, lines=True).replace({"program": {"quick": "ours"}})
    figure = Figure((9, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for i, (name, found) in enumerate(table.groupby("program", sort=False)):
        colour = f"C{i}"
        found = found.sort_values("seconds")
        label = PROGRAMS[name][0]
        axes.plot(found.seconds, found.tta, "o-", color=colour, markersize=8, label=label)
        axes.plot(found.seconds, found.plain, "o", color=colour, markersize=6, markerfacecolor="w")
        for row in found.itertuples():
            text = f"{row.epochs} epochs" if row.epochs else "no training"
            side = "center" if row.Index == found.index[-1] else "right"
            place = {"xytext": (4, 9), "textcoords": "offset points", "ha": side}
            axes.annotate(text, (row.seconds, row.tta), **place, color=colour)
    axes.set(xscale="log", ylim=(table.plain.min() - 0.04, table.tta.max() + 0.04))
    axes.set_xticks(list(TICKS), TICKS.values())
    axes.minorticks_off()
    axes.set_xlim(0.6 * table.seconds.min(), 1.5 * table.seconds.max())
    axes.set_title("Accuracy on held-out pictures, by the time until they are answered", loc="left")
    axes.grid(color=LINE)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(out)


PROGRAMS = {
    "ours": ("this pipeline, D4 TTA", ours),
    "quick": ("", quick),
    "fastai": ("fastai fine_tune, its TTA", fastai),
    "timm": ("timm's training loop, D4 TTA", timm_loop),
    "logistic": ("logistic regression on frozen features (no TTA)", logistic),
}

if __name__ == "__main__":
    app()
