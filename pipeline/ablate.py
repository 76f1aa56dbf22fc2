"""Measures what each setting is worth: one fold, several seeds, one table.

reads   pipeline/configs/ablations/NAME.yaml: a base experiment and the variants' own settings
writes  runs/BASE-VARIANT-SEED/ as training does, runs/BASE-NAME/{results.csv, table.md}
run     python -m pipeline.ablate recipe [--base leaves-lite0] [--only "EMA"]

Killed, it goes on where it was: each run is an ordinary experiment, trained and predicted once. The
variants of a seed are trained one after another, or one a GPU. Scores are those of the held-out
fold at the last epoch, plain and with the experiment's TTA, of each id once. Your own plan is a
file that is named by its path: docs/experiments.md.
"""

import re
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml

from pipeline.analysis.answered import held_out
from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, shown, took
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, Runtime, find_experiment, load_experiment, root
from pipeline.base.csv_files import write_csv
from pipeline.base.deadline import Deadline
from pipeline.base.runs import model_path
from pipeline.base.yaml_files import find_yaml, laid_over, read_based, read_yaml
from pipeline.data.decisions import load_changes
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import classes_of, load_folds
from pipeline.ensemble import score
from pipeline.inference.metrics import sign_of
from pipeline.launchers.local import Fold, Key, train_folds
from pipeline.launchers.pool import gpu_slots
from pipeline.predict import Part
from pipeline.train import unfinished

FOLD = 0
Try = tuple[Experiment, Path]  # a variant with a seed, and its file


def main(
    name: str,
    base: Annotated[str, typer.Option(help="the experiment to vary; default the plan's")] = "",
    only: Annotated[list[str], typer.Option(help="variants whose name holds this")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="how often each variant is trained")] = 3,
    force: Annotated[bool, typer.Option(help="retrain what other settings made")] = False,
) -> None:
    plan = load_plan(name)
    base, variants = base or plan["base"], chosen(plan["variants"], only)
    started, out = time.monotonic(), root("runs") / f"{Path(base).stem}-{Path(name).stem}"
    rows, settings = [], load_experiment(base)
    metric, runtime = load_competition(settings.competition).metric, settings.runtime
    rounds = [  # all variants once before any twice: a killed table is fair
        [write_experiment(base, out, variant, variants[variant], seed) for variant in variants]
        for seed in range(seeds)
    ]
    for seed, jobs in enumerate(jobs_of(rounds, runtime, force)):
        if len(jobs) > 1 and len(gpu_slots(runtime, len(jobs))) > 1:
            train_folds(jobs, runtime, Deadline())
        for variant, one in zip(variants, rounds[seed], strict=True):
            rows.append({"variant": variant, "seed": seed, **measure(*one, force)})
            write_csv(pd.DataFrame(rows), out / "results.csv")
            with records.writing(out / "table.md") as tmp:
                tmp.write_text(table(pd.DataFrame(rows), metric), encoding="utf-8")
    print((out / "table.md").read_text(encoding="utf-8"))
    say("ablate", f"{out}/table.md, {took(started)}")


def load_plan(name: str) -> dict[str, Any]:
    """Raises UserError unless the file names a base and its variants."""
    path = find_yaml(name, "ablations")
    plan = read_yaml(path)
    variants = plan.get("variants")
    whole = isinstance(plan.get("base"), str) and isinstance(variants, dict) and variants
    if set(plan) != {"base", "variants"} or not whole:
        raise UserError(f"{path}: expected base: EXPERIMENT and variants: {{NAME: settings}}")
    for variant, changes in variants.items():
        if not isinstance(changes or {}, dict):
            text = f"expected settings, as {{train: {{lr: 1e-4}}}}, not {shown(changes)}"
            raise UserError(f"{path}: variants: {variant}: {text}")
    by_run = {in_run(variant): variant for variant in variants}
    if alike := [variant for variant in variants if by_run[in_run(variant)] != variant]:
        text = f"{alike[0]!r} and {by_run[in_run(alike[0])]!r} would be runs of one name"
        raise UserError(f"{path}: variants: {text}; let them differ in a letter or digit")
    return plan


def in_run(variant: str) -> str:
    """A variant in the name of its runs."""
    return re.sub(r"[^a-z0-9.]+", "-", variant.lower()).strip("-")


def chosen(variants: dict[str, Any], only: list[str]) -> dict[str, Any]:
    """Raises UserError where a wish holds for no variant."""
    for part in only:
        if not any(part in name for name in variants):
            text = f"no variant's name holds '{part}'; there are: {list(variants)}"
            raise UserError(f"--only: {text}")
    return {k: v for k, v in variants.items() if not only or any(part in k for part in only)}


def write_experiment(
    base: str, out: Path, variant: str, changes: dict[str, Any] | None, seed: int
) -> Try:
    """The base experiment's own YAML with a variant's settings and the seed laid over it."""
    settings = read_based(find_experiment(base), find_experiment)
    settings = {key: value for key, value in settings.items() if key not in ("base", "name")}
    settings = laid_over(laid_over(settings, changes or {}), {"train": {"seed": seed}})
    path = out / f"{Path(base).stem}-{in_run(variant)}-{seed}.yaml"
    with records.writing(path) as tmp:
        tmp.write_text(yaml.safe_dump(settings, sort_keys=False))
    return load_experiment(str(path)), path


def jobs_of(rounds: list[list[Try]], runtime: Runtime, force: bool) -> list[dict[Fold, Key]]:
    """What each round is to train, but for variants that start from another's run or have a
    `runtime` of their own: those wait.

    Raises UserError, before hours are spent, where no fold is held out, pictures of that size are
    not prepared, or, unless `force` forgets it, other settings made a run of the same name.
    """
    found, pending = [], set()
    for one in rounds:
        found.append({})
        for settings, path in one:
            if settings.folds.n == 1:
                raise UserError(f"{path}: folds: all holds nothing out, so no variant has a score")
            prepared, table = load_prepared(settings), load_folds(settings)
            waits = settings.model.weights.removeprefix("run:") in pending
            todo = {} if waits else unfinished(settings, [FOLD], prepared, table, force)
            if settings.runtime == runtime:
                found[-1] |= {(str(path), fold): key for fold, key in todo.items()}
            pending |= {settings.name} if todo or waits else set()
    return found


def measure(settings: Experiment, path: Path, force: bool) -> dict[str, float]:
    """Train and predict the held-out fold unless that is done; its scores and training time."""
    model = model_path(settings.name, FOLD)
    prepared, table = load_prepared(settings), load_folds(settings)
    if todo := unfinished(settings, [FOLD], prepared, table, force):
        say("ablate", f"trains {settings.name}")  # lines of a fold do not tell whose they are
        train_folds({(str(path), FOLD): todo[FOLD]}, settings.runtime, Deadline())
    plain = records.load(model)["scores"]["valid_score"]
    seconds = pd.read_csv(model.with_name("log.csv")).seconds.sum()
    tta = held_out_score(settings, prepared, table)
    return {"plain": plain, "tta": tta, "minutes": seconds / 60}


def held_out_score(settings: Experiment, prepared: Prepared, table: pd.DataFrame) -> float:
    """As `ensemble` scores the fold: by the experiment's views, which are predicted unless that is
    done, labels as decided, an id of several pictures once."""
    record = records.load(model_path(settings.name, FOLD))
    images = list(table.image[table.fold == FOLD])
    if Part(settings, FOLD, "oof", prepared, images, record).update():
        from pipeline.data.on_device import release  # late: torch

        release()  # the next variant is trained in another process
    rules, views = load_competition(settings.competition), settings.predict.views_name
    classes, changes = classes_of(table, rules.form), load_changes(settings, prepared)
    scored, (prob,) = held_out(settings, {settings.name: views}, [FOLD], table, changes, classes)
    return score(scored, prob, classes, rules)["all"]


def table(rows: pd.DataFrame, metric: str) -> str:
    """Markdown: mean ± standard deviation over the seeds done so far, best of a column bold."""
    groups = rows.groupby("variant", sort=False)[["plain", "tta", "minutes"]]
    mean, deviation, sign = groups.mean(), groups.std(), sign_of(metric)
    best, lines = (sign * mean).max(), ["| | plain | TTA | minutes |", "|---|---|---|---|"]
    for variant, its in mean.iterrows():
        cells = []
        for column in ("plain", "tta"):
            spread = deviation[column][variant]  # nan: of one seed
            text = f"{its[column]:.3f}" + (f" ± {spread:.3f}" if np.isfinite(spread) else "")
            cells.append(f"**{text}**" if sign * its[column] == best[column] else text)
        lines.append(f"| {variant} | {' | '.join(cells)} | {its.minutes:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_stage(main)
