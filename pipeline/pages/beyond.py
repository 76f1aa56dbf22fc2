"""The parts of a report beyond the held-out pictures: test, drift, map, members, another run."""

from typing import Any

import numpy as np

from pipeline.analysis.drift import Drift, layout
from pipeline.analysis.evidence import Evidence, load_current
from pipeline.analysis.paired import MEANS, changed_sides, paired
from pipeline.analysis.suspects import doubt
from pipeline.base.cli import UserError
from pipeline.pages.album import Album
from pipeline.pages.page import percent
from pipeline.pages.sections import STRIP, Picture, training_picture

ON_MAP = 2000  # pictures; more take minutes and hide each other
MOST_DRAWN = 100_000  # probabilities of a metric that is no mean over rows


def tested_pictures(evidence: Evidence, album: Album) -> list[Picture]:
    """Test pictures whose answer is least certain, with the two best classes."""
    found = []
    for row in doubt(evidence).index[:STRIP]:
        first, second = np.argsort(-evidence.test_prob[row])[:2]
        shares = [percent(evidence.test_prob[row, i], 0) for i in (first, second)]
        text = f"{shares[0]}; or {evidence.classes[second]} {shares[1]}"
        found.append(album.picture(evidence.test.row[row], evidence.classes[first], text))
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
    best = int(evidence.test_prob[row].argmax())
    text = f"{percent(evidence.test_prob[row, best], 0)} sure"
    return album.picture(evidence.test.row[row], evidence.classes[best], text)


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
        rows = sides.index[sides.side == side][:STRIP]
        shown[side] = [training_picture(evidence, album, row) for row in rows]
        for picture, row in zip(shown[side], rows, strict=True):
            picture["text"] = f"{sides.a[row]} → {sides.b[row]}"
    luck = found.needed is None or abs(found.won - found.lost) < found.needed
    return {"name": name, **found._asdict(), "luck": luck, "shown": shown}


def disagreement(evidence: Evidence, album: Album) -> dict[str, Any] | None:
    """How often two members differ, and the pictures on which most of them do; for blends only."""
    if len(evidence.members) < 2:
        return None
    answers = np.stack([prob.argmax(1) for prob in evidence.members.values()])
    mean = np.mean(list(evidence.members.values()), axis=0)
    spread = np.abs(np.stack(list(evidence.members.values())) - mean).sum((0, 2))
    spread[(answers == answers[0]).all(0)] = -1
    rows = [row for row in np.argsort(-spread, kind="stable")[:STRIP] if spread[row] >= 0]
    shown = []
    for row in rows:
        picture = training_picture(evidence, album, row)
        picture["text"] = " · ".join(evidence.classes[answer] for answer in answers[:, row])
        shown.append(picture)
    matrix = (answers[:, None] != answers[None]).mean(2)
    return {"names": list(evidence.members), "matrix": matrix.tolist(), "shown": shown}


def picture_map(
    evidence: Evidence, album: Album, train: np.ndarray, test: np.ndarray
) -> dict[str, Any]:
    """Places of the pictures (all errors, then others by chance), and tiles to show at them."""
    n, draw = len(train), np.random.default_rng(0)
    order = draw.permutation(n + len(test))
    wrong = np.append(~evidence.right, np.zeros(len(test), bool))
    kept = np.sort(np.concatenate([order[wrong[order]], order[~wrong[order]]])[:ON_MAP])
    places = layout(np.concatenate([train, test])[kept])
    rows = np.append(evidence.table.row, evidence.test.row)[kept]
    answer = np.append(evidence.answer, evidence.test_prob.argmax(1))[kept]
    label = np.append(evidence.target, np.full(len(test), -1))[kept]
    return {
        "x": (1000 * places[:, 0]).astype(int).tolist(),
        "y": (1000 * places[:, 1]).astype(int).tolist(),
        "label": label.tolist(),
        "answer": answer.tolist(),
        "classes": evidence.classes,
        "id": [str(album.ids[row]) for row in rows],
        "key": rows.tolist(),
        "tiles": album.sheet(rows),
        "all": n + len(test),
    }
