"""Measures what this machine can do, how fast an experiment runs on it, and what it will take.

reads   nothing; with an experiment its packed pixels and folds
writes  runs/_tune/MACHINE/{card.json,card.png}; with an experiment BACKBONE-SIZE.json there, the
        choices that train and predict then go by (runtime.tune)
run     python -m pipeline.bench [EXPERIMENT] [--budget 9h]

What an experiment's own `runtime` says stays. Measure on a quiet machine.
"""

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, duration, print_table, run_stage, say, took, warn
from pipeline.base.config import Experiment, Runtime, load_experiment
from pipeline.base.derived import seeds_of
from pipeline.base.libc import cores
from pipeline.base.settings import size_name
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import load_folds
from pipeline.figures.charts import blank_charts, finish_chart, prefixed
from pipeline.tuning.budget import cuts, plan, seconds_of_head

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer
    from pipeline.tuning.search import Choices

Rows = list[tuple[str, ...]]


def main(
    experiment: Annotated[str | None, typer.Argument(help="default: the machine alone")] = None,
    budget: Annotated[str | None, typer.Option(help="time that there is: 9h, 45m")] = None,
) -> None:
    started = time.monotonic()
    seconds = parse_duration(budget) if budget else None
    if seconds and experiment is None:
        raise UserError("--budget needs the EXPERIMENT that it is for")
    warn_if_busy()
    if experiment is None:
        out = card_of_machine()
    else:
        settings = load_experiment(experiment)
        data = load_prepared(settings), load_folds(settings)
        out, found = card_of_experiment(settings, *data, started)
        if seconds:
            parts = plan(settings, *data, found)
            seeds = len(set(seeds_of(experiment)))
            print_plan(settings, {name: s * seeds for name, s in parts.items()}, seconds)
    say("bench", f"{out}, {took(started)}")


def parse_duration(text: str) -> float:
    """Seconds of `9h`, `45m`, `90s`. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hms])", text)
    if not match or not float(match[1]):
        raise UserError(f"--budget: {text!r} is no time; write 9h, 45m or 90s")
    return float(match[1]) * {"h": 3600, "m": 60, "s": 1}[match[2]]


def warn_if_busy() -> None:
    load, n = os.getloadavg()[0], cores()
    if load > 0.3 * n:
        warn("bench", f"{load:.1f} processes run already on {n} cores: figures will be too low")


def card_of_machine() -> Path:
    """Measure the machine, print its table and draw its picture; returns where that is."""
    from pipeline.base.device import machine_folder
    from pipeline.tuning.machine import measure_machine  # late: torch

    card, folder = measure_machine(Runtime()), machine_folder(Runtime())
    records.write_json(folder / "card.json", card)
    print_table(describe_card(card))
    draw_card(folder)
    return folder / "card.png"


def describe_card(card: dict[str, Any]) -> Rows:
    """The machine's figures, a line each."""
    rows = []
    for device, rates in card["flops"].items():
        rows += [(device, name, prefixed(rate, "FLOP/s")) for name, rate in rates.items()]
        rows += [(device, "memory, read + write", prefixed(card["memory"][device], "B/s"))]
    return rows


def draw_card(folder: Path) -> None:
    """Roofline of each device with the measured backbones on it."""
    card = records.read_json(folder / "card.json")
    figure, (axes,) = blank_charts(1)
    for device, rates in card["flops"].items():
        for precision, peak in rates.items():
            ridge = peak / card["memory"][device]
            points = (ridge / 10, ridge, max(1000, 2 * ridge)), (peak / 10, peak, peak)
            axes.plot(*points, label=f"{device} {precision}")
    others = {folder / "card.json", *folder.glob("parts-*.json")}  # parts: of training's batches
    for path in sorted(set(folder.glob("*.json")) - others):
        found = records.read_json(path)
        point = found["flops"] / found["bytes"], found["flops"] * found["rates"]["forward"]
        axes.plot(*point, "o", label=f"{path.stem} px")
    name = ", ".join([card["machine"]["cpu"], *card["machine"]["gpus"]])
    caption = "lines: the best a device can do · points: what inference reaches, loader included"
    finish_chart(axes, f"Roofline: {name}", caption, "FLOP per byte of memory traffic", "FLOP/s")
    with records.writing(folder / "card.png") as tmp:
        figure.savefig(tmp, format="png")


def card_of_experiment(
    settings: Experiment, prepared: Prepared, table: pd.DataFrame, started: float
) -> tuple[Path, dict[str, Any]]:
    """Measure and choose, tell how, and write it for train and predict; also returns it."""
    from pipeline.base.device import tune_path  # late: torch
    from pipeline.tuning.machine import work_per_image
    from pipeline.tuning.search import search

    say("bench", f"{settings.model.backbone}, {size_name(settings.model.size)} px")
    measured = search(settings, lambda runtime: build(settings, prepared, table, runtime))
    trainer, choices, path = measured.trainer, measured.choices, tune_path(settings)
    fixed = settings.runtime.model_fields_set
    found = {
        "runtime": {name: value for name, value in choices.chosen.items() if name not in fixed},
        "rates": measured.rates,
        "pictures": trainer.batches.n,  # of an epoch, with external ones and pseudo-labels
        "start": measured.ready - started,
        "head": seconds_of_head(trainer),
        **work_per_image(trainer.accelerator.unwrap_model(trainer.model), settings.model.size),
    }
    records.write_json(path, found)
    print_table(describe_choices(choices))
    print_verdict(measured.rates)
    if path.with_name("card.json").exists():
        draw_card(path.parent)
    return path, found


def build(
    settings: Experiment, prepared: Prepared, table: pd.DataFrame, runtime: Runtime
) -> "Trainer":
    """The Trainer of fold 0 with its real weights: numbers of random ones underflow, slowly.

    It stands in the last epoch, when all is unfrozen that ever is.
    """
    from pipeline.train import make_trainer

    settings = settings.model_copy(update={"runtime": runtime})
    trainer = make_trainer(settings, 0, prepared, table)
    trainer.parts.kept = None  # a trial's lack of memory may be its own
    trainer.epoch = max(0, settings.train.epochs - 1)
    trainer.set_mode()
    return trainer


def describe_choices(choices: "Choices") -> Rows:
    """What was tried, how fast it was, and what train and predict will go by."""
    rows = []
    for name, value, rate in choices.tried:
        speed = f"{rate:,.0f} images/s" if rate else "no memory" if rate == 0 else "no time left"
        chosen = "chosen" if choices.chosen[name] == value else ""
        rows.append((f"{name}: {value}", speed, chosen))
    return rows


def print_verdict(rates: dict[str, float]) -> None:
    """Whether loader or device is what training waits for, and by how much."""
    loader, model, both = rates["loader"], rates["model"], rates["both"]
    bound = "loader-bound" if loader < model else "device-bound"
    factor = max(loader, model) / min(loader, model)
    say(
        "bench",
        f"{bound}: the loader alone gives {loader:,.0f} images/s, the training step alone takes "
        f"{model:,.0f} ({factor:.1f} times apart); both together {both:,.0f}, "
        f"{both / min(loader, model):.0%} of the slower",
    )


def print_plan(settings: Experiment, seconds: dict[str, float], budget: float) -> None:
    """The table of the parts, whether their sum fits, and else what to cut first."""
    total = sum(seconds.values())
    print_table([(name, duration(s), f"{s / total:.0%}") for name, s in seconds.items()])
    fits = "fits into" if total <= budget else "does NOT fit into"
    say("bench", f"in all {duration(total)}: {fits} {duration(budget)} ({total / budget:.0%})")
    for text in cuts(settings, seconds, budget):
        say("bench", f"cut  {text}")


if __name__ == "__main__":
    run_stage(main)
