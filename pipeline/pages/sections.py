"""The parts of a report: each picks its rows and pictures; the template only lays them out."""

from typing import Any

import numpy as np

from pipeline.analysis.calibration import interval, reliability
from pipeline.analysis.classes import ceiling, class_table, worst_pairs
from pipeline.analysis.evidence import Evidence
from pipeline.analysis.neighbours import neighbours
from pipeline.analysis.suspects import suspects
from pipeline.base.cli import mean_std
from pipeline.base.runs import cv_of
from pipeline.data.splits import slices
from pipeline.pages.album import Album
from pipeline.pages.drawings import draw_confidence, draw_curves, draw_folds, draw_reliability
from pipeline.pages.heat import overlays
from pipeline.pages.origins import cost_of, hidden_score, logs_of, members_of
from pipeline.pages.page import percent

PAIRS, LOSSES, STRIP = 10, 24, 16  # of classes; of pictures with the largest loss; of a strip
NEAR, NEAREST, ALIKE = 10, 4, 6  # neighbours that vote; shown of them; of each side of a pair
Picture = dict[str, Any]
SLICES = {
    "all": "all pictures",
    "no_twins": "without twins",
    "no_conflicts": "without contradictory twins",
    "untouched": "that no decision touched",
}


def overview(evidence: Evidence) -> dict[str, Any]:
    """Scores with their spread and intervals, cost, members."""
    scores, metric = cv_of(evidence.record), evidence.record["metric"]
    group, parts = evidence.table.group.to_numpy(), []
    for name, rows in slices(evidence.table).items():
        if rows.any() and name in scores:
            low, high = interval(metric, evidence.target[rows], evidence.prob[rows], group[rows])
            about = {"name": SLICES[name], "score": f"{scores[name]:.4f}", "n": int(rows.sum())}
            parts.append(about | {"low": f"{low:.4f}", "high": f"{high:.4f}"})
    return {
        "metric": metric.replace("_", " "),
        "cv": mean_std(scores["folds"]),
        "folds": len(scores["folds"]),
        "slices": parts,
        "wrong": int((~evidence.right).sum()),
        "hidden": hidden_score(evidence.name),
        "cost": cost_of(evidence).words(),
        "members": members_of(evidence),
    }


def training(evidence: Evidence) -> dict[str, Any]:
    """Curves of the first member's folds where it was trained, and the blend's score by fold."""
    logs = logs_of(evidence.settings.name, evidence.folds)
    trained = bool(logs) and all(len(log) > 1 for log in logs)
    return {
        "score": draw_curves(logs, "valid_score") if trained else "",
        "loss": draw_curves(logs, "train_loss", "valid_loss") if trained else "",
        "folds": draw_folds(cv_of(evidence.record)["folds"], evidence.folds),
    }


def calibration(evidence: Evidence) -> dict[str, Any]:
    confidence = evidence.prob.max(1)
    found = reliability(confidence, evidence.right)
    return {
        "ece": found.ece,
        "gap": found.overconfident,
        "reliability": draw_reliability(found),
        "confidence": draw_confidence(confidence, evidence.right),
    }


def classes(evidence: Evidence) -> list[dict[str, Any]]:
    """A row of each class, the lowest recall first."""
    table = class_table(evidence.target, evidence.answer, evidence.classes)
    names = [*evidence.classes, ""]  # -1: never confused
    table["confused"] = [names[i] for i in table.confused]
    return table.sort_values(["recall", "n"], kind="stable").to_dict("records")


def confusions(evidence: Evidence, album: Album) -> list[dict[str, Any]]:
    """Pairs of classes: what was taken for the other, and what the other really looks like."""
    target, answer, found = evidence.target, evidence.answer, []
    pairs = worst_pairs(target, answer, len(evidence.classes), PAIRS)
    for true, called, times in [pair for pair in pairs if pair[2] > 1] or pairs[:3]:
        wrong = np.flatnonzero((target == true) & (answer == called))
        back = np.flatnonzero((target == called) & (answer == true))
        other = np.flatnonzero((target == called) & evidence.right)
        shown = np.concatenate([surest(evidence, rows) for rows in (wrong, back)])[:ALIKE]
        found.append(
            {
                "true": evidence.classes[true],
                "called": evidence.classes[called],
                "times": times,
                "wrong": [answered(evidence, album, row) for row in shown],
                "other": [answered(evidence, album, r) for r in surest(evidence, other)[:ALIKE]],
            }
        )
    return found


def surest(evidence: Evidence, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` with the most certain answers first, one of a group of twins."""
    rows = rows[np.argsort(-evidence.prob[rows].max(1), kind="stable")]
    return rows[~evidence.table.group.iloc[rows].duplicated().to_numpy()]


def answered(evidence: Evidence, album: Album, row: int) -> Picture:
    """A training picture with its label, and where the answer is another one with that."""
    label, answer = evidence.table.label.iloc[row], evidence.classes[evidence.answer[row]]
    sure, own = evidence.prob[row].max(), evidence.prob[row, evidence.target[row]]
    right = bool(evidence.right[row])
    wrong = f"called {answer} {percent(sure, 0)}, label {percent(own, 0)}"
    text = f"{percent(sure, 0)} sure" if right else wrong
    at = evidence.table.row.iloc[row]
    return album.picture(at, label, text, "" if right else "bad")


def losses(evidence: Evidence, album: Album, features: np.ndarray | None) -> list[dict[str, Any]]:
    """The pictures whose label got the least probability.

    With features: the nearest in training, what kind of error it is, and where the model looked.
    """
    own = evidence.prob[np.arange(len(evidence.prob)), evidence.target]
    worst = np.argsort(own, kind="stable")[:LOSSES]
    worst = worst[~evidence.right[worst]]
    found = [{"picture": answered(evidence, album, row), "near": [], "kind": ""} for row in worst]
    if features is None or not found:
        return found
    near = neighbours(features, features, NEAR)
    kinds, heats = suspects(evidence, near).kind, overlays(evidence, album, worst)
    for row, error in zip(worst, found, strict=True):
        alike = near[0][row][:NEAREST]
        error["near"] = [training_picture(evidence, album, other) for other in alike]
        error["kind"] = kinds.get(row, "")
        error["picture"]["heat"] = heats.get(int(row), "")
    return found


def training_picture(evidence: Evidence, album: Album, row: int) -> Picture:
    return album.picture(evidence.table.row.iloc[row], evidence.table.label.iloc[row])


def extremes(evidence: Evidence, album: Album) -> dict[str, list[Picture]]:
    """The surest right answers, one a class, and the least sure answers of all."""
    best = np.sort(evidence.prob, axis=1)
    sure = surest(evidence, np.flatnonzero(evidence.right))
    _, first = np.unique(evidence.target[sure], return_index=True)
    unsure = np.argsort(best[:, -1] - best[:, -2], kind="stable")[:STRIP]
    return {
        "sure": [answered(evidence, album, row) for row in sure[np.sort(first)][:STRIP]],
        "unsure": [answered(evidence, album, row) for row in unsure],
    }


def twins(evidence: Evidence, album: Album) -> dict[str, Any]:
    """Groups of equal pictures whose labels contradict each other, and what they cost."""
    table, conflicts = evidence.table, evidence.conflicts
    groups = [rows for _, rows in table[conflicts].groupby("group", sort=False).groups.items()]
    return {
        "twins": int(evidence.twins.sum()),
        "conflicts": int(conflicts.sum()),
        "groups": len(groups),
        "ceiling": ceiling(table.group, table.label),
        "shown": [[answered(evidence, album, row) for row in rows[:4]] for rows in groups[:STRIP]],
    }
