"""The page about a blend: written once, never in the way of the blend, and small."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.base import records
from pipeline.pages import compose
from pipeline.pages.compose import write_report
from pipeline.pages.heat import overlay
from pipeline.pages.origins import in_yaml, members_of


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
