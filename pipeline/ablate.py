"""Measures what each setting is worth: one fold, several seeds, one table.

reads   pipeline/configs/ablations/NAME.yaml: a base experiment and the variants' own settings
writes  runs/BASE-VARIANT-SEED/ as training does, runs/BASE-NAME/{results.csv, table.md}
run     python -m pipeline.ablate recipe [--base leaves-lite0] [--only "EMA"]

Killed, it goes on where it was: each run is an ordinary experiment, trained and predicted once.
Scores are those of the held-out fold at the last epoch, plain and with the experiment's TTA.
"""

import re
import time
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
import yaml

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, find_experiment, load_experiment, root
from pipeline.base.csv_files import write_csv
from pipeline.base.deadline import Deadline
from pipeline.base.forms import as_array
from pipeline.base.runs import model_path
from pipeline.base.yaml_files import find_yaml, laid_over, read_based, read_yaml
from pipeline.data.decisions import load_changes
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, load_folds
from pipeline.inference.metrics import METRICS, sign_of
from pipeline.inference.predictions import Predictions
from pipeline.launchers.local import train_folds
from pipeline.predict import Part
from pipeline.train import unfinished

FOLD = 0


def main(
    name: str,
    base: Annotated[str, typer.Option(help="the experiment to vary; default the plan's")] = "",
    only: Annotated[list[str], typer.Option(help="variants whose name holds this")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="how often each variant is trained")] = 3,
) -> None:
    plan = load_plan(name)
    base, variants = base or plan["base"], chosen(plan["variants"], only)
    started, out = time.monotonic(), root("runs") / f"{Path(base).stem}-{Path(name).stem}"
    rows, metric = [], load_competition(load_experiment(base).competition).metric
    for seed in range(seeds):  # all variants once before any twice: a killed table is fair
        for variant, changes in variants.items():
            settings, path = write_experiment(base, out, variant, changes, seed)
            rows.append({"variant": variant, "seed": seed, **measure(settings, path)})
            write_csv(pd.DataFrame(rows), out / "results.csv")
            with records.writing(out / "table.md") as tmp:
                tmp.write_text(table(pd.DataFrame(rows), metric), encoding="utf-8")
    print((out / "table.md").read_text(encoding="utf-8"))
    say("ablate", f"{out}/table.md, {took(started)}")


def load_plan(name: str) -> dict[str, Any]:
    """Raises UserError unless the file names a base and its variants."""
    path = find_yaml(name, "ablations")
    plan = read_yaml(path)
    if set(plan) != {"base", "variants"} or not isinstance(plan["variants"], dict):
        raise UserError(f"{path}: expected base: EXPERIMENT and variants: {{NAME: settings}}")
    return plan


def chosen(variants: dict[str, Any], only: list[str]) -> dict[str, Any]:
    """Raises UserError where a wish holds for no variant."""
    for part in only:
        if not any(part in name for name in variants):
            raise UserError(
                f"--only: no variant's name holds '{part}'; there are: {list(variants)}"
            )
    return {k: v for k, v in variants.items() if not only or any(part in k for part in only)}


def write_experiment(
    base: str, out: Path, variant: str, changes: dict[str, Any] | None, seed: int
) -> tuple[Experiment, Path]:
    """The base experiment's own YAML with a variant's settings and the seed laid over it."""
    settings = read_based(find_experiment(base), find_experiment)
    settings = {key: value for key, value in settings.items() if key not in ("base", "name")}
    for change in (changes or {}, {"train": {"seed": seed}}):
        settings = laid_over(settings, change)
    slug = re.sub(r"[^a-z0-9.]+", "-", variant.lower()).strip("-")
    path = out / f"{Path(base).stem}-{slug}-{seed}.yaml"
    with records.writing(path) as tmp:
        tmp.write_text(yaml.safe_dump(settings, sort_keys=False))
    return load_experiment(str(path)), path


def measure(settings: Experiment, path: Path) -> dict[str, float]:
    """Train and predict the held-out fold unless that is done; its scores and training time.

    Raises UserError where none is held out, or other settings made a run of the same name.
    """
    if settings.folds.n == 1:
        raise UserError(f"{path}: folds: all holds nothing out, so no variant has a score")
    model = model_path(settings.name, FOLD)
    prepared, table = load_prepared(settings), load_folds(settings)
    if todo := unfinished(settings, [FOLD], prepared, table, force=False):
        train_folds({(str(path), FOLD): todo[FOLD]}, settings.runtime, Deadline())
    record = records.load(model)
    held_out = table[table.fold == FOLD]
    oof = Part(settings, FOLD, "oof", prepared, list(held_out.image), record)
    if oof.update():
        from pipeline.data.on_device import release  # late: torch

        release()  # the next variant is trained in another process
    rules = load_competition(settings.competition)
    classes = classes_of(table, rules.form)
    prob = Predictions.load(oof.out).aligned(list(held_out.image), classes)
    mended = load_changes(settings, prepared).applied(table).loc[held_out.index]
    scored = (mended.fold == FOLD).to_numpy()
    target = as_array(rules.form.targets(mended.label[scored], classes))
    seconds = pd.read_csv(model.with_name("log.csv")).seconds.sum()
    return {
        "plain": record["scores"]["valid_score"],
        "tta": METRICS[rules.metric](target, prob[scored]),
        "minutes": seconds / 60,
    }


def table(rows: pd.DataFrame, metric: str) -> str:
    """Markdown: mean ± standard deviation over the seeds done so far, best of a column bold."""
    groups = rows.groupby("variant", sort=False)
    sign = sign_of(metric)
    best = {column: (sign * groups[column].mean()).idxmax() for column in ("plain", "tta")}
    lines = ["| | plain | TTA | minutes |", "|---|---|---|---|"]
    for variant, group in groups:
        cells = []
        for column in ("plain", "tta"):
            deviation = f" ± {group[column].std():.3f}" if len(group) > 1 else ""
            text = f"{group[column].mean():.3f}{deviation}"
            cells.append(f"**{text}**" if best[column] == variant else text)
        lines.append(f"| {variant} | {' | '.join(cells)} | {group.minutes.mean():.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_stage(main)
