"""The parts of a report that one task alone has: thresholds, labels, levels, numbers."""

from typing import Any

import numpy as np

from pipeline.analysis.classes import confusion, label_table, number_table
from pipeline.analysis.evidence import Evidence
from pipeline.pages.album import Album
from pipeline.pages.drawings import draw_curve, draw_levels, draw_numbers, draw_residuals
from pipeline.pages.page import percent
from pipeline.pages.sections import ALIKE, Picture, answered, nested

LABELS = 10  # whose wrong pictures are shown
COLUMNS = 6  # of numbers that are drawn
COMMON = 12  # labels, the most frequent, of which is told how they stand together


def own_parts(evidence: Evidence, album: Album) -> dict[str, Any]:
    """What the blend's task has beside the parts of all tasks."""
    task = evidence.rules.task
    return {
        "threshold": threshold(evidence) if task == "binary" else None,
        "labels": labels(evidence) if task == "multi-label" else None,
        "mistaken": mistaken(evidence, album) if task == "multi-label" else None,
        "levels": levels(evidence) if task == "ordinal" else None,
        "numbers": numbers(evidence) if task == "regression" else None,
    }


def threshold(evidence: Evidence) -> dict[str, Any]:
    """ROC and precision-recall curves, and what lies on which side of the threshold."""
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

    truth, chance = evidence.target == 1, evidence.prob[:, 1]
    called = evidence.answer == 1
    false, true, _ = roc_curve(truth, chance)
    precision, recall, _ = precision_recall_curve(truth, chance)
    counts = confusion(evidence.target, evidence.answer, 2)
    hit, alarm = counts[1, 1] / max(truth.sum(), 1), counts[0, 1] / max((~truth).sum(), 1)
    precise = counts[1, 1] / called.sum() if called.any() else np.nan
    return {
        "at": f"{evidence.decision.numbers[0]:.3g}",
        "fitted": nested(evidence) is not None,
        "auc": f"{auc(false, true):.4f}",
        "ap": f"{average_precision_score(truth, chance):.4f}",
        "recall": hit,
        "precision": precise,
        "roc": draw_curve(false, true, (alarm, hit), ("called so, of the others", "found")),
        "curve": draw_curve(
            recall, precision, (hit, precise), ("found", "right of those called so")
        ),
        "matrix": matrix(counts, evidence.classes),
        "positive": evidence.classes[1],
    }


def matrix(counts: np.ndarray, names: list[str], of: np.ndarray | None = None) -> dict[str, Any]:
    """Rows of a table: what is true, how often it was called what, and the share of its row.

    `of` [n] is what these are shares of, where that is not the row's sum.
    """
    shares = counts / np.maximum(counts.sum(1) if of is None else of, 1)[:, None]
    cells = [list(zip(*row, strict=True)) for row in zip(counts.tolist(), shares, strict=True)]
    return {"names": names, "rows": list(zip(names, cells, strict=True))}


def labels(evidence: Evidence) -> dict[str, Any]:
    """A row of each label, the lowest average precision first, with its threshold."""
    table = label_table(evidence.target, evidence.prob, evidence.answer, evidence.classes)
    table["threshold"] = evidence.decision.numbers
    rows = table.sort_values(["ap", "n"], kind="stable").to_dict("records")
    return {"rows": rows, "fitted": nested(evidence) is not None, "pairs": together(evidence)}


def together(evidence: Evidence) -> dict[str, Any]:
    """How many pictures have both of two labels, and are given both; nothing where none has."""
    often = np.sort(np.argsort(-evidence.target.sum(0), kind="stable")[:COMMON])
    names, sides = [evidence.classes[i] for i in often], (evidence.target, evidence.answer)
    counts = [side[:, often].T.astype(int) @ side[:, often] for side in sides]
    if not any((both - np.diag(np.diag(both))).any() for both in counts):
        return {}
    tables = (matrix(both, names, np.diag(both)) for both in counts)
    return dict(zip(("labelled", "answered"), tables, strict=True))


def mistaken(evidence: Evidence, album: Album) -> list[dict[str, Any]]:
    """Labels with most errors: pictures that have one and are not given it, and the other way."""
    target, answer, prob = evidence.target, evidence.answer, evidence.prob
    times, found = (target != answer).sum(0), []
    for i in np.argsort(-times, kind="stable")[:LABELS]:
        order = np.argsort(prob[:, i], kind="stable")
        missed = [row for row in order if target[row, i] and not answer[row, i]]
        added = [row for row in order[::-1] if answer[row, i] and not target[row, i]]
        if times[i]:
            sides = {"missed": missed, "added": added}
            shown = {k: [given(evidence, album, r, i) for r in v[:ALIKE]] for k, v in sides.items()}
            counts = {f"n_{k}": len(v) for k, v in sides.items()}
            found.append({"name": evidence.classes[i], **shown, **counts})
    return found


def given(evidence: Evidence, album: Album, row: int, label: int) -> Picture:
    """A picture with the chance of a label."""
    picture = answered(evidence, album, row)
    return picture | {"text": f"chance {percent(evidence.prob[row, label], 0)}", "mark": "bad"}


def levels(evidence: Evidence) -> dict[str, Any]:
    """Which level is called which, and where the predictions lie between the cuts."""
    low = min(evidence.target.min(), evidence.answer.min())
    true, called = ((x[:, 0] - low).astype(int) for x in (evidence.target, evidence.answer))
    n = int(max(true.max(), called.max())) + 1
    names = [str(int(low) + i) for i in range(n)]
    places = (evidence.prob[:, 0], evidence.target[:, 0], evidence.right)
    return {
        "matrix": matrix(confusion(true, called, n), names),
        "cuts": ", ".join(f"{cut:.3g}" for cut in evidence.decision.numbers),
        "fitted": nested(evidence) is not None,
        "right": evidence.right.mean(),
        "near": (evidence.errors <= 1).mean(),
        "chart": draw_levels(*places, evidence.decision.numbers),
    }


def numbers(evidence: Evidence) -> dict[str, Any]:
    """Scores of each column, and charts of the first: predicted against true, and the errors."""
    target, prob = evidence.target, evidence.prob
    charts = [
        {
            "name": name,
            "scatter": draw_numbers(target[:, i], prob[:, i]),
            "residuals": draw_residuals(prob[:, i] - target[:, i]),
        }
        for i, name in enumerate(evidence.classes[:COLUMNS])
    ]
    rows = number_table(target, prob, evidence.classes).to_dict("records")
    return {"rows": rows, "charts": charts}
