"""Augmentation: presets, wrong arguments named, and nothing of it outside of training."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Experiment, load_experiment
from pipeline.base.runs import model_path
from pipeline.base.yaml_files import HERE
from pipeline.data.augment import Augment
from pipeline.data.resize import Resize
from pipeline.inference.predictions import Predictions

PRESETS = sorted(path.stem for path in (HERE / "augmentations").glob("*.yaml"))
BLACK = [{"MultiplicativeNoise": {"multiplier": [0, 0], "p": 1.0}}]


def ramp(size: int = 32) -> np.ndarray:
    return np.arange(size * size * 3, dtype=np.uint32).reshape(size, size, 3).astype(np.uint8)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"HorizontalFip": {}}, "no 'HorizontalFip'; did you mean 'HorizontalFlip'"),
        ({"CoarseDropout": {"max_holes": 8}}, "max_holes"),
        ({"RandomResizedCrop": {"scale": [0.5, 2.0]}}, r"RandomResizedCrop: scale: All values"),
        ({"RandomResizedCrop": {"scale": "big"}}, r"scale: Input should be a .*, not 'big'; it ta"),
        (
            {"ColorJitter": {"hue": [-2, 0], "p": 3}},
            r"p: .* equal to 1, not 3; hue: .*, not \[-2, 0\]; it",
        ),
        ({"ColorJitter": {"hue": ["a", 0]}}, "ColorJitter: hue: .*, not 'a'"),
        ({"RandomCrop": {"height": 9}}, "RandomCrop: width: Field required; it takes height, wid"),
        ({"Compose": {}}, "no 'Compose'"),
    ],
)
def test_wrong_transforms_are_errors(spec: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        Augment([spec], 16, "bicubic")
    assert "\n" not in str(error.value)


def resolved(augment: object) -> list:
    return Experiment(competition="demo", augment=augment).augment


def test_presets_are_the_promised_ones() -> None:
    assert PRESETS == ["d4", "heavy", "leaves", "light", "none", "photos"]
    assert resolved("none") == []
    assert Experiment(competition="demo").augment == resolved("light")
    lists = [str(resolved(name)) for name in PRESETS]
    assert len(set(lists)) == len(lists)


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_runs_without_a_warning(name: str, size: int) -> None:
    assert (HERE / "augmentations" / f"{name}.yaml").read_text().startswith("# ")
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment = Augment(resolved(name), size, "bicubic")
        augment.seed(1)
        seen = [augment(picture) for _ in range(40)]
    for view in seen:
        assert view.shape == (size, size, 3)
        assert view.dtype == np.uint8
    same = [np.array_equal(view, picture) for view in seen]
    assert all(same) if name == "none" else sum(same) < 10, "a mild crop may be the whole picture"


def test_a_name_and_its_list_are_one_experiment(tmp_path: Path) -> None:
    written = yaml.safe_load((HERE / "augmentations/leaves.yaml").read_text())
    keys = []
    for augment in ("leaves", written):
        path = tmp_path / "e.yaml"
        path.write_text(
            yaml.safe_dump({"competition": "demo", "model": {"size": 64}, "augment": augment})
        )
        keys.append(load_experiment(str(path)).key())
    assert keys[0] == keys[1]
    assert keys[0]["augment"][0] == {"SquareSymmetry": {}}


@pytest.mark.parametrize("text", ["leafs", "leaves.yaml", "3", "{Rotate: {}}"])
def test_an_unknown_preset_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(f"competition: demo\nmodel: {{size: 64}}\naugment: {text}\n")
    with pytest.raises(UserError, match="augment: it should be") as error:
        load_experiment(str(path))
    assert "\n" not in str(error.value)
    if text.startswith("leaf"):
        assert "heavy, leaves, light, none, photos (nearest: 'leaves')" in str(error.value)


def test_same_seed_same_picture() -> None:
    augment = Augment([{"RandomResizedCrop": {}}, {"SquareSymmetry": {}}], 16, "bilinear")
    augment.seed(5)
    first = [augment(ramp()) for _ in range(3)]
    augment.seed(5)
    again = [augment(ramp()) for _ in range(3)]
    augment.seed(6)
    other = [augment(ramp()) for _ in range(3)]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_steps_of_a_list_are_drawn_apart() -> None:
    """Seeded alike, two mirrors always go together, as Albumentations' own seed makes them do."""
    augment = Augment([{"HorizontalFlip": {}}, {"VerticalFlip": {}}], 4, "bilinear")
    marked = np.zeros((4, 4, 3), np.uint8)
    marked[0, 1] = 255
    corners = Counter()
    for batch in range(100):
        augment.seed(batch)
        corners.update(int(augment(marked)[..., 0].argmax()) for _ in range(4))
    assert set(corners) == {1, 2, 13, 14}
    assert min(corners.values()) > 70, "of 400 about a hundred each"


def test_output_has_the_size_whatever_the_list() -> None:
    for specs in (
        [],
        [{"HorizontalFlip": {"p": 1.0}}],
        [{"CenterCrop": {"height": 9, "width": 9}}],
    ):
        assert Augment(specs, 20, "bicubic")(ramp()).shape == (20, 20, 3)


def test_resize_leaves_pixels_of_the_right_size_alone() -> None:
    assert np.array_equal(Resize(32, "bicubic")(ramp()), ramp())
    assert Resize(16, "bicubic")(ramp()).shape == (16, 16, 3)


def test_validation_and_test_pictures_see_none_of_it(
    write: Callable[..., str], split: Callable[[str], str], run: Callable[..., str]
) -> None:
    """A net that learns nothing, under an augmentation that blackens all it is shown.

    Its rate is too small to move a weight: what it answers depends on what it is asked alone.
    """
    still = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
    plain = split(write("plain", train=still, augment="none", model={"freeze": "backbone"}))
    black = write("black", train=still, augment=BLACK, model={"freeze": "backbone"})
    dark = Augment(BLACK, 32, "bicubic")(ramp())
    assert dark.max() == 0
    for experiment in (plain, black):
        run("train", experiment, "--fold", "0")
        run("train", experiment, "--fold", "1")
        run("predict", experiment, "--tta", "none")
    logs = [records.load(model_path(name, 0))["scores"] for name in ("plain", "black")]
    assert logs[0]["train_loss"] != logs[1]["train_loss"], "training saw the blackened ones"
    assert logs[0]["valid_loss"] == logs[1]["valid_loss"]
    for part in ("oof", "test"):
        probs = [
            Predictions.load(model_path(name, 0).with_name(f"{part}.none.npz")).prob
            for name in ("plain", "black")
        ]
        assert np.array_equal(*probs)
        assert probs[0].std(0).max() > 0, "pictures are told apart"


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        (
            {"RandomCrop": {"height": 500, "width": 500}},
            "RandomCrop fails on pictures of 40 x 40 px",
        ),
        ({"ToGray": {"num_output_channels": 1}}, "ToGray makes uint8 [40, 40] of pictures"),
        ({"ToFloat": {"p": 0.01}}, "ToFloat makes float32 [40, 40, 3] of pictures"),
    ],
)
def test_a_step_that_fails_on_our_pictures_is_one_line(
    augment: dict, said: str, write: Callable[..., str], split: Callable[[str], str], run
) -> None:
    experiment = split(write(augment=["HorizontalFlip", augment]))
    text = run("train", experiment, "--fold", "0", expect=2)
    assert f"error: augment: {said}" in text
    assert text.count("error: ") == 1


def test_trying_on_leaves_the_stream_alone() -> None:
    views = []
    for tried in (True, False):
        augment = Augment([{"RandomResizedCrop": {}}, {"HorizontalFlip": {}}], 16, "bilinear")
        augment.seed(5)
        if tried:
            augment.try_on(ramp())
        views.append([augment(ramp()) for _ in range(3)])
    assert np.array_equal(*views)
