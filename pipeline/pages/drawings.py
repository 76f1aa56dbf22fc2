"""The charts of a report. No name of a person's choosing is drawn: `$` would be a formula."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.inference.reliability import Reliability
from pipeline.pages.page import ACCENT, BAD, INK, OTHER, SOFT, chart, svg

if TYPE_CHECKING:
    from markupsafe import Markup

DOTS = 2000  # of a scatter


def draw_curves(logs: Sequence[pd.DataFrame], *columns: str) -> "Markup":
    """A column of all folds' logs by epoch, its mean bold; a second one dashed beside it."""
    axes = chart(2.7)
    for name, colour, style in zip(columns, (ACCENT, OTHER), ("-", "--"), strict=False):
        for log in logs:
            axes.plot(log.epoch, log[name], style, color=colour, linewidth=0.8, alpha=0.45)
        mean = pd.concat(logs).groupby("epoch")[name].mean()
        axes.plot(mean.index, mean, style, color=colour, linewidth=2.2, label=in_words(name))
    axes.set_xlabel("epoch (0: the head before training)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(columns) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(axes)


def in_words(column: str) -> str:
    kind, _, what = column.partition("_")
    return {"train": "training", "valid": "held-out"}.get(kind, kind) + " " + what


def draw_folds(scores: Sequence[float], folds: Sequence[int]) -> "Markup":
    """A dot for each fold around their mean, ± one deviation shaded."""
    axes = chart(1.5)
    mean, spread = np.mean(scores), np.std(scores, ddof=1) if len(scores) > 1 else 0.0
    axes.axvspan(mean - spread, mean + spread, color=ACCENT, alpha=0.13, linewidth=0)
    axes.axvline(mean, color=ACCENT, linewidth=2)
    axes.plot(scores, range(len(scores)), "o", color=INK, markersize=6)
    if len(scores) <= 10:
        axes.set_yticks(range(len(scores)), [f"fold {fold}" for fold in folds])
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=5)
    return svg(axes)


def draw_reliability(found: Reliability, x: str, y: str) -> "Markup":
    """Share that is right (`y`) by confidence (`x`): on the diagonal they mean what they say."""
    axes = chart()
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
    axes.vlines(found.confidence, found.confidence, found.accuracy, color=BAD, alpha=0.6)
    size = 20 + 220 * np.sqrt(found.n / found.n.max())
    axes.scatter(found.confidence, found.accuracy, s=size, color=ACCENT, alpha=0.8, linewidth=0)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel=x, ylabel=y)
    return svg(axes)


def draw_confidence(
    confidence: np.ndarray, right: np.ndarray, names: tuple[str, str], x: str
) -> "Markup":
    """How sure the right and the wrong answers (`names`) are; counts on a logarithmic axis."""
    axes = chart()
    bins = np.linspace(0, 1, 21)
    for rows, colour, label in ((right, ACCENT, names[0]), (~right, BAD, names[1])):
        axes.hist(confidence[rows], bins, color=colour, alpha=0.65, label=label, rwidth=0.92)
    axes.set_yscale("symlog", linthresh=10)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlim=(0, 1.02), xlabel=x, ylabel="pictures")
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper center")
    return svg(axes)


def draw_curve(
    x: np.ndarray, y: np.ndarray, at: tuple[float, float], names: tuple[str, str]
) -> "Markup":
    """A curve in the unit square with a dot where the threshold lies."""
    axes = chart()
    axes.plot(x, y, color=ACCENT, linewidth=2)
    axes.plot(*at, "o", color=BAD, markersize=9)
    axes.set(xlim=(-0.02, 1.04), ylim=(-0.02, 1.04), xlabel=names[0], ylabel=names[1])
    return svg(axes)


def draw_levels(
    prob: np.ndarray, target: np.ndarray, right: np.ndarray, cuts: Sequence[float]
) -> "Markup":
    """A dot for each picture: its prediction, in the row of its level; lines: the cuts."""
    axes, random = chart(), np.random.default_rng(0)
    rows = sampled(len(prob), random)
    side = random.uniform(-0.32, 0.32, len(rows))
    for which, colour in ((right[rows], ACCENT), (~right[rows], BAD)):
        dots = prob[rows][which], (target[rows] + side)[which]
        axes.scatter(*dots, s=9, color=colour, alpha=0.5, linewidth=0)
    for cut in cuts:
        axes.axvline(cut, color=SOFT, linewidth=1, linestyle="--")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="predicted", ylabel="level")
    return svg(axes)


def draw_numbers(target: np.ndarray, prob: np.ndarray) -> "Markup":
    """Predicted against true; on the diagonal both are equal."""
    axes, rows = chart(), sampled(len(prob), np.random.default_rng(0))
    ends = [target.min(), target.max()]
    axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle="--")
    axes.scatter(target[rows], prob[rows], s=12, color=ACCENT, alpha=0.5, linewidth=0)
    axes.set(xlabel="true", ylabel="predicted")
    return svg(axes)


def draw_residuals(residual: np.ndarray) -> "Markup":
    """How far predictions lie off; the line is their mean."""
    axes = chart()
    axes.hist(residual, 30, color=ACCENT, alpha=0.65, rwidth=0.92)
    axes.axvline(residual.mean(), color=BAD, linewidth=2)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="predicted less true; the line is the mean", ylabel="pictures")
    return svg(axes)


def sampled(n: int, random: np.random.Generator) -> np.ndarray:
    """Rows to draw, by chance: more dots hide each other, and make a page slow."""
    return random.permutation(n)[:DOTS]
