"""Folds on this machine, each a command in the pool of processes: train's, or predict's."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.cli import SPEAKER, Exit, UserError, say
from pipeline.base.config import Runtime, load_experiment
from pipeline.base.deadline import Deadline
from pipeline.base.runs import first_epoch_seconds
from pipeline.launchers.pool import EXPLAINED, Process, Slot, gpu_slots, run_jobs

Fold = tuple[str, int]  # of an experiment, by its name or path
Key = dict[str, Any]  # all that a fold's weights depend on
KEY = "PIPELINE_KEY"  # environment variable of a fold's process: the key it was launched with, JSON


def train_folds(jobs: dict[Fold, Key], runtime: Runtime, deadline: Deadline) -> None:
    """Train folds, as many at a time as there are slots; one that dies takes no other with it.

    Each reads its experiment anew, and trains it only where that still has the key of `jobs`.
    After bad input, Ctrl-C and the deadline no further fold is started, but the first ones are;
    none either that may make its first epoch after the deadline, by the last that has ended.
    Raises UserError naming the dead; exits with Exit.PAUSED when some go on next time.
    """
    codes, several = dict[Fold, int](), len({run for run, _ in jobs}) > 1

    def waiting() -> Iterator[Fold]:
        for job in jobs:
            if codes and not deadline.fits(first_epoch_seconds(*[*codes][-1])):
                codes[job] = Exit.PAUSED
            if EXPLAINED & set(codes.values()):
                return
            yield job

    def start(job: Fold, slot: Slot) -> Process:
        if several:  # of each run a fold 0
            slot = {**slot, SPEAKER: f"{Path(job[0]).stem}  "}
        return start_fold(job, jobs[job], slot, runtime.gpus_per_fold, deadline)

    for job, code in run_jobs(waiting(), gpu_slots(runtime, len(jobs)), start):
        codes[job] = code
    report(codes)


def start_fold(job: Fold, key: Key, slot: Slot, ranks: int, deadline: Deadline) -> Process:
    if "CUDA_VISIBLE_DEVICES" in slot:
        where = f"fold {job[1]}  on GPU {slot['CUDA_VISIBLE_DEVICES']}"
        say("train", slot.get(SPEAKER, "") + where)
    command = command_of("train", job, key["train"]["seed"])
    command += ["--gpus-per-fold", str(ranks)]  # what was asked for here wins over its YAML
    if math.isfinite(deadline.seconds):
        command += ["--hours", str(max(0.0, deadline.left() / 3600))]
    return Process(command, {**slot, KEY: json.dumps(key)}, ranks)


def predict_folds(jobs: list[Fold], options: list[str], slots: list[Slot]) -> None:
    """Raises UserError naming the folds that died."""

    def start(job: Fold, slot: Slot) -> Process:
        seed = load_experiment(job[0]).train.seed
        return Process([*command_of("predict", job, seed), *options], slot)

    report(dict(run_jobs(jobs, slots, start)))


def command_of(stage: str, job: Fold, seed: int) -> list[str]:
    """With the run's one seed: a file may list several."""
    experiment, fold = job
    return ["-m", f"pipeline.{stage}", experiment, "--fold", str(fold), "--seed", str(seed)]


def report(codes: dict[Fold, int]) -> None:
    """Exit as the folds did, if they have said why. Raises UserError naming those that died."""
    found = set(codes.values())
    for code in (Exit.INTERRUPTED, Exit.TERMINATED):
        if code in found:
            sys.exit(code)
    dead = {job: code for job, code in codes.items() if code not in {0, *EXPLAINED}}
    if dead:
        died = [f"{Path(run).stem} fold {k} (exit {code})" for (run, k), code in dead.items()]
        done = sum(code == 0 for code in codes.values())
        text = f"{', '.join(died)} died; {done} of {len(codes)} are done"
        raise UserError(f"{text}; the same command goes on where it was")
    for code in (Exit.BAD_INPUT, Exit.PAUSED):
        if code in found:
            sys.exit(code)
