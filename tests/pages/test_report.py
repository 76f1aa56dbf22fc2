"""The page about a blend: written once, never in the way of the blend, and small."""

import base64
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from tiny_forms import tiny_form

from pipeline.analysis.evidence import Evidence, load_evidence
from pipeline.base import records
from pipeline.base.competition import Competition
from pipeline.base.runs import model_path
from pipeline.pages import beyond, compose
from pipeline.pages.choices import likeliest
from pipeline.pages.compose import write_report
from pipeline.pages.heat import overlay
from pipeline.pages.origins import cost_of, in_yaml, members_of
from pipeline.pages.sections import calibration, nested


def test_it_is_written_once_a_blend(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    experiment, page = f"{space}/{finished()}.yaml", space / "runs/tiny/report.html"
    assert "report.html" in run("ensemble", experiment)
    first = page.stat().st_mtime_ns
    assert f"{page}, up to date" in run("ensemble", experiment)
    assert page.stat().st_mtime_ns == first
    assert page.stat().st_size < 1_000_000
    finished(seed=5)  # other answers: another blend
    run("ensemble", experiment)
    assert page.stat().st_mtime_ns > first


def test_a_page_that_fails_costs_one_line(
    run: Callable[..., str],
    finished: Callable[..., str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr(compose, "contents", fail)
    said = run("ensemble", f"{space}/{finished()}.yaml")
    assert "warning: none was written: of all things" in said
    assert records.load(space / "runs/tiny/test.npz") is not None
    assert not (space / "runs/tiny/report.html").exists()


def test_a_blend_shows_what_its_members_say(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    runs = [f"{space}/{finished(name, seed)}.yaml" for seed, name in enumerate(("one", "two"))]
    run("ensemble", *runs, "--name", "both")
    page = (space / "runs/both/report.html").read_text()
    assert 'id="members"' in page and "Where they differ most" in page
    run("ensemble", runs[0])
    page = (space / "runs/one/report.html").read_text()
    assert 'id="members"' not in page and "Nearest other run" not in page
    finished("three", train={"lr": 0.002})
    write_report("both", full=False)
    page = (space / "runs/both/report.html").read_text()
    assert "Best member: one" in page and "one: 1.0 → 0.5" in page
    run("ensemble", f"{space}/three.yaml")
    page = (space / "runs/three/report.html").read_text()
    assert "Nearest other run: one" in page and "train.lr: 0.001 → 0.002" in page
    assert "0 won, 0 lost" in page and "No more than luck" in page, "its answers are the same"


def test_ranks_are_not_told_as_probabilities(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    folder = space / "data" / "binary"
    (space / "binary.yaml").write_text(yaml.safe_dump(tiny_form("binary", folder)))
    of = {"competition": str(space / "binary.yaml")}
    runs = [f"{space}/{finished(name, i, **of)}.yaml" for i, name in enumerate(("one", "two"))]
    said = run("ensemble", *runs, "--name", "both", "--mean", "ranks")
    assert "none was written: both is a mean of ranks, which do not tell how sure" in said
    for stage in ("report", "review"):
        assert "name a member, or blend it by --mean prob" in run(stage, "both", expect=2)
    run("ensemble", runs[0], "--no-report")
    assert "both against one" in run("compare", "one", "both")


def test_an_overlay_has_the_shape_of_its_picture() -> None:
    heat = np.zeros((32, 32), dtype=np.float32)
    heat[12:20, 24:] = 1  # at the right edge, in the middle
    for fit in ("stretch", "pad"):
        text = overlay(heat, (50, 100), fit).partition(",")[2]
        image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA")
        assert image.size == (64, 32)
        alpha = np.asarray(image)[..., 3]
        assert alpha[16, 60] > 200 and alpha[16, 30] < 30
        middle = (alpha[:, 60] > 128).sum()  # of 32: the padded map's middle half is all there is
        assert middle == pytest.approx(16 if fit == "pad" else 8, abs=2)


def test_settings_read_as_people_write_them() -> None:
    assert in_yaml(1) == "1" and in_yaml(True) == "yes" and in_yaml(None) == "-"
    assert in_yaml([{"Flip": {}}, {"Crop": {"scale": [0.5, 1.0]}}]) == "Flip · Crop scale 0.5 · 1.0"


def test_answers_of_others_are_called_so(space: Path) -> None:
    key = {"members": {"theirs": {"tta": "given"}}, "weights": {"theirs": 1.0}}
    record = {"key": key, "scores": {"theirs given": {"folds": [0.5, 0.7]}}}
    (line,) = members_of(SimpleNamespace(record=record, folds=[0, 1]))
    assert line["what"] == "answers of others" and line["cv"].startswith("0.6000 ± ")


def test_attention_is_asked_for_a_class_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.pages import spotlight

    asked: list[int] = []

    def look(_: object, images: object, targets: object) -> np.ndarray:
        asked.extend(targets.tolist())
        return np.ones((len(images), 4, 4), np.float32)

    monkeypatch.setattr(spotlight, "attention", look)
    predictor = SimpleNamespace(
        preprocessing={"size": 4, "interpolation": "bilinear"},
        runtime=SimpleNamespace(predict_batch=2),
        normalise=lambda images: images,
        model=SimpleNamespace(),
    )
    pixels = SimpleNamespace(pixels=np.full((3, 4, 4, 3), 200, np.uint8))
    light = spotlight.Spotlight(SimpleNamespace(classes=["a", "b"], prepared=pixels))
    light.model = lambda _: (predictor, ["b", "a"])  # which it was trained with
    assert light.on(1, 0, 0).tolist() == pixels.pixels[1].tolist() and asked == [1]
    assert light.maps([0, 1, 2], 0, [0, 1, 1]).shape == (3, 4, 4) and asked[1:] == [1, 0, 0]


def made_up(
    prob: np.ndarray, target: np.ndarray, record: dict, members: dict | None = None
) -> Evidence:
    """Of a binary competition; the test's pictures are answered as the first ones of training."""
    n, names = len(prob), ["bare", "cactus", "other", "rest"][: prob.shape[1]]
    rows = [f"{i}.jpg" for i in range(n)]
    table = pd.DataFrame({"image": rows, "label": "?", "group": rows, "target": target, "row": 0})
    test = pd.DataFrame({"image": rows, "row": range(n)})
    rules = Competition(task="binary" if len(names) == 2 else "classes")
    about = (table, names, prob, members or {}, test, prob, None)
    return Evidence("a", None, record, *about, rules=rules)


ALBUM = SimpleNamespace(picture=lambda row, *texts: texts)


def test_confidence_is_that_of_what_is_likeliest_and_titles_are_what_is_answered() -> None:
    """Thresholds answer what is not the likeliest: of 100 pictures at 30 % these are 30 cacti."""
    target, prob = (np.arange(100) < 30).astype(int), np.tile([0.7, 0.3], (100, 1))
    decided = {"decision": {"kind": "shares", "numbers": [0.2]}}
    some = made_up(prob, target, decided)
    assert some.answer.all() and calibration(some)["ece"] < 0.01
    assert beyond.tested(some, ALBUM, 3) == ("cactus", "30\xa0% sure")


def test_what_was_fitted_on_the_pictures_themselves_is_told_with_its_nested_score() -> None:
    target, prob = (np.arange(10) < 3).astype(int), np.tile([0.7, 0.3], (10, 1))
    record = {"decision": {"kind": "shares", "numbers": [0.2], "first": 0}}
    power = {"decision": {"kind": "power of shares", "numbers": [2.0], "first": 0}}
    taken, not_taken = ({"decided": {"taken": yes, "nested": 0.71}} for yes in (True, False))
    assert nested(made_up(prob, target, record | taken)) == 0.71
    for other in (record | not_taken, power | taken, {}):
        assert nested(made_up(prob, target, other)) is None


def test_weights_that_were_fitted_on_the_pictures_are_told_with_their_nested_score(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    run("ensemble", f"{space}/{finished()}.yaml", "--no-report")
    path = space / "runs/tiny/test.npz"
    made, fitted = records.load(path), {"taken": True, "fitted": 0.76, "nested": 0.7421}
    known = {name: made[name] for name in ("metric", "scores", "oof")}
    records.commit(path, made["key"], 0.0, **known, fitted=fitted)
    page = write_report("tiny", full=False).read_text()
    assert "The weights are fitted on these very pictures" in page and "is 0.7421." in page


def test_training_in_full_precision_is_told_in_the_fields_word(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    run("ensemble", f"{space}/{finished()}.yaml", "--no-report")
    for kept, told in (("no", "fp32"), ("bf16", "bf16")):
        model = model_path("tiny", 0)
        records.commit(model, records.load(model)["key"], 0.0, precision=kept)
        assert cost_of(load_evidence("tiny"))["precision"] == told


def test_on_the_map_errors_leave_room_for_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "layout", lambda features: features)
    prob, target = np.tile([0.7, 0.2, 0.1], (10, 1)), np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    album = SimpleNamespace(ids=[f"{i}.jpg" for i in range(10)], sheet=lambda rows: "")
    for room, errors in ((10, 5), (18, 8)):
        monkeypatch.setattr(beyond, "ON_MAP", room)
        some, places = made_up(prob, target, {}), np.zeros((10, 2))
        found = beyond.picture_map(some, album, places, places)
        assert (len(found["x"]), sum(found["wrong"]), found["errors"]) == (room, errors, 8)


def test_the_own_label_and_the_suggested_one_are_both_offered() -> None:
    prob = np.array([[0.6, 0.3995, 0.0004, 0.0001]])
    some = made_up(prob, np.array([1]), {})
    assert likeliest(some, prob[0], ["cactus", "rest"]) == [0, 1, 3]
    assert likeliest(some, prob[0], ["rest", "other"]) == [0, 3, 2]


def test_long_answers_of_one_picture_are_not_kept_for_each() -> None:
    """As fixed-width text 2 x 2,000 answers of 20,000 letters were 320 MB."""
    prob = np.tile([0.7, 0.3], (2000, 1))
    other = prob[:, ::-1].copy()
    some = made_up(prob, np.zeros(2000, int), {}, {"one": prob, "two": other})
    some.classes[1] = "cactus" * 3333
    tracemalloc.start()
    found = beyond.disagreement(some, ALBUM)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["matrix"][0][1] == "100.0\xa0%" and peak < 20e6
