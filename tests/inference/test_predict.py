"""Predictions carry their ids, do not depend on batches, and see each image once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import pretend_model

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Runtime, load_experiment
from pipeline.base.device import make_accelerator
from pipeline.base.runs import model_path
from pipeline.data.resize import Resize
from pipeline.inference.predictions import Predictions
from pipeline.inference.predictor import (
    Normalise,
    Predictor,
    forward,
    inference_precision,
)
from pipeline.inference.tta import VIEWS

pytestmark = pytest.mark.precision
FACTS = {
    "size": 6,
    "resize": "stretch",
    "interpolation": "bicubic",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.5],
}


class Corner(torch.nn.Module):
    """Looks at the upper left pixel only: every view of a picture gives another answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 0, 0] * torch.tensor([1.0, 0.5, -1.0])


class Side(torch.nn.Module):
    """Answers with the size of what it is shown, and counts how often it was shown each."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[len(x), x.shape[2], x.shape[3]] += 1
        return torch.tensor([0.25, 0.0, 0.0]).mul(x.shape[2]).expand(len(x), 3)


class Near(torch.nn.Module):
    """Two logits 0.1 apart, of some height, from one product: what a precision does to them."""

    def __init__(self, height: float):
        super().__init__()
        self.weight = torch.tensor([[height + 0.1], [height]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x[:, :1, 0, 0], self.weight)


class Keeping(torch.nn.Module):
    """In eval mode it keeps what it made of its weights, as LeViT's attention does."""

    kept = None

    def train(self, mode: bool = True) -> "Keeping":
        self.kept = None if mode else self.kept
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = 2 * self.weight
        return self.kept.expand(len(x), 3)


def probabilities(
    tta: str,
    pixels: np.ndarray,
    rows: list[int],
    batch: int = 2,
    sizes: tuple[int, ...] = (),
    model: torch.nn.Module | None = None,
) -> np.ndarray:
    runtime = Runtime(device="cpu", predict_batch=batch)
    accelerator = make_accelerator(runtime)
    model = model or Corner()
    predictor = Predictor(model, FACTS, accelerator, runtime)
    return predictor.probabilities(pixels, np.array(rows), VIEWS[tta], sizes)


def by_hand(pixels: np.ndarray, corners: list[tuple[int, int]]) -> np.ndarray:
    x = np.stack([pixels[:, y, z] for y, z in corners]).astype(np.float64) / 255
    x = (x - FACTS["mean"]) / FACTS["std"] * [1.0, 0.5, -1.0]
    e = np.exp(x)
    return (e / e.sum(-1, keepdims=True)).mean(0)


def random_pixels(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    ("tta", "corners"),
    [
        ("none", [(0, 0)]),
        ("hflip", [(0, 0), (0, 5)]),
        ("flips", [(0, 0), (0, 5), (5, 0), (5, 5)]),
        ("d4", [(0, 0), (0, 5), (5, 0), (5, 5)]),
    ],
)
def test_mean_over_views_in_the_order_of_rows(tta: str, corners: list[tuple[int, int]]) -> None:
    pixels = random_pixels(6)
    prob = probabilities(tta, pixels, [4, 0, 2])
    assert prob.dtype == np.float32
    np.testing.assert_allclose(prob, by_hand(pixels[[4, 0, 2]], corners), atol=1e-5)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.stack([Resize(size, "bicubic")(picture) for picture in pixels])


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("d4", 8)])
def test_each_view_is_seen_once_at_each_size(tta: str, count: int) -> None:
    model = Side()
    prob = probabilities(tta, random_pixels(8), [0, 1, 2], 64, (3, 6), model)
    assert model.seen == {(3, 3, 3): count, (3, 6, 6): count, (1, 3, 3): 1, (1, 6, 6): 1}
    first = [np.exp(side / 4) / (np.exp(side / 4) + 2) for side in (3, 6)]
    assert prob.dtype == np.float32
    np.testing.assert_allclose(prob[:, 0], np.mean(first), rtol=1e-6)
    np.testing.assert_allclose(prob[:, 0], 0.602824, atol=1e-6)


def test_mean_over_views_and_sizes_is_plain() -> None:
    pixels = random_pixels(8)
    corners = {size: [(0, 0), (0, size - 1)] for size in (4, 6)}
    expected = [by_hand(resized(pixels, size), places) for size, places in corners.items()]
    prob = probabilities("hflip", pixels, [0, 1, 2, 3, 4], sizes=(4, 6))
    np.testing.assert_allclose(prob, np.mean(expected, axis=0), atol=1e-5)


def test_sizes_that_cannot_be_are_one_line() -> None:
    with pytest.raises(UserError, match="9 px would enlarge the packed pictures"):
        probabilities("none", random_pixels(8), [0], sizes=(6, 9))
    pixels = random_pixels(160)
    for dynamic, size, said in ((False, 96, r"Input height \(96\)"), (True, 90, "divisible by")):
        vit = timm.create_model("test_vit", num_classes=3, dynamic_img_size=dynamic)
        assert probabilities("none", pixels, [0], sizes=(160,), model=vit).shape == (1, 3)
        with pytest.raises(UserError, match=f"no pictures of {size} px: .*{said}") as error:
            probabilities("none", pixels, [0], sizes=(size, 160), model=vit)
        assert "\n" not in str(error.value)


def test_batches_do_not_matter() -> None:
    pixels = random_pixels(6)
    np.testing.assert_allclose(
        probabilities("d4", pixels, [3, 1, 0], batch=1),
        probabilities("d4", pixels, [3, 1, 0], batch=64),
        atol=1e-6,
    )


def test_normalise_is_the_backbones_arithmetic() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    out = Normalise(FACTS, torch.device("cpu"))(images)
    mean, std = torch.tensor(FACTS["mean"]), torch.tensor(FACTS["std"])
    expected = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_alignment_is_by_name_and_refuses_strangers() -> None:
    prob = np.arange(6, dtype=np.float32).reshape(2, 3)
    file = Predictions(["b", "a"], ["x", "y", "z"], prob)
    assert file.aligned(["a", "b"], ["z", "x", "y"]).tolist() == [[5, 3, 4], [2, 0, 1]]
    with pytest.raises(UserError, match="no prediction for 1 image names, first 'c'"):
        file.aligned(["a", "b", "c"], ["x", "y", "z"])
    with pytest.raises(UserError, match="1 foreign class names: 'z'"):
        file.aligned(["a", "b"], ["x", "y"])


def test_files_hold_what_the_folds_say(run: Callable[..., str], trained: str, space: Path) -> None:
    run("predict", trained)
    table = pd.read_csv(space / "folds/demo-2-seed42.csv")
    test = pd.read_csv(space / "data/demo/test.csv")
    for fold in (0, 1):
        oof = Predictions.load(space / f"runs/tiny/fold{fold}/oof.none.npz")
        assert sorted(oof.image) == sorted(table.image[table.fold == fold])
        assert oof.classes == sorted(table.label.unique())
        np.testing.assert_allclose(oof.prob.sum(1), 1, atol=1e-5)
        assert Predictions.load(space / f"runs/tiny/fold{fold}/test.none.npz").image == list(
            test.image
        )


def test_oof_equals_what_training_measured(
    run: Callable[..., str], trained: str, space: Path
) -> None:
    run("predict", trained, "--split", "oof")
    labels = pd.read_csv(space / "folds/demo-2-seed42.csv").set_index("image").label
    for fold in (0, 1):
        oof = Predictions.load(space / f"runs/tiny/fold{fold}/oof.none.npz")
        chosen = np.array(oof.classes)[oof.prob.argmax(1)]
        accuracy = (chosen == labels[oof.image]).mean()
        log = pd.read_csv(space / f"runs/tiny/fold{fold}/log.csv")
        assert accuracy == pytest.approx(log.valid_score.iloc[-1], abs=1e-4)


def test_another_tta_is_a_new_file_and_the_old_one_stays(
    run: Callable[..., str], trained: str, space: Path
) -> None:
    run("predict", trained)
    assert "up to date" in run("predict", trained)
    plain = (space / "runs/tiny/fold0/test.none.npz").stat().st_mtime_ns
    run("predict", trained, "--tta", "d4", "--split", "test")
    assert (space / "runs/tiny/fold0/test.d4.npz").exists()
    assert not (space / "runs/tiny/fold0/oof.d4.npz").exists()
    assert (space / "runs/tiny/fold0/test.none.npz").stat().st_mtime_ns == plain


def test_untrained_fold_is_named(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    experiment = write()
    split(experiment)
    run("train", experiment, "--fold", "0")
    said = run("predict", experiment, expect=2)
    assert "fold1/model.safetensors: not trained" in said


def test_a_model_of_another_split_is_refused(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str]
) -> None:
    experiment = split(write())
    pretend_model(settings := load_experiment(experiment), 0)
    key = {**settings.key(), "fold": 0, "folds": "others"}
    records.commit(model_path("tiny", 0), key, 0.0)
    said = run("predict", experiment, "--fold", "0", expect=2)
    assert "trained on another split than the folds file holds now; restore the file, or" in said


def test_sizes_have_files_of_their_own_and_the_blend_finds_them(
    run: Callable[..., str], trained: str, write: Callable[..., str], space: Path
) -> None:
    run("predict", trained)
    plain = (space / "runs/tiny/fold0/oof.none.npz").stat().st_mtime_ns
    for sizes in ([32], [40], [40, 32]):
        write(predict={"sizes": sizes})
        run("predict", trained)
    assert "up to date" in run("predict", trained)
    names = ("none", "none-32", "none-40", "none-32-40")
    files = [Predictions.load(space / f"runs/tiny/fold0/oof.{name}.npz") for name in names]
    own, same, large, both = (file.prob for file in files)
    np.testing.assert_array_equal(own, same)
    assert np.abs(own - large).max() > 1e-3
    np.testing.assert_allclose(both, (own + large) / 2, atol=1e-6)
    assert (space / "runs/tiny/fold0/oof.none.npz").stat().st_mtime_ns == plain
    assert "tiny none-32-40" in run("ensemble", trained)
    record = records.load(space / "runs/tiny/test.npz")
    assert record["key"]["members"]["tiny"]["tta"] == "none-32-40"
    run("submit", trained.removesuffix(".yaml").rpartition("/")[2])
    write(predict={"sizes": [41]})
    assert "41 px would enlarge" in run("predict", trained, expect=2)
    assert "no oof predictions with tta none-41" in run("ensemble", trained, expect=2)


def test_fp16_is_for_gpus_and_bf16_for_training_alone() -> None:
    for device, trained, looked in (
        ("cuda", "bf16", "fp16"),
        ("cuda", "fp16", "fp16"),
        ("cuda", "no", "no"),
        ("cpu", "bf16", "no"),
    ):
        accelerator = SimpleNamespace(device=torch.device(device), mixed_precision=trained)
        assert inference_precision(accelerator) == looked


@pytest.mark.parametrize(("height", "lost"), [(40.0, 1e-2), (1e5, 0.0)])
def test_what_fp16_cannot_hold_is_computed_anew(height: float, lost: float) -> None:
    model, images = Near(height), torch.ones(3, 3, 2, 2)
    exact = forward(model, images, "no")
    half = forward(model, images, "fp16")
    assert torch.isfinite(half).all()
    assert half.dtype == torch.float32
    assert lost * 0.1 <= (half - exact).abs().max() <= lost


def test_a_model_in_training_is_judged_as_it_is_saved() -> None:
    """Accelerate wraps its forward in autocast: the log's score and OOF would differ."""
    accelerator = make_accelerator(Runtime(device="cpu", precision="bf16"))
    wrapped, pixels = accelerator.prepare(Near(40.0)), random_pixels(6)
    assert wrapped(torch.ones(1, 3, 2, 2)).diff() == 0, "bf16 makes the two logits equal"
    judged = probabilities("none", pixels, [0, 1], model=wrapped)
    np.testing.assert_array_equal(judged, probabilities("none", pixels, [0, 1], model=Near(40.0)))
    assert wrapped(torch.ones(1, 3, 2, 2)).diff() == 0, "and it trains on as before"


def test_averaged_weights_are_judged_as_they_are_now() -> None:
    """An average is in eval mode for ever: a LeViT of it would answer as in the first epoch."""
    model, pixels = Keeping(), random_pixels(6)
    for best in (2, 0):
        model.weight = torch.eye(3)[best]
        assert probabilities("none", pixels, [0, 1], model=model).argmax(1).tolist() == [best] * 2


def test_a_batch_without_memory_for_it_is_predicted_in_halves() -> None:
    seen = []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > 4:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.flatten(1).sum(1, keepdim=True)

    runtime = Runtime(device="cpu", precision="no")
    predictor = Predictor(Corner(), FACTS, make_accelerator(runtime), runtime)
    images = torch.arange(7.0)[:, None, None, None].expand(7, 3, 2, 2)
    for _ in range(2):
        found = predictor.in_parts(model, images)
        assert found[:, 0].tolist() == [12.0 * i for i in range(7)]
    assert seen == [7, 4, 2, 2, 2, 1, 2, 2, 2, 1], "found once"
    with pytest.raises(torch.OutOfMemoryError):
        predictor.in_parts(lambda one: model(one.expand(3, 3, 2, 2)), images[:1])
