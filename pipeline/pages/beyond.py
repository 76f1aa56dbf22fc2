"""The parts of a report beyond the held-out pictures: test, drift, map, members, another run."""

from typing import Any

import numpy as np

from pipeline.analysis.doubt import doubt
from pipeline.analysis.drift import Drift, layout
from pipeline.analysis.evidence import Evidence, load_current
from pipeline.analysis.paired import MEANS, changed_sides, counts_lead, is_luck, paired
from pipeline.base.cli import UserError
from pipeline.pages.album import Album
from pipeline.pages.page import percent
from pipeline.pages.sections import STRIP, Picture, training_picture

ON_MAP = 2000  # pictures; more take minutes and hide each other
MOST_DRAWN = 100_000  # probabilities of a metric that is no mean over rows


def tested_pictures(evidence: Evidence, album: Album) -> list[Picture]:
    """Test pictures whose answer is least certain, with the class that comes next."""
    rows = doubt(evidence).index[:STRIP]
    found = [tested(evidence, album, row) for row in rows]
    if evidence.kind == "shares":
        for picture, prob in zip(found, evidence.test_prob[rows], strict=True):
            said = evidence.answers(prob[None])[0]
            other = next(i for i in np.argsort(-prob) if i != said)
            nearest = f"{evidence.classes[other]} {percent(prob[other], 0)}"
            picture["text"] = f"{percent(prob[said], 0)}; or {nearest}"
    return found


def drifted(evidence: Evidence, album: Album, found: Drift) -> dict[str, Any]:
    """Training pictures most like the test, and test pictures least like the training."""
    alike = np.argsort(-found.train, kind="stable")[:STRIP]
    foreign = np.argsort(-found.test, kind="stable")[:STRIP]
    return {
        "auc": found.auc,
        "alike": [training_picture(evidence, album, row) for row in alike],
        "foreign": [tested(evidence, album, row) for row in foreign],
    }


def tested(evidence: Evidence, album: Album, row: int) -> Picture:
    prob = evidence.test_prob[row : row + 1]
    said = evidence.answers(prob)
    text = f"{percent(prob[0, said[0]], 0)} sure" if evidence.kind == "shares" else ""
    return album.picture(evidence.test.row[row], *evidence.told(said), text)


def against(evidence: Evidence, album: Album, name: str) -> dict[str, Any] | None:
    """What was won and lost against another run on the same folds; nothing where it is damaged, or
    where the metric would take minutes to draw again."""
    if evidence.record["metric"] not in MEANS and evidence.prob.size > MOST_DRAWN:
        return None
    try:
        other = load_current(name)
    except UserError:
        return None
    if list(other.table.image) != list(evidence.table.image):
        return None
    found, sides = paired(other, evidence), changed_sides(other, evidence)
    shown = {}
    for side in ("won", "lost"):
        rows = sides[sides.side == side][:STRIP]
        texts = rows.a + " → " + rows.b
        shown[side] = [training_picture(evidence, album, *each) for each in texts.items()]
    what = {"chances": ", by the labels that are right", "numbers": ", by which is nearer"}
    by_lead, by = counts_lead(evidence), what.get(evidence.kind, "")
    about = {"by_lead": by_lead, "luck": is_luck(found, by_lead), "by": by}
    return {"name": name, "shown": shown, **found._asdict(), **about}


def disagreement(evidence: Evidence, album: Album) -> dict[str, Any] | None:
    """How often two members differ, and the pictures on which most of them do; for blends only."""
    if len(evidence.members) < 2:
        return None
    probs = np.stack(list(evidence.members.values()))
    said = np.array([evidence.told(evidence.answers(prob)) for prob in probs], dtype=object)
    spread = np.abs(probs - probs.mean(0)).sum((0, 2))
    same = (said == said[0]).all(0)
    shown = [
        training_picture(evidence, album, row, " · ".join(said[:, row]))
        for row in np.argsort(-spread, kind="stable")[:STRIP]
        if not same[row]
    ]
    regression = evidence.rules.task == "regression"
    flat = probs.reshape(len(probs), -1)
    shares = np.corrcoef(flat) if regression else (said[:, None] != said).mean(2)
    told = "Correlation of the numbers that two members predict."
    told = told if regression else "Share of pictures on which two members answer differently."
    matrix = [[f"{x:.4f}" if regression else percent(x) for x in row] for row in shares]
    return {"names": list(evidence.members), "matrix": matrix, "shown": shown, "told": told}


def picture_map(
    evidence: Evidence, album: Album, train: np.ndarray, test: np.ndarray
) -> dict[str, Any]:
    """Places of the pictures and tiles to show at them: all errors, or as many by chance as leave
    half of the room to others."""
    from scipy.stats import rankdata  # late: a second

    n, draw = len(train), np.random.default_rng(0)
    order = draw.permutation(n + len(test))
    errors, regression = evidence.errors, evidence.rules.task == "regression"
    wrong = errors > np.quantile(errors, 0.95) if regression else ~evidence.right
    wrong = np.append(wrong, np.zeros(len(test), bool))
    of_errors, others = order[wrong[order]], order[~wrong[order]]
    most = max(ON_MAP // 2, ON_MAP - len(others))
    kept = np.sort(np.concatenate([of_errors[:most], others])[:ON_MAP])
    places = layout(np.concatenate([train, test])[kept])
    rows = np.append(evidence.table.row, evidence.test.row)[kept]
    answers = np.concatenate([evidence.answer, evidence.answers(evidence.test_prob)])
    said, own = evidence.told(answers), evidence.told(evidence.target)
    names = evidence.classes if evidence.kind == "shares" else sorted({*said, *own})
    number = {name: i for i, name in enumerate(names)}
    answer = np.array([number[name] for name in said])[kept]
    label = np.append([number[name] for name in own], np.full(len(test), -1))[kept]
    hue = answer * 137.5 % 360
    if evidence.kind == "numbers":
        hue = 240 * (1 - rankdata(answers[kept, 0]) / len(kept))  # from blue to red
    return {
        "x": (1000 * places[:, 0]).astype(int).tolist(),
        "y": (1000 * places[:, 1]).astype(int).tolist(),
        "label": label.tolist(),
        "answer": answer.tolist(),
        "hue": hue.round(1).tolist(),
        "wrong": wrong[kept].astype(int).tolist(),
        "classes": names,
        "verb": evidence.verb,
        "id": [str(album.ids[row]) for row in rows],
        "key": rows.tolist(),
        "tiles": album.sheet(rows),
        "all": n + len(test),
        "errors": int(wrong.sum()),
    }
