"""Stage 3: fine-tune the backbone on each fold.

reads   folds/COMPETITION-5-seed42.csv, the packed pixels
writes  runs/EXPERIMENT/foldK/{model.safetensors, model.safetensors.json, log.csv}, and while it
        trains runs/EXPERIMENT/curves.png
run     python -m pipeline.train demo --fold 0

Each fold is one process: one at a time, or one a GPU; or one on each of its --gpus-per-fold, or a
task of a cluster (docs/clusters.md). A killed run, and one that --hours ended after an epoch (exit
code 75), goes on at its last finished epoch, to the same weights; a fold that dies takes no other
with it. A finished fold is never retrained under changed settings: choose a new name, or --force.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import Exit, UserError, mean_std, run_stage, say, short, took, warn
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, load_experiment
from pipeline.base.deadline import Deadline
from pipeline.base.derived import NameOption, SeedOption, SetOption, derived, each_seed
from pipeline.base.locks import locked
from pipeline.base.runs import model_path
from pipeline.data.decisions import load_changes
from pipeline.data.extra import with_extra
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.sampler import batches_of
from pipeline.data.splits import chosen_folds, classes_of, load_folds, split_rows
from pipeline.figures.curves import LiveCurves
from pipeline.launchers import local, ray_cluster
from pipeline.launchers.pool import WORKER
from pipeline.training.keys import is_trained, refuse_edited, train_key
from pipeline.training.log import training_lost
from pipeline.training.pseudo import with_pseudo
from pipeline.training.tracker import Tracker

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

FEW_STEPS = 200  # leaf99, fold 0: 100 of long .906, 50 of short .925; the demo gains from 188 on


def main(
    experiment: str,
    fold: Annotated[
        list[int] | None, typer.Option(help="only these folds; a single one in this process")
    ] = None,
    hours: Annotated[
        float, typer.Option(min=0, help="begin no epoch that may end later", show_default=False)
    ] = math.inf,
    force: Annotated[bool, typer.Option(help="retrain what other settings made")] = False,
    gpus_per_fold: Annotated[
        int | None, typer.Option(min=1, help="default: the experiment's runtime.gpus_per_fold")
    ] = None,
    launcher: Annotated[
        ray_cluster.Launcher, typer.Option(help="where the folds train")
    ] = ray_cluster.Launcher.LOCAL,
    seed: SeedOption = None,
    changes: SetOption = None,
    name: NameOption = None,
) -> None:
    started, deadline = time.monotonic(), Deadline(3600 * hours)
    names = each_seed(derived(experiment, changes, name), seed)
    runs = {run: load_experiment(run) for run in names}
    settings = runs[names[0]]  # but for their seeds all are one
    runtime, in_group = settings.runtime, int(os.environ.get("WORLD_SIZE", 1)) > 1
    if gpus_per_fold:
        runtime = runtime.model_copy(update={"gpus_per_fold": gpus_per_fold})
    if in_group and (len(set(fold or ())) != 1 or len(runs) > 1):
        raise UserError("several processes train one fold together: say which by --fold, --seed")
    prepared, table = load_prepared(settings), load_folds(settings)
    folds = chosen_folds(settings, fold)
    todo = {run: unfinished(one, folds, prepared, table, force) for run, one in runs.items()}
    jobs = {(run, k): key for run in runs for k, key in todo[run].items()}
    on_cluster = launcher == ray_cluster.Launcher.RAY
    alone = len(runs) == len(folds) == runtime.gpus_per_fold == 1 and not on_cluster
    pooled = settings.train.epochs > 0 and not (alone or in_group)
    if jobs and WORKER not in os.environ:
        tell_recipe(settings, table, folds[0])
    if jobs and pooled:
        launch_folds = ray_cluster.train_folds if on_cluster else local.train_folds
        launch_folds(jobs, runtime, deadline)
    for run, one in runs.items():
        if todo[run] and not pooled:  # of no epochs: a process of its own would take as long
            train_here(one, todo[run], prepared, table, deadline)
        tell_scores(one, folds, bool(todo[run]), started)


def tell_recipe(settings: Experiment, table: pd.DataFrame, fold: int) -> None:
    how, file = settings.train, f"pipeline/configs/recipes/{settings.recipe}.yaml"
    learned, more = int((table.fold != fold).sum()), settings.extra or settings.pseudo
    steps = how.epochs * math.ceil(batches_of(learned, how.batch_size) / how.accumulate)
    many = f", {steps} steps a fold" if steps and not more else ""  # of how many more, it will see
    say("train", f"recipe {settings.recipe} ({file}), {how.epochs} epochs{many}")
    if settings.recipe.startswith("long") and steps < FEW_STEPS and not more:
        warn("train", f"{steps} steps teach a random head little: recipe: short keeps a fitted one")


def unfinished(
    settings: Experiment, folds: Sequence[int], prepared: Prepared, table: pd.DataFrame, force: bool
) -> dict[int, dict[str, Any]]:
    """Those of `folds` that are still to be trained, and their keys.

    Raises UserError for a fold that other settings made, unless `force` forgets it, for a model
    that is not the one of its record, and in the process of a fold that was launched with others.
    """
    keys = {k: train_key(settings, k, prepared, table) for k in folds}
    if launched := os.environ.get(local.KEY):
        refuse_edited(settings.name, json.loads(launched), keys.values())
    return {
        k: key
        for k, key in keys.items()
        if not is_trained(model_path(settings.name, k), key, force)
    }


def train_here(
    settings: Experiment,
    todo: dict[int, dict[str, Any]],
    prepared: Prepared,
    table: pd.DataFrame,
    deadline: Deadline,
) -> None:
    """Train folds (`todo`: their keys) one after another in this process."""
    from pipeline.base.device import trim_malloc, tuned  # late: torch

    settings = tuned(settings)
    # ranks of a group: the first holds the lock for all, and does not wait as they would for it
    rank, ranks = (int(os.environ.get(name, n)) for name, n in [("RANK", 0), ("WORLD_SIZE", 1)])
    for fold, key in todo.items():
        out = model_path(settings.name, fold)
        with nullcontext() if rank else locked(out.parent, wait=ranks == 1):
            if not is_trained(out, key):  # another process may just have done it
                train_fold(make_trainer(settings, fold, prepared, table), out, key, deadline)
        trim_malloc()


def train_fold(trainer: "Trainer", out: Path, key: dict[str, Any], deadline: Deadline) -> None:
    """Train one fold to its last epoch, from where a killed run left it, and write `out`.

    Exits with Exit.PAUSED when the deadline comes first. Raises UserError when the loss is NaN.
    """
    from pipeline.training import checkpoint, distributed  # late: torch

    what, last = f"fold {trainer.fold}", out.with_name("last.pt")
    if last.exists():
        checkpoint.resume(trainer, last)
        say("train", f"{what}  goes on after epoch {trainer.epoch}")
    if trainer.accelerator.is_main_process:
        checkpoint.begin(trainer, out, key)
        trainer.watch = watch(trainer, out.parent)
        if last.exists():  # a kill may have come between it and what follows it
            checkpoint.save_log(trainer, last)
            trainer.watch(trainer.epoch == trainer.settings.train.epochs)
    trainer.run(last, deadline)
    distributed.leave_group(trainer)
    if not trainer.accelerator.is_main_process:
        return  # rank 0 says how it ended
    if trainer.epoch < trainer.settings.train.epochs:
        say("train", f"{what}  stops after epoch {trainer.epoch}: the next may end too late")
        sys.exit(Exit.PAUSED)
    record = checkpoint.finish(trainer, out, key)
    memory = f"at most {record['peak']['ram_gb']:.1f} GB of memory"
    say("train", f"{what}  {out}, {took(trainer.started)}, {memory}")
    tell_if_lost(what, [record])


def watch(trainer: "Trainer", folder: Path) -> Callable[[bool], None]:
    """Shows a fold's log while it grows. Raises UserError without the package of a tracker."""
    watchers: list[Callable[[bool], None]] = [LiveCurves(folder.parent, trainer.metric)]
    if (kind := trainer.settings.runtime.tracker) != "none":
        if not find_spec(kind):
            raise UserError(f"runtime.tracker: pip install {kind}, or set it to none")
        with at_no_cost("runtime.tracker"):
            watchers.append(Tracker(trainer.settings, trainer.fold, folder, trainer.log))

    def call(done: bool) -> None:
        for watcher in watchers:
            with at_no_cost(type(watcher).__name__):
                watcher(done)

    return call


@contextmanager
def at_no_cost(what: str) -> Iterator[None]:
    """What goes wrong is told, and training goes on."""
    try:
        yield
    except Exception as error:  # of a plotting library, a disk, a network: many kinds
        warn("train", f"{what}: {short(error, 120)}")


def make_trainer(
    settings: Experiment, fold: int, prepared: Prepared, table: pd.DataFrame
) -> "Trainer":
    """The Trainer of a fold's images and what they are taught.

    Raises UserError when the backbone's first weights cannot be had.
    """
    from pipeline.training.loss import settled, standardised_targets, training_targets
    from pipeline.training.trainer import Trainer  # late: torch

    rules = load_competition(settings.competition)
    form, metric = rules.form, rules.metric
    classes = classes_of(table, form)
    changes = load_changes(settings, prepared)
    train, valid = split_rows(prepared.rows, table, classes, fold, changes, form)
    train, pixels = with_extra(settings, prepared, train, classes, form)
    train = settled(settings.train, train, classes)
    train, answer = standardised_targets(train, form.kind, rules.transform)
    targets = training_targets(settings.train, train, len(classes))
    train, targets = with_pseudo(settings, fold, prepared, classes, train, targets, answer)
    return Trainer(settings, fold, classes, pixels, train, valid, metric, targets, answer)


def tell_scores(settings: Experiment, folds: Sequence[int], made: bool, started: float) -> None:
    if len(folds) == 1 and made:
        return  # it has told them itself
    every = [records.load(model_path(settings.name, k)) for k in folds]
    say("train", f"{summary(settings, folds, every)}, {took(started) if made else 'up to date'}")
    if made:
        tell_if_lost(f"{len(folds)} folds", every)


def tell_if_lost(what: str, trained: list[dict[str, Any]]) -> None:
    """Say so where the head's start was better than what training made of it."""
    starts = [record.get("start") for record in trained]  # those made before have none
    ends = [record["scores"]["valid_score"] for record in trained]
    how = trained[0]["metric"], sum(r.get("ids", r["images"]["valid"]) for r in trained)
    if None not in starts and (text := training_lost(starts, ends, *how)):
        say("train", f"{what}  {text}")


def summary(settings: Experiment, folds: Sequence[int], trained: list[dict[str, Any]]) -> str:
    folder = model_path(settings.name, 0).parents[1]
    if settings.folds.n == 1:
        return f"{folder}: trained on all pictures, so there is no score"
    scores = mean_std([record["scores"]["valid_score"] for record in trained])
    which = f"{len(folds)} folds" if len(folds) > 1 else f"fold {folds[0]}"
    return f"{folder}: {which}, {trained[0]['metric']} {scores} (plain, last epoch)"


if __name__ == "__main__":
    run_stage(main)
