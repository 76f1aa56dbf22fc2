"""The charts of a report. No name of a person's choosing is drawn: `$` would be a formula."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.analysis.calibration import Reliability
from pipeline.pages.page import ACCENT, BAD, INK, OTHER, SOFT, chart, svg

if TYPE_CHECKING:
    from markupsafe import Markup


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
    return svg(figure)


def draw_reliability(found: Reliability) -> "Markup":
    """Share that is right by confidence; on the diagonal probabilities mean what they say."""
    figure = chart(height=3.4)
    axes = figure.axes[0]
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
    axes.vlines(found.confidence, found.confidence, found.accuracy, color=BAD, alpha=0.6)
    size = 20 + 220 * np.sqrt(found.n / found.n.max())
    axes.scatter(found.confidence, found.accuracy, s=size, color=ACCENT, alpha=0.8, linewidth=0)
    axes.set(xlim=(0, 1.04), ylim=(0, 1.04))
    axes.set_xlabel("confidence of the answer", color=SOFT, fontsize=9)
    axes.set_ylabel("share that is right", color=SOFT, fontsize=9)
    return svg(figure)


def draw_confidence(confidence: np.ndarray, right: np.ndarray) -> "Markup":
    """How sure the right and the wrong answers are; counts on a logarithmic axis."""
    figure = chart(height=3.4)
    axes = figure.axes[0]
    bins = np.linspace(0, 1, 21)
    for rows, colour, label in ((right, ACCENT, "right"), (~right, BAD, "wrong")):
        axes.hist(confidence[rows], bins, color=colour, alpha=0.65, label=label, rwidth=0.92)
    axes.set_yscale("symlog", linthresh=10)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlim=(0, 1.02))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("confidence of the answer", color=SOFT, fontsize=9)
    axes.set_ylabel("pictures", color=SOFT, fontsize=9)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper center")
    return svg(figure)
