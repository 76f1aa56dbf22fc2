"""Folds on this machine, each a command in the pool of processes: train's, or predict's."""

import math
import sys
from collections.abc import Iterable, Iterator

from pipeline.base.cli import Exit, UserError, say
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.base.runs import first_epoch_seconds
from pipeline.launchers.pool import EXPLAINED, Process, Slot, gpu_slots, run_jobs


def train_folds(
    experiment: str, folds: Iterable[int], runtime: Runtime, deadline: Deadline
) -> None:
    """Train folds, as many at a time as there are slots; one that dies takes no other with it.

    After bad input, Ctrl-C and the deadline no further fold is started, but the first ones are;
    none either that may make its first epoch after the deadline, by the last that has ended.
    Raises UserError naming the dead; exits with Exit.PAUSED when some go on next time.
    """
    folds, codes = list(folds), dict[int, int]()

    def waiting() -> Iterator[int]:
        for fold in folds:
            if codes and not deadline.fits(first_epoch_seconds(experiment, [*codes][-1])):
                codes[fold] = Exit.PAUSED
            if EXPLAINED & set(codes.values()):
                return
            yield fold

    def start(fold: int, slot: Slot) -> Process:
        return start_fold(experiment, fold, slot, runtime.gpus_per_fold, deadline)

    for fold, code in run_jobs(waiting(), gpu_slots(runtime, len(folds)), start):
        codes[fold] = code
    report(codes)


def start_fold(experiment: str, fold: int, slot: Slot, ranks: int, deadline: Deadline) -> Process:
    if "CUDA_VISIBLE_DEVICES" in slot:
        say("train", f"fold {fold}  on GPU {slot['CUDA_VISIBLE_DEVICES']}")
    command = ["-m", "pipeline.train", experiment, "--fold", str(fold)]
    command += ["--gpus-per-fold", str(ranks)]  # what was asked for here wins over its YAML
    if math.isfinite(deadline.seconds):
        command += ["--hours", str(max(0.0, deadline.left() / 3600))]
    return Process(command, slot, ranks)


def predict_folds(experiment: str, folds: list[int], options: list[str], slots: list[Slot]) -> None:
    """Raises UserError naming the folds that died."""

    def start(fold: int, slot: Slot) -> Process:
        command = ["-m", "pipeline.predict", experiment, "--fold", str(fold), *options]
        return Process(command, slot)

    report(dict(run_jobs(folds, slots, start)))


def report(codes: dict[int, int]) -> None:
    """Exit as the folds did, if they have said why. Raises UserError naming those that died."""
    found = set(codes.values())
    for code in (Exit.INTERRUPTED, Exit.TERMINATED):
        if code in found:
            sys.exit(code)
    if died := [f"{k} (exit {code})" for k, code in codes.items() if code not in {0, *EXPLAINED}]:
        done = sorted(k for k, code in codes.items() if code == 0)
        rest = f"; folds {done} are done" if done else ""
        raise UserError(f"fold {', '.join(died)} died{rest}; the same command goes on where it was")
    for code in (Exit.BAD_INPUT, Exit.PAUSED):
        if code in found:
            sys.exit(code)
