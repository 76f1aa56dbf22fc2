"""Pictures that are not square, `size: [height, width]`: packed, augmented, seen, said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.base.cli import UserError
from pipeline.base.config import Model, Runtime, load_experiment
from pipeline.base.device import make_accelerator
from pipeline.data.augment import Augment
from pipeline.data.images import shaped
from pipeline.data.prepared import load_prepared
from pipeline.data.resize import Resize
from pipeline.inference.attention import on_grid
from pipeline.inference.predictor import Predictor
from pipeline.inference.tta import VIEWS, allowed
from pipeline.model.backbone import layout
from pipeline.model.pooling import with_channels_last


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_a_square_is_a_number_and_a_rectangle_two() -> None:
    assert Model(size=[64, 64]) == Model(size=64)
    assert Model(size=[48, 64]).model_dump(mode="json")["size"] == [48, 64]
    for size, said in (([48, 64, 3], "a number, or "), ([48, 5], "greater than"), ("x", "integer")):
        with pytest.raises(ValueError, match=said):
            Model(size=size)


def test_packed_pictures_are_stretched_or_padded_to_the_shape() -> None:
    picture = np.full((30, 40, 3), 200, np.uint8)
    picture[:, :20] = 50
    wide = shaped(picture, (20, 80), "stretch")
    assert wide.shape == (20, 80, 3) and (wide[:, :36] == 50).all() and (wide[:, 44:] == 200).all()
    same = shaped(picture, (60, 80), "pad")
    assert (same[:, :34] == 50).all() and (same[:, 46:] == 200).all(), "it has that shape already"
    padded = shaped(picture, (30, 80), "pad")
    assert (padded[:, 26:34] == 50).all() and (padded[:, 46:54] == 200).all()
    assert len(np.unique(padded[:, :14])) == 1, "beside the picture there is one edge colour"
    tall = shaped(np.full((1, 60000, 3), 40, np.uint8), (100, 50), "pad")
    assert tall.shape == (100, 50, 3) and (tall == 40).all()


def test_quarter_turns_become_what_a_rectangle_allows(capsys: pytest.CaptureFixture[str]) -> None:
    picture = noise(24, 32)
    for name, allowed_views in (("D4", 4), ("D4", 4), ("RandomRotate90", 2), ("Transpose", 1)):
        augment = Augment([{name: {}}], (24, 32), "bilinear")
        augment.seed(0)
        seen = {augment(picture).tobytes() for _ in range(40)}
        views = [picture, picture[::-1, ::-1], picture[::-1], picture[:, ::-1]]
        assert seen == {view.tobytes() for view in views[:allowed_views]}, name
    said = capsys.readouterr().out
    text = "augment   pictures of 24x32 px have no quarter turns, only 4 of D4's views\n"
    assert said.count(text) == 1
    crop = Augment([{"RandomResizedCrop": {"ratio": [0.9, 1.1]}}], [24, 32], "bilinear")
    assert crop.compose.transforms[0].ratio == pytest.approx((1.2, 0.9 * 4 / 3 * 1.1 / 0.9))
    with pytest.raises(UserError, match=r"RandomResizedCrop: .*; it takes size, "):
        Augment([{"RandomResizedCrop": {"ratio": "wide"}}], [24, 32], "bilinear")
    holes = Augment([{"GridDropout": {}}, {"Erasing": {"ratio": [0.5, 2]}}], [24, 32], "bilinear")
    assert tuple(holes.compose.transforms[1].ratio) == (0.5, 2), "of a hole, not of the picture"
    assert Resize([24, 32], "bicubic")(noise(10, 10)).shape == (24, 32, 3)


class Shape(nn.Module):
    """Answers by the first pixel, and keeps the shapes it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(x.shape[2:]))
        return x[:, :, 0, 0]


def test_views_and_sizes_keep_the_shape() -> None:
    assert allowed(VIEWS["d4"], 32) == VIEWS["d4"]
    flips = [view.keywords for view in VIEWS["flips"]]
    assert [view.keywords for view in allowed(VIEWS["d4"], (24, 32))] == flips
    assert [view.keywords["turns"] for view in allowed(VIEWS["diagonals"], [24, 32])] == [0, 2]
    how = {"size": [24, 32], "interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3}
    model, runtime, pixels = Shape(), Runtime(device="cpu"), noise(5, 30, 40)
    predictor = Predictor(model, how, make_accelerator(runtime), runtime)
    prob = predictor.probabilities(pixels, np.arange(5), VIEWS["d4"])
    assert model.seen == [(24, 32)] * 4
    corners = [
        [Resize((24, 32), "bilinear")(one)[y, x] for one in pixels]
        for y in (0, -1)
        for x in (0, -1)
    ]
    exp = np.exp(np.array(corners) / 255)
    np.testing.assert_allclose(prob, (exp / exp.sum(-1, keepdims=True)).mean(0), atol=1e-6)
    predictor.probabilities(pixels, np.arange(5), VIEWS["none"], [27])
    assert model.seen[4:] == [(27, 36)] * 2, "the first is empty, to see whether it can"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_a_head_reads_the_same_of_a_rectangle(name: str) -> None:
    shapes = [224, (224, 160), (160, 224)]
    found = [
        layout(Model(backbone=name, weights="none", batchnorm="train", size=s)) for s in shapes
    ]
    assert found[0].taps == found[1].taps == found[2].taps


def test_maps_of_either_layout_and_tokens() -> None:
    maps = torch.zeros(2, 6, 12, 16)
    for out in (maps, maps.permute(0, 2, 3, 1)):
        assert with_channels_last(out, False, 0.75).shape == (2, 12, 16, 6)
    assert with_channels_last(torch.zeros(2, 7, 9, 512), True, 0.75).shape == (2, 7, 9, 512)
    tokens = torch.zeros(2, 13, 5)
    assert with_channels_last(tokens, False, 0.75) is tokens
    net = nn.Module()
    net.num_prefix_tokens = 1
    assert on_grid(torch.zeros(1, 13, 5), net, 0.75).shape == (1, 3, 4, 5)


def test_stages_and_their_words(
    space: Path, run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str]
) -> None:
    experiment = split(write(model={"size": [32, 40]}, augment="d4"))
    assert load_prepared(load_experiment(experiment)).pixels.shape[1:] == (40, 50, 3)
    assert (space / "runs/_data/demo/40x50-stretch/images.csv").is_file()
    assert "32x40 px have no quarter turns, only 4 of S" in run("gallery", experiment)
    run("train", experiment, "--fold", "0")
    said = run("predict", experiment, "--fold", "0", "--tta", "d4")
    assert "4 of 8 views are left" in said
    assert "up to date" in run("train", experiment, "--fold", "0")
