"""Features of an untrained backbone: computed once for all folds, and predicted from."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import INSTANT
from safetensors.torch import save_file

from pipeline.base import records
from pipeline.base.cli import say_once
from pipeline.base.config import load_experiment
from pipeline.base.runs import model_path, prediction_path
from pipeline.data.splits import load_folds
from pipeline.inference import features
from pipeline.inference.answers import SHARES
from pipeline.inference.features import FrozenFeatures, backbone_digest
from pipeline.inference.metrics import METRICS
from pipeline.inference.predictions import Predictions
from pipeline.inference.tta import VIEWS, View
from pipeline.model.head import BlockHead

pytestmark = pytest.mark.precision
HEAD = {"features": "blocks", "head_init": "lda"}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(pictures, views) of every pass that is really computed."""
    made, computed = [], FrozenFeatures.computed

    def counted(self: FrozenFeatures, rows: np.ndarray, views: list[View]) -> Iterator:
        made.append((len(rows), len(views)))
        return computed(self, rows, views)

    monkeypatch.setattr(FrozenFeatures, "computed", counted)
    return made


@pytest.fixture
def still(write: Callable[..., str], split: Callable[[str], str]) -> str:
    # the seed draws this net's first weights, so both folds must be given the same
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=1000)
    path = Path(write()).with_name("first.safetensors")
    save_file(net.state_dict(), path)
    model = {**HEAD, "weights": str(path)}
    changes = {"model": model, "train": {"epochs": 0}, "augment": ["HorizontalFlip"]}
    return split(write("still", **changes, predict={"tta": "flips"}))


def test_one_pass_serves_all_folds_and_their_predictions(
    still: str, run: Callable[..., str], passes: list[tuple[int, int]], space: Path
) -> None:
    run("train", still)  # both folds in this process, or their passes would not be seen
    assert passes == [(60, 2)], "the plain and the mirrored view, for both folds"
    run("predict", still)
    assert passes == [(60, 2), (60, 2), (12, 4)], "the other two flips, and the test pictures"
    kept = list((space / "runs" / "_data" / "demo").glob("*/features/*.npy"))
    assert len(kept) == 8
    assert {len(np.load(path)) for path in kept} == {60, 12}


def test_features_that_were_not_used_for_longest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "KEPT_GB", 3e-6)
    files = [tmp_path / f"{name}.npy" for name in ("old", "new", "unfinished", "used")]
    for age, file in enumerate(files):
        file.write_bytes(bytes(1000 * (age + 1) // 2))
        if file.stem != "unfinished":
            records.record_path(file).touch()
            os.utime(records.record_path(file), (age, age))
    (tmp_path / ".old.npy.other-host-12.tmp").touch()  # a killed writer's
    features.remove_oldest(tmp_path, files[3:])  # 2000 in use, 1000 of "new", no room for 500
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "new.npy",
        "new.npy.json",
        "used.npy",
        "used.npy.json",
    ]
    assert records.record_path(files[3]).stat().st_mtime > 1e9
    features.remove_oldest(tmp_path, [])
    assert len(list(tmp_path.iterdir())) == 4, "they fit"


def test_the_same_probabilities_as_from_pictures(
    still: str, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", still, "--fold", "0")
    run("train", still, "--fold", "1")
    files = {s: prediction_path("still", 1, s, "flips") for s in ("oof", "test")}
    run("predict", still)
    from_features = {s: Predictions.load(file) for s, file in files.items()}
    for file in files.values():
        file.unlink()
    monkeypatch.setattr(features, "MAX_IMAGES", 0)
    run("predict", still)
    for split, file in files.items():
        from_pictures = Predictions.load(file)
        assert from_pictures.image == from_features[split].image
        assert from_pictures.prob.std() > 0.02
        np.testing.assert_allclose(from_pictures.prob, from_features[split].prob, atol=1e-5)


def test_answers_follow_their_pictures_into_another_order(
    still: str, run: Callable[..., str], space: Path
) -> None:
    run("train", still, "--fold", "0")
    file = prediction_path("still", 0, "test", "flips")
    run("predict", still, "--fold", "0", "--split", "test")
    old, table = Predictions.load(file), space / "data" / "demo" / "test.csv"
    pd.read_csv(table)[::-1].to_csv(table, index=False)
    run("prepare", still)
    file.unlink()
    run("predict", still, "--fold", "0", "--split", "test")
    new = Predictions.load(file)
    assert new.image == old.image[::-1]
    np.testing.assert_allclose(new.aligned(old.image, old.classes), old.prob, atol=1e-5)


class Batches:
    """Stands for a Predictor: of a row it sees its number, in each view 1 more, `width` times."""

    device, precision, answer = torch.device("cpu"), "no", SHARES

    def __init__(self, width: int):
        self.width, self.preprocessing = width, {"size": 32}
        self.model = timm.create_model("test_resnet", num_classes=3)

    def batches(self, pixels: object, rows: np.ndarray, *_: object) -> Iterator[torch.Tensor]:
        yield from torch.from_numpy(rows).split(25)

    def over_views(
        self, function: object, images: torch.Tensor, views: list[View]
    ) -> list[torch.Tensor]:
        return [(images[:, None] + k).float().expand(-1, self.width) for k in range(len(views))]


def test_they_are_held_once(
    run: Callable[..., str], write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK", 8)
    run("prepare", experiment := write(**INSTANT))
    frozen = FrozenFeatures(Batches(3000), load_experiment(experiment))
    rows, views = np.arange(60)[::-1].copy(), VIEWS["d4"]
    expected = torch.from_numpy(rows)[:, None] + torch.arange(8)
    for _ in range(2):  # computed, and read
        tracemalloc.start()
        found = frozen.of("train", rows, views)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.shape == (60, 8, 3000) and torch.equal(found[..., 7], expected)
        assert peak < 1.5 * found.nbytes
    made = frozen.compute(rows, views)
    assert torch.equal(made, found)
    made.sub_(1)  # in place, where they are standardised: no tensor of inference alone


@pytest.mark.parametrize(("most", "at_once"), [(60, [*[8] * 7, 4]), (59, [25, 25, 10])])
def test_a_head_is_asked_about_some_pictures_at_once_and_no_more_are_held(
    most: int,
    at_once: list[int],
    run: Callable[..., str],
    write: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of few pictures from the files that were kept, of more from the pass itself."""
    run("prepare", experiment := write(**INSTANT))
    frozen, asked = FrozenFeatures(Batches(3000), load_experiment(experiment)), []
    head = torch.nn.Linear(3000, 3)
    torch.nn.init.normal_(head.weight, std=1e-4)

    def logits(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        asked.append(len(inputs))
        return head(inputs)

    monkeypatch.setattr(features, "head_logits", logits)
    monkeypatch.setattr(features, "CHUNK", 8)
    monkeypatch.setattr(features, "MAX_IMAGES", most)
    say_once.cache_clear()
    rows, views = np.arange(60), VIEWS["d4"]
    seen = torch.from_numpy(rows)[:, None, None] + torch.arange(8.0)[:, None].expand(8, 3000)
    expected = head(seen).softmax(2).mean(1).detach()
    for _ in range(2):  # computed, and read
        asked.clear()
        tracemalloc.start()
        found = frozen.probabilities("train", rows, views)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert asked == [n for n in at_once for _ in views]
        assert peak < 0.4 * seen.nbytes
        np.testing.assert_allclose(found, expected, atol=1e-6)
    text = "features of 60 train pictures are not kept, as they are over 59: they are made anew"
    assert capsys.readouterr().out.count(text) == (most < 60)


def test_a_head_is_judged_by_what_its_start_has_seen(
    still: str, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.predictor.Predictor.probabilities", None)
        run("train", still)  # a second pass over the held-out pictures would raise
    monkeypatch.setattr(features, "MAX_IMAGES", 0)
    run("predict", still, "--tta", "none")  # from the pictures
    for fold in (0, 1):
        oof = Predictions.load(prediction_path("still", fold, "oof", "none"))
        answer = load_folds(load_experiment(still)).set_index("image").label
        own = [oof.classes.index(answer[image]) for image in oof.image]
        loss = METRICS["log_loss"](np.array(own), oof.prob)
        log = pd.read_csv(model_path("still", fold).with_name("log.csv"))
        assert log.valid_loss.tolist() == pytest.approx([loss], abs=1e-4)


def test_trained_weights_are_not_predicted_from_first_ones(
    still: str, write: Callable[..., str], run: Callable[..., str], passes: list[tuple[int, int]]
) -> None:
    settings = load_experiment(still)
    model = settings.model.model_dump(mode="json")
    trained = write("trained", model=model, train={"epochs": 1})
    run("train", trained, "--fold", "0")
    run("train", trained, "--fold", "1")
    run("predict", trained)
    own = [(30, 2), (30, 1), (30, 2)]  # the head's start, its score, the kernel at the end
    assert passes == own * 2, "BatchNorm is each fold's own"


def test_only_the_backbone_names_its_features() -> None:
    model = BlockHead(timm.create_model("test_resnet"), 5)
    before = backbone_digest(model)
    with torch.no_grad():
        model.head.weight.add_(1)
        model.mean.add_(1)
    assert backbone_digest(model) == before
    with torch.no_grad():
        model.backbone.conv1[0].weight[0, 0, 0, 0] += 1e-3
    assert backbone_digest(model) != before
