"""What a run learns while it learns: losses and score of every fold, drawn after each epoch."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.base import records
from pipeline.base.cli import mean_std
from pipeline.base.runs import fold_folders
from pipeline.figures.charts import GREY, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE = 0.05  # of the time, at most, that drawing may take


class LiveCurves:
    """Redraws runs/NAME/curves.png from the logs of all folds, whichever process wrote them."""

    def __init__(self, run: Path, metric: str):
        self.run, self.metric, self.rested = run, metric, 0.0

    def __call__(self, done: bool) -> None:
        """Draw, unless that was done a moment ago and more epochs follow."""
        if not done and time.monotonic() < self.rested:
            return
        started = time.monotonic()
        figure = draw_curves(read_logs(self.run), f"{self.run.name}, {self.metric}")
        with records.writing(self.run / "curves.png") as tmp:
            figure.savefig(tmp, format="png")
        now = time.monotonic()
        self.rested = now + (now - started) / SHARE


def read_logs(run: Path) -> dict[int, pd.DataFrame]:
    """fold: its log."""
    logs = {fold: folder / "log.csv" for fold, folder in fold_folders(run).items()}
    return {fold: pd.read_csv(log) for fold, log in logs.items() if log.exists()}


def draw_curves(logs: dict[int, pd.DataFrame], title: str) -> "Figure":
    """Left the losses, in training dashed; right the score of the held-out pictures."""
    from matplotlib.figure import Figure  # late: half a second
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure((11, 4.2), dpi=100, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for fold, log in logs.items():
        how = {"color": f"C{fold % 10}", "marker": "." if len(log) < 30 else ""}
        losses.plot(log.epoch, log.train_loss.clip(1e-6), linestyle="--", alpha=0.6, **how)
        losses.plot(log.epoch, log.valid_loss.clip(1e-6), **how)
        end = f"fold {fold}: {log.valid_score.iloc[-1]:.4f}"  # nan where all is trained on
        scores.plot(log.epoch, log.valid_score, label=end, **how)
    ends = [log.valid_score.iloc[-1] for log in logs.values()]
    losses.set_yscale("log")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter(NullFormatter())
    decorate(losses, "loss: held-out pictures, in training dashed")
    decorate(scores, f"{title} {mean_std(ends)}")
    scores.legend(loc="best", frameon=False, fontsize=9, labelcolor=GREY)
    return figure


def decorate(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    axes.set_xlabel("epoch (0: as the head begins)", color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(which="both", length=0, labelcolor=GREY)
    axes.grid(color=LINE)
    axes.spines[:].set_visible(False)
