"""The parts of a report: each picks its rows and pictures; the template only lays them out."""

from typing import Any

import numpy as np

from pipeline.analysis.blend_weights import nested_weights
from pipeline.analysis.classes import ceiling, class_table, worst_pairs
from pipeline.analysis.evidence import Evidence
from pipeline.analysis.listing import hidden_score
from pipeline.analysis.neighbours import neighbours
from pipeline.analysis.paired import interval
from pipeline.analysis.suspects import suspects
from pipeline.base.cli import mean_std
from pipeline.base.config import root
from pipeline.base.runs import cv_of
from pipeline.data.splits import slices
from pipeline.figures.curves import read_logs
from pipeline.inference.reliability import reliability
from pipeline.pages.album import Album
from pipeline.pages.drawings import draw_confidence, draw_curves, draw_folds, draw_reliability
from pipeline.pages.heat import overlays
from pipeline.pages.origins import cost_of, members_of
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
    for name, rows in slices(evidence.table, evidence.rules).items():
        if name in scores and (name == "all" or 0 < rows.sum() < len(rows)):
            low, high = interval(metric, evidence.target[rows], evidence.prob[rows], group[rows])
            about = {"name": SLICES[name], "score": f"{scores[name]:.4f}", "n": int(rows.sum())}
            parts.append(about | {"low": f"{low:.4f}", "high": f"{high:.4f}"})
    return {
        "metric": metric.replace("_", " "),
        "cv": mean_std(scores["folds"]),
        "folds": len(scores["folds"]),
        "slices": parts,
        "told": told(evidence),
        "nested": nested(evidence),
        "nested_weights": nested_weights(evidence.record),
        "hidden": hidden_score(evidence.name),
        "cost": cost_of(evidence),
        "members": members_of(evidence),
    }


def told(evidence: Evidence) -> str:
    """What the whole page is about, in a sentence."""
    n, wrong = len(evidence.table), int((~evidence.right).sum())
    what, of = ("ids" if evidence.rules.picture else "pictures"), len(evidence.classes)
    if evidence.kind == "chances":
        missed, added = evidence.target & ~evidence.answer, evidence.answer & ~evidence.target
        text = f"{missed.sum():,} labels are missed and {added.sum():,} wrongly given"
        return f"On {wrong:,} of {n:,} held-out {what} one of {of} labels or more is wrong: {text}."
    if evidence.rules.task == "ordinal":
        far = (evidence.errors > 1).sum()
        text = f"{wrong:,} of {n:,} held-out {what} are called another level"
        return f"{text}, {far:,} of them by more than one."
    if evidence.kind == "numbers":
        off = np.abs(evidence.prob - evidence.target).mean(0)
        each = " and ".join(
            f"{x:.3g}{f' ({name})' * (of > 1)}"
            for name, x in zip(evidence.classes, off, strict=True)
        )
        return f"{n:,} held-out {what} are off by {each} on average."
    text = f"{wrong:,} of {n:,} held-out {what} are called wrong, of {of} classes"
    if (k := evidence.rules.k) > 1:
        text += f"; of {(evidence.errors == 1).sum():,} the class is not among the {k} answered"
    return f"{text}."


def nested(evidence: Evidence) -> float | None:
    """The score by thresholds, cuts or scales that are fitted without the fold they decide; None
    where what decides the answers is not fitted."""
    found, made = evidence.record.get("decided", {}), evidence.decision
    if not (found.get("taken") and made and made.fact == evidence.record["decision"]):
        return None  # a power decides no answer
    return found["nested"]


def training(evidence: Evidence) -> dict[str, Any]:
    """Curves of the first member's folds where it was trained, and the blend's score by fold."""
    logs = read_logs(root("runs") / evidence.settings.name)
    logs = [log for fold, log in logs.items() if fold in evidence.folds]
    trained = bool(logs) and all(len(log) > 1 for log in logs)
    return {
        "score": draw_curves(logs, "valid_score") if trained else "",
        "loss": draw_curves(logs, "train_loss", "valid_loss") if trained else "",
        "folds": draw_folds(cv_of(evidence.record)["folds"], evidence.folds),
    }


def calibration(evidence: Evidence) -> dict[str, Any] | None:
    """Of the likeliest classes, or of every label's chance; numbers have none."""
    if evidence.kind == "numbers":
        return None
    if evidence.kind == "chances":
        confidence, right = evidence.prob.ravel(), evidence.target.ravel()
        names, x, y = ("has the label", "has it not"), "chance of a label", "share that has it"
    else:  # of the likeliest class, which thresholds may not answer
        confidence, right = evidence.prob.max(1), evidence.prob.argmax(1) == evidence.target
        names, x, y = ("right", "wrong"), "confidence of the likeliest", "share that is right"
    found = reliability(confidence, right)
    return {
        "ece": found.ece,
        "gap": found.overconfident,
        "reliability": draw_reliability(found, x, y),
        "confidence": draw_confidence(confidence, right, names, x),
        "words": (f"{y}, by {x}".capitalize(), x.capitalize()),
        "chances": evidence.kind == "chances",
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
    (label,), (answer,) = (
        evidence.told(x[row : row + 1]) for x in (evidence.target, evidence.answer)
    )
    right, at = bool(evidence.right[row]), evidence.table.row.iloc[row]
    if evidence.kind != "shares":
        mark = "" if right or evidence.decision is None else "bad"
        return album.picture(at, label, f"{evidence.verb} {answer}", mark)
    sure, own = (evidence.prob[row, x[row]] for x in (evidence.answer, evidence.target))
    wrong = f"called {answer} {percent(sure, 0)}, label {percent(own, 0)}"
    text = f"{percent(sure, 0)} sure" if right else wrong
    return album.picture(at, label, text, "" if right else "bad")


def losses(evidence: Evidence, album: Album, features: np.ndarray | None) -> list[dict[str, Any]]:
    """The pictures whose label got the least probability, or whose numbers lie furthest off.

    With features: the nearest in training, what kind of error it is, and where the model looked.
    """
    worst = np.argsort(-evidence.surprise, kind="stable")[:LOSSES]
    worst = worst[~evidence.right[worst]]
    found = [{"picture": answered(evidence, album, row), "near": [], "kind": ""} for row in worst]
    if features is None or not found:
        return found
    near = neighbours(features, features, NEAR, evidence.table.group)
    kinds, heats = suspects(evidence, near).kind, overlays(evidence, album, worst)
    kinds = kinds[~kinds.index.duplicated()]
    for row, error in zip(worst, found, strict=True):
        alike = near[0][row][:NEAREST]
        error["near"] = [training_picture(evidence, album, other) for other in alike]
        error["kind"] = kinds.get(row, "")
        error["picture"]["heat"] = heats.get(int(row), "")
    return found


def training_picture(evidence: Evidence, album: Album, row: int, text: str = "") -> Picture:
    (label,) = evidence.told(evidence.target[row : row + 1])
    return album.picture(evidence.table.row.iloc[row], label, text)


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


def twins(evidence: Evidence, album: Album) -> dict[str, Any] | None:
    """Groups of equal pictures whose labels contradict each other, and what they cost."""
    table, conflicts = evidence.table, evidence.conflicts
    if not evidence.twins.any():
        return None
    alike = table[conflicts].groupby(evidence.pixels[conflicts], sort=False)
    groups = list(alike.groups.values())
    return {
        "twins": int(evidence.twins.sum()),
        "conflicts": int(conflicts.sum()),
        "groups": len(groups),
        "ceiling": ceiling(evidence.pixels, table.label) if evidence.kind == "shares" else None,
        "shown": [[answered(evidence, album, row) for row in rows[:4]] for rows in groups[:STRIP]],
    }
