"""The charts of a report. No name of a person's choosing is drawn: `$` would be a formula."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.inference.reliability import Reliability
from pipeline.pages.page import ACCENT, BAD, INK, OTHER, SOFT, chart, svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

DOTS = 2000  # of a scatter


def draw_curves(logs: Sequence[pd.DataFrame], column: str, other: str = "") -> "Markup":
    """A column of all folds' logs by epoch, its mean bold; `other` dashed beside it."""
    figure = chart()
    axes = figure.axes[0]
    for name, colour, style in ((column, ACCENT, "-"), (other, OTHER, "--")):
        if not name:
            continue
        for log in logs:
            axes.plot(log.epoch, log[name], style, color=colour, linewidth=0.8, alpha=0.45)
        mean = pd.concat(logs).groupby("epoch")[name].mean()
        axes.plot(mean.index, mean, style, color=colour, linewidth=2.2, label=in_words(name))
    axes.set_xlabel("epoch (0: the head before training)", color=SOFT, fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if other:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(figure)


def in_words(column: str) -> str:
    kind, _, what = column.partition("_")
    return {"train": "training", "valid": "held-out"}.get(kind, kind) + " " + what


def draw_folds(scores: Sequence[float], folds: Sequence[int]) -> "Markup":
    """A dot for each fold around their mean, ± one deviation shaded."""
    figure = chart(height=1.5)
    axes = figure.axes[0]
    mean, spread = np.mean(scores), np.std(scores, ddof=1) if len(scores) > 1 else 0.0
    axes.axvspan(mean - spread, mean + spread, color=ACCENT, alpha=0.13, linewidth=0)
    axes.axvline(mean, color=ACCENT, linewidth=2)
    axes.plot(scores, range(len(scores)), "o", color=INK, markersize=6)
    if len(scores) <= 10:
        axes.set_yticks(range(len(scores)), [f"fold {fold}" for fold in folds])
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=5)
    return svg(figure)


def draw_reliability(found: Reliability, x: str, y: str) -> "Markup":
    """Share that is right (`y`) by confidence (`x`): on the diagonal they mean what they say."""
    figure = chart(height=3.4)
    axes = figure.axes[0]
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
    axes.vlines(found.confidence, found.confidence, found.accuracy, color=BAD, alpha=0.6)
    size = 20 + 220 * np.sqrt(found.n / found.n.max())
    axes.scatter(found.confidence, found.accuracy, s=size, color=ACCENT, alpha=0.8, linewidth=0)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04))
    return labelled(axes, x, y)


def draw_confidence(
    confidence: np.ndarray, right: np.ndarray, names: tuple[str, str], x: str
) -> "Markup":
    """How sure the right and the wrong answers (`names`) are; counts on a logarithmic axis."""
    figure = chart(height=3.4)
    axes = figure.axes[0]
    bins = np.linspace(0, 1, 21)
    for rows, colour, label in ((right, ACCENT, names[0]), (~right, BAD, names[1])):
        axes.hist(confidence[rows], bins, color=colour, alpha=0.65, label=label, rwidth=0.92)
    axes.set_yscale("symlog", linthresh=10)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlim=(0, 1.02))
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper center")
    return labelled(axes, x, "pictures")


def draw_curve(
    x: np.ndarray, y: np.ndarray, at: tuple[float, float], names: tuple[str, str]
) -> "Markup":
    """A curve in the unit square with a dot where the threshold lies."""
    figure = chart(height=3.4)
    axes = figure.axes[0]
    axes.plot(x, y, color=ACCENT, linewidth=2)
    axes.plot(*at, "o", color=BAD, markersize=9)
    axes.set(xlim=(-0.02, 1.04), ylim=(-0.02, 1.04))
    return labelled(axes, *names)


def draw_levels(prob: np.ndarray, target: np.ndarray, cuts: Sequence[float]) -> "Markup":
    """A dot for each picture: its prediction, in the row of its level; lines: the cuts."""
    figure = chart(height=3.4)
    axes, random = figure.axes[0], np.random.default_rng(0)
    rows = sampled(len(prob), random)
    side = random.uniform(-0.32, 0.32, len(rows))
    bounds = np.sort([-np.inf, *cuts, np.inf])
    low = target.min()
    right = np.digitize(prob[rows], bounds[1:-1]) + low == target[rows]
    for which, colour in ((right, ACCENT), (~right, BAD)):
        dots = prob[rows][which], (target[rows] + side)[which]
        axes.scatter(*dots, s=9, color=colour, alpha=0.5, linewidth=0)
    for cut in cuts:
        axes.axvline(cut, color=SOFT, linewidth=1, linestyle="--")
    axes.yaxis.get_major_locator().set_params(integer=True)
    return labelled(axes, "predicted", "level")


def draw_numbers(target: np.ndarray, prob: np.ndarray) -> "Markup":
    """Predicted against true; on the diagonal both are equal."""
    figure = chart(height=3.4)
    axes, rows = figure.axes[0], sampled(len(prob), np.random.default_rng(0))
    ends = [target.min(), target.max()]
    axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle="--")
    axes.scatter(target[rows], prob[rows], s=12, color=ACCENT, alpha=0.5, linewidth=0)
    return labelled(axes, "true", "predicted")


def draw_residuals(residual: np.ndarray) -> "Markup":
    """How far predictions lie off; the line is their mean."""
    figure = chart(height=3.4)
    axes = figure.axes[0]
    axes.hist(residual, 30, color=ACCENT, alpha=0.65, rwidth=0.92)
    axes.axvline(residual.mean(), color=BAD, linewidth=2)
    axes.grid(visible=False, axis="x")
    return labelled(axes, "predicted less true; the line is the mean", "pictures")


def sampled(n: int, random: np.random.Generator) -> np.ndarray:
    """Rows to draw, by chance: more dots hide each other, and make a page slow."""
    return random.permutation(n)[:DOTS]


def labelled(axes: "Axes", x: str, y: str) -> "Markup":
    axes.set_xlabel(x, color=SOFT, fontsize=9)
    axes.set_ylabel(y, color=SOFT, fontsize=9)
    return svg(axes.figure)
