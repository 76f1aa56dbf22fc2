"""Features of an untrained backbone: computed once for all folds, and predicted from."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.base import records
from pipeline.base.config import load_experiment
from pipeline.base.runs import model_path, prediction_path
from pipeline.data.splits import load_folds
from pipeline.inference import features
from pipeline.inference.features import backbone_digest
from pipeline.inference.metrics import METRICS
from pipeline.inference.predictions import Predictions
from pipeline.inference.tta import View
from pipeline.model.head import BlockHead

pytestmark = pytest.mark.precision
HEAD = {"features": "blocks", "head_init": "lda"}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(pictures, views) of every pass that is really computed."""
    made, compute = [], features.FrozenFeatures.compute

    def counted(
        self: features.FrozenFeatures, rows: np.ndarray, views: list[View]
    ) -> list[torch.Tensor]:
        made.append((len(rows), len(views)))
        return compute(self, rows, views)

    monkeypatch.setattr(features.FrozenFeatures, "compute", counted)
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
