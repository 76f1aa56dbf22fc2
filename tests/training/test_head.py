"""The closed-form head: it separates what is separable, and is neither too sure nor too shy."""

import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Experiment, load_experiment
from pipeline.base.runs import model_path, prediction_path
from pipeline.data.splits import load_folds
from pipeline.inference.metrics import METRICS
from pipeline.inference.predictions import Predictions
from pipeline.launchers.pool import WORKER
from pipeline.model.head import BlockHead
from pipeline.training import discriminant
from pipeline.training.discriminant import (
    CHUNK_IMAGES,
    SHRINKAGES,
    ClassMoments,
    Fitted,
    downhill,
    lda,
)
from pipeline.training.head_end import move_head, refit_head
from pipeline.training.head_init import fit_head, in_words, start_views
from pipeline.training.kernel_ridge import seconds_of_kernel
from pipeline.tuning.budget import seconds_of_head, seconds_of_lda

Run = Callable[..., str]
WIDTH = 12
PART = ["test", "train", "train", "test"]


def clouds(n: int, seed: int = 0, spread: float = 1.0) -> tuple[torch.Tensor, np.ndarray]:
    """Overlapping correlated classes 0, 1, 2 of unequal size; features [n, 1, 12]."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    shape = np.random.default_rng(9).normal(size=(WIDTH, WIDTH))
    centres = np.random.default_rng(8).normal(size=(3, WIDTH)) * 2
    noise = rng.normal(size=(n, WIDTH)) @ shape * spread
    return torch.from_numpy(centres[labels] + noise).float()[:, None], labels


def statistics(features: torch.Tensor, labels: np.ndarray) -> ClassMoments:
    return ClassMoments.of(features, labels, 3, np.arange(len(labels)))


def test_it_is_the_textbooks_lda() -> None:
    features, labels = clouds(400)
    weight, bias = statistics(features, labels).solve(shrinkage=0.0)
    logits = (features[:, 0].double() @ weight.T + bias).numpy()
    textbook = LinearDiscriminantAnalysis(solver="lsqr").fit(features[:, 0].numpy(), labels)
    intercept = textbook.intercept_ - np.log(textbook.priors_)  # ours are equal
    other = features[:, 0].numpy() @ textbook.coef_.T + intercept
    ours, theirs = (z - z.mean(1, keepdims=True) for z in (logits, other))
    # scikit-learn divides by n, we by n - classes
    np.testing.assert_allclose(ours * 400 / 397, theirs, rtol=1e-3, atol=1e-2)


def test_shrinkage_and_scale_fit_pictures_not_seen() -> None:
    """With more features than images plain LDA is sure of everything; the fitted head is not."""
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    centres = rng.normal(size=(3, 80)) * 0.4
    features = torch.from_numpy(centres[labels] + rng.normal(size=(60, 80))).float()[:, None]
    found = lda(features, labels, 3)
    test_labels = np.arange(600) % 3
    test = torch.from_numpy(centres[test_labels] + rng.normal(size=(600, 80))).float()
    target = torch.from_numpy(test_labels)
    weight, bias = statistics(features, labels).solve(0.01)
    plain = F.cross_entropy(test.double() @ weight.T + bias, target)
    fitted = F.cross_entropy(test @ found.weight.T + found.bias, target)
    assert fitted < 0.5 * plain
    assert fitted < np.log(3)
    assert found.scale < 1


@pytest.mark.parametrize("lowest", range(len(SHRINKAGES)))
def test_the_search_finds_the_lowest_and_looks_at_few(lowest: int) -> None:
    seen = []

    def tried(shrinkage: float) -> tuple[float, float]:
        seen.append(shrinkage)
        return abs(SHRINKAGES.index(shrinkage) - lowest), shrinkage

    assert downhill(tried) == (0, SHRINKAGES[lowest])
    assert len(seen) == len(set(seen)) <= 4


def test_views_count_as_more_pictures() -> None:
    features, labels = clouds(90)
    twice = statistics(torch.cat([features, features], 1), labels)
    once = statistics(features, labels)
    torch.testing.assert_close(twice.means, once.means)
    within = once.covariance() * (90 - 3) * 2
    torch.testing.assert_close(twice.covariance() * (180 - 3), within, rtol=1e-5, atol=1e-4)


def test_statistics_of_some_images_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clouds(90)
    some = np.arange(3, 90, 2)
    alone = statistics(features[some], labels[some])
    monkeypatch.setattr(discriminant, "CHUNK_IMAGES", 7)
    chunked = ClassMoments.of(features, labels, 3, some)
    torch.testing.assert_close(chunked.means, alone.means)
    torch.testing.assert_close(chunked.covariance(), alone.covariance(), rtol=1e-5, atol=1e-5)


def test_statistics_of_parts_add_up() -> None:
    """The held-out fifth joins the rest without a second pass; its class shares differ."""
    features, labels = clouds(90)
    order = np.argsort(labels, kind="stable")
    first, second = order[:50], order[50:]  # no class 2 in the first, hardly a 0 in the second
    added = ClassMoments.of(features, labels, 3, first) + ClassMoments.of(
        features, labels, 3, second
    )
    whole = statistics(features, labels)
    torch.testing.assert_close(added.means, whole.means)
    torch.testing.assert_close(added.covariance(), whole.covariance(), rtol=1e-5, atol=1e-5)
    expected = np.cov((features[:, 0] - whole.means[labels]).numpy().T, ddof=3)
    np.testing.assert_allclose(whole.covariance(), expected, rtol=1e-4, atol=1e-4)


def test_a_class_of_one_image_and_an_absent_one() -> None:
    features, labels = clouds(40)
    labels[:] = np.arange(40) % 2
    labels[7] = 3
    found = lda(features, labels, 5)
    assert found.weight.isfinite().all()
    assert found.weight.shape == (5, WIDTH)


@pytest.mark.parametrize("reads", ["blocks", "last"])
def test_head_gives_the_logits_of_standardised_features(reads: str) -> None:
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model = BlockHead(model, 3).eval() if reads == "blocks" else model
    width = model.get_classifier().in_features
    labels = np.arange(30) % 3
    features = torch.randn(30, 2, width) * torch.linspace(0.5, 4, width) + 7
    features[:, :, 3] = 1.0  # a dead channel
    fit_head(model, features.clone(), labels, "lda")
    deviation, mean = torch.std_mean(features.flatten(0, 1), 0)
    standard = (features - mean) / deviation.clamp(min=0.1 * deviation.mean())
    expected = lda(standard, labels, 3)
    given = features[:, 0]
    if reads == "blocks":
        given = (given - model.mean) * model.scale
        lengths = ((features - model.mean) * model.scale).square().sum(2)
        assert 0.9 < lengths.mean() < 1.01, "features of length 1"
    logits = standard[:, 0] @ expected.weight.T + expected.bias
    torch.testing.assert_close(model.get_classifier()(given), logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reads", ["blocks", "last"])
def test_refitted_its_logits_are_the_mean_of_what_was_trained_and_the_closed_form(
    reads: str, write: Callable[..., str]
) -> None:
    """Of the second and third picture in four alone: the others have no label of their own."""
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model = BlockHead(model, 3).eval() if reads == "blocks" else model
    head, labels = model.get_classifier(), np.arange(40) % 3
    values = torch.randn(40, 2, head.in_features) + torch.from_numpy(labels)[:, None, None]
    fit_head(model, values.clone() * 3 - 1, labels, "lda")  # other inputs: other means and scales
    rows = np.flatnonzero(np.arange(40) % 4 % 3)

    def logits(seen: torch.Tensor = values) -> torch.Tensor:
        given = (seen[:, 0] - model.mean) * model.scale if reads == "blocks" else seen[:, 0]
        return head(given).detach()

    def features(seen: torch.Tensor, size: int) -> SimpleNamespace:
        return SimpleNamespace(
            model=model,
            settings=load_experiment(write(augment=["HorizontalFlip"])),
            prepared=SimpleNamespace(rows=pd.DataFrame({"split": np.resize(PART, 40)})),
            compute=lambda rows, views: seen[rows, : len(views)],
            size=size,
        )

    smaller, like = values * 2 - 1, Fitted(0.05, 0.3)  # what it was trained on
    trained = logits(smaller)
    refit_head(features(smaller, 32), features(values, 40), np.arange(40), labels, 7, like)
    mean = logits()
    found = fit_head(model, values[rows].clone(), labels[rows], "lda", like)
    assert (found.shrinkage, found.scale) == like[:2]
    torch.testing.assert_close(mean, (trained + logits()) / 2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reads", ["blocks", "last"])
def test_a_head_finds_at_another_size_what_it_learned(reads: str) -> None:
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model = BlockHead(model, 3).eval() if reads == "blocks" else model
    head = model.get_classifier()
    before = torch.randn(50, head.in_features) * 2 + 1
    before[:, 5] = 4.0  # dead: it says nothing at either size
    if reads == "blocks":
        model.mean.copy_(before.mean(0) + 0.5)
        model.scale.copy_(torch.linspace(0.01, 1, head.in_features))
    factor, shift = torch.linspace(0.5, 3, head.in_features), torch.randn(head.in_features)

    def logits(inputs: torch.Tensor) -> torch.Tensor:
        given = (inputs - model.mean) * model.scale if reads == "blocks" else inputs
        return head(given).detach()

    expected, now = logits(before), before * factor + shift
    assert (logits(now) - expected).abs().max() > 0.1
    move_head(model, before, now)
    torch.testing.assert_close(logits(now), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("backbone", "size"), [("test_resnet", 40), ("test_vit", 32)])
def test_a_finished_head_is_shown_larger_pictures(
    backbone: str, size: int, run: Run, write: Callable[..., str], split: Callable[[str], str]
) -> None:
    """By those who answer with it as well; a ViT takes those of its own size alone."""
    model = {"backbone": backbone, "head_init": "lda", "features": "blocks", "test_scale": 1.25}
    experiment = split(write(model=model, train={"epochs": 1, "refit": True}))
    for fold in ("0", "1"):
        said = run("train", experiment, "--fold", fold)
        assert f"epoch 1/1  fits the head to pictures of {size} px" in said
    run("predict", experiment, "--tta", "none")
    for fold in (0, 1):
        assert records.load(model_path("tiny", fold))["preprocessing"]["size"] == size
        oof = Predictions.load(prediction_path("tiny", fold, "oof", "none"))
        answer = load_folds(load_experiment(experiment)).set_index("image").label
        own = [oof.classes.index(answer[image]) for image in oof.image]
        loss = METRICS["log_loss"](np.array(own), oof.prob)
        log = pd.read_csv(model_path("tiny", fold).with_name("log.csv"))
        assert log.valid_loss.iloc[-1] == pytest.approx(loss, abs=1e-4)


def test_the_line_says_how_much_of_the_kernel_will_be_in_the_end() -> None:
    """A trained head has half at most, whatever an untrained one was given."""
    start = "closed form, shrinkage 0.1, scale 0.5"
    assert in_words(Fitted(0.1, 0.5), 5) == start
    some = Fitted(0.1, 0.5, 12.0, 0.25)
    assert in_words(some, 0) == f"{start}, 75% kernel"
    assert in_words(some, 5) == f"{start}, 75% kernel at the end"
    assert in_words(some._replace(share=0.75), 5) == f"{start}, 50% kernel at the end"


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    model.fc = nn.Conv2d(3, 3, 1)
    with pytest.raises(UserError, match="no closed form for Conv2d; set head_init: random"):
        fit_head(model, torch.zeros(2, 1, 3), np.array([0, 1]), "lda")


def test_the_second_view_is_one_the_augmentation_makes(write: Callable[..., str]) -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)

    def views(augment: object) -> list[torch.Tensor]:
        return [view(image) for view in start_views(load_experiment(write(augment=augment)))]

    (plain,) = views([])
    assert torch.equal(plain, image)
    _, mirrored = views(["HorizontalFlip"])
    assert torch.equal(mirrored, image.flip(3))
    quarters = views(["HorizontalFlip", "SquareSymmetry"])
    assert len({tuple(view.flatten().tolist()) for view in quarters}) == 4


def test_no_epochs_is_a_run_and_the_log_says_so(
    write: Callable[..., str], split: Callable[[str], str], run: Callable[..., str]
) -> None:
    still = split(
        write("still", model={"features": "blocks", "head_init": "lda"}, train={"epochs": 0})
    )
    text = run("train", still, "--fold", "0")
    assert "recipe instant" in text
    assert re.search(r"closed form, shrinkage .*, ECE 0\.\d{3}  ", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORKER, "1")
        assert "recipe" not in run("train", still, "--fold", "1"), "the pool has said it"
    log = pd.read_csv(model_path("still", 0).with_name("log.csv"))
    assert list(log.epoch) == [0]
    record = records.load(model_path("still", 0))
    assert record["scores"]["valid_score"] == log.valid_score[0] > 0.4, "4 species"


def test_a_forecast_of_few_images_of_many_classes() -> None:
    """A picture a class varies within none: its covariance would have no root."""
    few = seconds_of_lda(images=5, views=1, width=64, classes=99)
    many = seconds_of_lda(images=100 * CHUNK_IMAGES, views=4, width=64, classes=99)
    assert 0 < few < many
    assert 0 < seconds_of_kernel(5, 1, 99) < seconds_of_kernel(900, 4, 99)


@pytest.mark.parametrize(
    ("model", "refit", "times"),
    [
        ({"head_init": "lda"}, False, 1),
        ({"head_init": "random"}, True, 2),
        ({"head_init": "random"}, False, 0),
        ({"head_init": "random", "kernel": True}, True, 1 + 2 * 2),
        ({"head_init": "random", "kernel": True}, False, 1 + 2 * 2),
    ],
)
def test_a_forecast_knows_how_often_the_closed_form_is_made(
    model: dict[str, str], refit: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tuning.budget.seconds_of_lda", lambda *_: 7.0)
    settings = Experiment(competition="demo", model={"size": 32, **model}, train={"refit": refit})
    monkeypatch.setattr("pipeline.training.kernel_ridge.seconds_of_kernel", lambda *_: 14.0)
    trainer = SimpleNamespace(
        settings=settings,
        model=BlockHead(timm.create_model("test_resnet"), 2),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        rows=np.arange(9),
        labels=np.arange(9),
    )
    assert seconds_of_head(trainer) == 7 * times
