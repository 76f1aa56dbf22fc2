"""What the review page offers of one picture: classes, labels or numbers, and who looks alike."""

from typing import Any

import numpy as np

from pipeline.analysis.evidence import Evidence
from pipeline.base.forms import class_order

TOP = 9  # classes of a picture: as many as there are keys
Item = dict[str, Any]


def about(evidence: Evidence) -> Item:
    """What the page's script goes by, wherever it lies."""
    task, names = evidence.rules.task, evidence.classes
    if task == "ordinal":
        names = class_order(set(evidence.table.label))
    form = evidence.rules.form
    joint = form.joint if task == "multi-label" else ""
    about = {"task": task, "kind": evidence.kind, "joint": joint, "some": form.some}
    return {"name": evidence.name, "classes": names, **about}


def choices(evidence: Evidence, i: int, test: bool, asked: list[str]) -> list[Item]:
    """Lines under a picture of row `i`: class, target (its number), prob, and each member's.

    Of a class the likeliest, and those in `asked`; of labels the most wrong and the likeliest; of
    levels the nearest, where prob is how near; of numbers the columns, with a text instead.
    """
    prob = (evidence.test_prob if test else evidence.prob)[i]
    members = {} if test or len(evidence.members) < 2 else evidence.members
    each = {name: found[i] for name, found in members.items()}
    if evidence.rules.task == "ordinal":
        return levels(evidence, prob, each, asked)
    if evidence.kind == "numbers":
        return columns(evidence, i, test, prob, each)
    order = likeliest(evidence, prob, asked)
    if evidence.kind == "chances":
        target = np.zeros(len(prob)) if test else evidence.target[i]
        wrong = np.where(np.abs(prob - target) > 0.5, 2 + np.abs(prob - target), 0)
        order = [int(c) for c in np.argsort(-(wrong + prob + target), kind="stable")[:TOP]]
    return [
        {
            "class": evidence.classes[c],
            "target": c,
            "prob": round(float(prob[c]), 4),
            "members": {name: round(float(one[c]), 3) for name, one in each.items()},
        }
        for c in order
    ]


def likeliest(evidence: Evidence, prob: np.ndarray, asked: list[str]) -> list[int]:
    """The likeliest classes, 3 to TOP; the last give way to those in `asked`, its label first."""
    likely = max(3, min(TOP, int((prob > 0.001).sum())))
    order = [int(c) for c in np.argsort(-prob, kind="stable")[:likely]]
    if evidence.kind != "shares":
        return order
    wanted = [evidence.classes.index(name) for name in asked if name]
    free = [place for place, c in enumerate(order) if c not in wanted]
    for c in wanted:
        if c not in order and free:
            order[free.pop()] = c
    return order


def levels(
    evidence: Evidence, prob: np.ndarray, each: dict[str, np.ndarray], asked: list[str]
) -> list[Item]:
    known = np.unique(evidence.target)
    near = 1 - np.minimum(np.abs(known - prob[0]), 1)
    wanted = np.isin([f"{level:.0f}" for level in known], asked)
    kept = np.sort(np.argsort(np.abs(known - prob[0]) - 1e6 * wanted, kind="stable")[:TOP])
    members = {name: round(float(one[0]), 2) for name, one in each.items()}
    return [
        {"class": f"{known[j]:.0f}", "target": 0, "prob": float(near[j]), "members": members}
        for j in kept
    ]


def columns(
    evidence: Evidence, i: int, test: bool, prob: np.ndarray, each: dict[str, np.ndarray]
) -> list[Item]:
    texts = [f"{value:.4g}" for value in prob]
    if not test:
        each_of = zip(texts, prob, evidence.target[i], strict=True)
        texts = [f"{text} ({value - own:+.3g})" for text, value, own in each_of]
    return [
        {
            "class": name,
            "target": c,
            "text": texts[c],
            "members": {run: round(float(one[c]), 3) for run, one in each.items()},
        }
        for c, name in enumerate(evidence.classes[:TOP])
    ]


def sides(evidence: Evidence, top: list[Item], asked: list[str]) -> list[tuple[str, np.ndarray]]:
    """Of what the page shows look-alikes: a heading and the rows (bool [n]) for each."""
    target, names = evidence.target, evidence.classes
    if evidence.kind == "numbers":
        return [("", np.ones(len(target), bool))]
    if evidence.kind == "chances":
        c = top[0]["target"]
        return [(f"with {names[c]}", target[:, c]), (f"without {names[c]}", ~target[:, c])]
    listed = [one["class"] for one in top]
    own = asked[0] if asked and asked[0] else listed[0]
    other = asked[1] if len(asked) > 1 and asked[1] else next((c for c in listed if c != own), own)
    both = dict.fromkeys([own, other])
    return [(f"of {name}", target == names.index(name)) for name in both]
