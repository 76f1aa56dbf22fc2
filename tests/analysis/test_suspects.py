"""Which labels are suspected, of what, and which test pictures are worth a label."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from flipped_labels import flipped

from pipeline.analysis import doubt as module
from pipeline.analysis.doubt import doubt
from pipeline.analysis.evidence import Evidence
from pipeline.analysis.neighbours import neighbours
from pipeline.analysis.suspects import confidence, suspects
from pipeline.base.competition import Competition
from pipeline.base.forms import in_cells
from pipeline.inference.metrics import rows_of

# of the class b: a planted error, a hard picture, one of no class, a twin; the rest is as it should
LABELS = ["a", "a", "a", "b", "b", "b", "b", "c", "c", "c"]
OOF = [
    [0.98, 0.01, 0.01],
    [0.90, 0.06, 0.04],
    [0.80, 0.15, 0.05],
    [0.95, 0.01, 0.04],  # 3: lost, and its look-alikes are all a
    [0.70, 0.25, 0.05],  # 4: the look-alikes are b
    [0.45, 0.20, 0.35],  # 5: neither
    [0.10, 0.80, 0.10],  # 6: right, and has the pixels of 7
    [0.05, 0.65, 0.30],
    [0.02, 0.03, 0.95],
    [0.30, 0.10, 0.60],
]
NEAR = [[1, 2], [0, 2], [0, 1], [0, 1], [5, 6], [8, 0], [7, 5], [6, 8], [7, 9], [8, 7]]


def evidence(members: list[np.ndarray] | None = None, **changes: object) -> Evidence:
    prob = np.array(OOF, dtype=np.float32)
    table = pd.DataFrame({"image": [f"{i}.jpg" for i in range(10)], "label": LABELS})
    table["target"] = table.label.map({"a": 0, "b": 1, "c": 2})
    table["row"] = np.arange(10)[::-1]  # of the packed pixels
    hashes = [f"pixels {i}" for i in range(10)]
    hashes[9 - 7] = hashes[9 - 6]
    members = members or [prob]
    facts = {
        "name": "blend",
        "settings": None,
        "record": {},
        "table": table,
        "classes": ["a", "b", "c"],
        "prob": prob,
        "members": {str(i): member for i, member in enumerate(members)},
        "test": pd.DataFrame({"image": ["x", "y"]}),
        "test_prob": np.zeros((2, 3)),
        "prepared": SimpleNamespace(rows=pd.DataFrame({"hash": hashes})),
    }
    return Evidence(**{**facts, **changes})


def near() -> tuple[np.ndarray, np.ndarray]:
    return np.array(NEAR), np.full((10, 2), [0.9, 0.6])


def test_each_suspect_is_told_apart() -> None:
    found = suspects(evidence(), near())
    kinds = {
        3: "label wrong",
        7: "pair contradictory",
        5: "really ambiguous",
        6: "pair contradictory",
        4: "model wrong",
    }
    assert found.kind.to_dict() == kinds
    # the blend gives 3 to a by .95 to .01, and so do all its neighbours
    assert found.score[3] == pytest.approx(1.95 / 1.96, abs=1e-3)
    assert found.score[4] == pytest.approx(0.70 / 1.95, abs=1e-3), "the look-alikes weigh as much"
    assert found.score.is_monotonic_decreasing and found.index[0] == 3
    assert found.suggested[3] == "a" and found.suggested[6] == "c"
    assert found.reason[3] == "held out: a 0.95, label 0.01; look-alikes: 100%, label 0%"


def test_a_wrong_label_of_a_whole_group_is_one() -> None:
    """Frames 3 to 5 of a patient look like those of class a and are all labelled b."""
    features = np.array([[1, 0]] * 6 + [[0, 1]] * 4) + 0.01 * np.eye(10, 2)
    features[3:6, 1] += 0.05
    prob = np.array([*[OOF[0]] * 3, *[OOF[3]] * 3, *OOF[6:]])
    one, group = evidence([prob], prob=prob), [*"uvw", *"ppp", *"abcd"]
    near = [neighbours(features, features, 2, some) for some in (None, group)]
    kinds = [suspects(one, some).kind[4] for some in near]
    assert kinds == ["model wrong", "label wrong"]


def test_a_member_that_holds_with_the_label_makes_it_ambiguous() -> None:
    other = np.array(OOF, dtype=np.float32)
    other[3] = [0.3, 0.6, 0.1]
    found = suspects(evidence([np.array(OOF), other]), near())
    assert found.kind[3] == "really ambiguous"


def test_a_class_that_the_model_hardly_knows_has_a_lower_threshold() -> None:
    prob, target = np.array(OOF), evidence().target
    labelled = rows_of(target, prob)
    assert confidence(prob, labelled) == pytest.approx([0.89333, 0.315, 0.61667], abs=1e-4)
    prob[3] = [0.90, 0.06, 0.04]
    assert suspects(evidence([prob], prob=prob), near()).kind[3] == "really ambiguous"
    prob[6, 1] = prob[4, 1] = 0.95  # now .06 is less than a tenth of what b is given
    assert suspects(evidence([prob], prob=prob), near()).kind[3] == "really ambiguous"
    prob[3] = [0.91, 0.05, 0.04]
    assert suspects(evidence([prob], prob=prob), near()).kind[3] == "label wrong"


def of_rows(
    task: str, target: list[list[float]], prob: list[list[float]], **about: object
) -> Evidence:
    """Of a task whose targets are rows; the pixels of 0 and 1 are equal."""
    n, prob = len(target), np.array(prob)
    names = ["rust", "scab"][: prob.shape[1]]
    table = pd.DataFrame(
        {"image": range(n), "label": [str(row) for row in target], "row": range(n)}
    )
    table["target"] = in_cells([tuple(row) for row in target], table.image)
    rows = pd.DataFrame({"hash": ["same", "same", *range(2, n)]})
    facts = {"table": table, "prob": prob, "members": [prob], "classes": names, **about}
    facts |= {"prepared": SimpleNamespace(rows=rows), "rules": Competition(task=task)}
    return evidence(**facts)


def test_of_several_labels_each_is_weighed() -> None:
    marks = [[True, False], [False, False], [True, False], [True, True], [False, True]]
    prob = [[0.9, 0.3], [0.2, 0.1], [0.9, 0.8], [0.02, 0.9], [0.1, 0.6]]
    near = np.array([[2, 3], [0, 4], [3, 4], [1, 4], [3, 2]]), np.full((5, 2), [0.6, 0.2])
    found = suspects(of_rows("multi-label", marks, prob), near)
    kinds = dict(zip(zip(found.index, found.suggested, strict=True), found.kind, strict=True))
    assert kinds == {
        (2, "rust, scab"): "really ambiguous",  # .2 is more than a tenth of what none is given
        (3, "scab"): "label wrong",
        (0, "no label"): "pair contradictory",
        (1, "rust"): "pair contradictory",
    }
    # 3 is given rust by .02, and by none of its look-alikes
    assert found.score[3] == pytest.approx(1 - 0.02 / 2) and found.index[0] == 3
    assert found.reason[3] == "rust is labelled; held out: 0.02; look-alikes: 0%"
    hold = near[0].copy(), near[1]
    hold[0][3] = [0, 2]  # which are labelled rust
    assert suspects(of_rows("multi-label", marks, prob), hold).kind[3] == "model wrong"


def test_of_numbers_the_furthest_off() -> None:
    own, said = np.zeros((30, 1)), np.full((30, 1), 0.1)
    said[[4, 7]], said[5] = 3.0, -0.1
    near = np.tile([10, 11], (30, 1)), np.full((30, 2), 0.5)
    found = suspects(of_rows("regression", own, said), near)
    assert found.kind.to_dict() == {4: "model wrong", 7: "model wrong"}
    own[[10, 11]] = 2.0
    near[0][4], near[0][10:12] = [12, 13], [12, 13]
    found = suspects(of_rows("regression", own, said), near)
    assert found.kind.to_dict()[7] == "label wrong" and found.kind[4] == "model wrong"
    assert found.reason[7] == "held out 3, label 0; look-alikes 2"
    alike = np.full((30, 1), 2.0)
    alike[[4, 10, 11]] = 0
    assert found.score[7] == pytest.approx(1.5 / (said - own).std() + 1 / (alike - own).std())
    levels = suspects(of_rows("ordinal", own, said), near)
    assert levels.index[0] in (4, 7) and levels.suggested[7] == "2", "the highest that there is"


def test_only_equal_pixels_contradict_each_other() -> None:
    one = evidence()
    assert np.flatnonzero(one.conflicts).tolist() == [6, 7]
    agreed = one.table.assign(label=["a"] * 10)
    assert not evidence(table=agreed).conflicts.any() and one.twins.sum() == 2


def test_doubt_by_entropy_with_a_committee_and_rare_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = np.array([[0.9, 0.1, 0.0], [1.0, 0.0, 0.0]])
    two = np.array([[0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    monkeypatch.setattr(module, "committee_of", lambda _: [one, two])
    found = doubt(evidence(test_prob=(one + two) / 2))
    assert found.index.tolist() == [1, 0]
    assert found.entropy[1] == pytest.approx(np.log(2)) and found.margin[1] == 0
    assert found.disagreement.to_dict() == pytest.approx({1: np.log(2), 0: 0})
    assert found.margin[0] == pytest.approx(0.8)
    assert found.rare.to_dict() == pytest.approx({1: 1 / 3, 0: 0.9 / 3 + 0.1 / 4})


def test_planted_errors_are_errors_and_as_common_as_their_class() -> None:
    labels = np.repeat(np.array(["a", "b", "c"], dtype=object), [600, 300, 100])
    planted = flipped(labels, 0.3, np.random.default_rng(0))
    assert (planted != labels).sum() == 300
    towards = pd.Series(planted[(planted != labels) & (labels == "c")]).value_counts(normalize=True)
    assert towards["a"] == pytest.approx(2 / 3, abs=0.2)
