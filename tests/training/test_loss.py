"""The loss: numbers computed by hand, for labels and soft rows alike, weighted to a mean of 1."""

from math import exp, log

import numpy as np
import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel

from pipeline.base.config import Experiment, Train
from pipeline.data.mix import as_rows
from pipeline.inference.answers import Answer
from pipeline.training.loss import Loss, class_weights, make_loss, row_weights

LOGITS = torch.tensor([[log(2.0), 0.0, 0.0], [0.0, log(6.0), 0.0]])  # p = 2 1 1 / 4, 1 6 1 / 8
TARGET = torch.tensor([0, 2])
SOFT = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])


def loss(target: torch.Tensor, weights: torch.Tensor | None = None, **settings: object) -> float:
    return Loss(Train(**settings), weights)(LOGITS, target).item()


def test_cross_entropy() -> None:
    assert loss(TARGET) == pytest.approx((log(2) + log(8)) / 2)
    first = 0.5 * log(2) + 0.5 * log(4)
    second = 0.25 * log(8 / 6) + 0.75 * log(8)
    assert loss(SOFT) == pytest.approx((first + second) / 2)


def test_bce() -> None:
    """Odds are 2 1 1 and 1 6 1: yes costs log(1 + 1/odds), no costs log(1 + odds)."""
    first, second = log(3 / 2) + 2 * log(2), log(2) + log(7) + log(2)
    assert loss(TARGET, loss="bce") == pytest.approx((first + second) / 2)
    first = 0.5 * log(3 / 2) + 0.5 * log(3) + log(2) + log(2)
    second = log(2) + 0.25 * log(7 / 6) + 0.75 * log(7) + log(2)
    assert loss(SOFT, loss="bce") == pytest.approx((first + second) / 2)


def test_focal() -> None:
    """Cross entropy times (1 - p)², of each class by its share of the row."""
    first, second = log(2) / 4, log(8) * (7 / 8) ** 2
    assert loss(TARGET, loss="focal") == pytest.approx((first + second) / 2)
    first = 0.5 * log(2) / 4 + 0.5 * log(4) * 9 / 16
    second = 0.25 * log(8 / 6) / 16 + 0.75 * log(8) * 49 / 64
    assert loss(SOFT, loss="focal") == pytest.approx((first + second) / 2)


def test_cumulative_bce() -> None:
    """Levels 1 to 3 of deviation 2 around 1.5 stand at -.25, .25 and .75: two cuts between."""
    settings = Experiment(competition="x", train={"loss": "cumulative_bce"})
    answer = Answer("numbers", [1.5], [2.0], [1.0], [3.0])
    made = make_loss(settings, np.zeros((2, 1)), 1, torch.device("cpu"), answer)
    logits, target = torch.tensor([[0.0], [0.25]]), torch.tensor([[-0.25], [0.5]])
    under = log(2) + log(1 + exp(-4))  # at the first cut, and a step below the second
    between = log(1 + exp(-2)) + 0.5 * log(1 + exp(-2)) + 0.5 * log(1 + exp(2))
    assert made(logits, target).item() == pytest.approx((under + between) / 2)


def test_asymmetric() -> None:
    """timm's of one row, which all its versions sum alike; a mean over the batch of ours."""
    each = [AsymmetricLossMultiLabel()(LOGITS[[i]], SOFT[[i]]).item() for i in (0, 1)]
    assert loss(SOFT, loss="asymmetric") == pytest.approx(sum(each) / 2)
    sure = torch.tensor([[-9.0, 9.0]], requires_grad=True)
    value = Loss(Train(loss="asymmetric"))(sure, torch.tensor([[0.0, 1.0]]))
    value.backward()
    assert value.item() < 1e-6
    assert sure.grad[0, 0] == 0, "a label that is rightly thought unlikely teaches nothing"


@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "focal"])
def test_labels_and_one_hot_rows_are_the_same(kind: str) -> None:
    weights = torch.tensor([0.5, 1.0, 2.5])
    for smoothing in (0.0, 0.3):
        settings = {"loss": kind, "label_smoothing": smoothing}
        rows = as_rows(TARGET, 3)
        assert loss(TARGET, weights, **settings) == pytest.approx(loss(rows, weights, **settings))
        by_hand = as_rows(TARGET, 3, smoothing)
        assert loss(TARGET, **settings) == pytest.approx(loss(by_hand, loss=kind))
        by_hand = SOFT * (1 - smoothing) + smoothing / 3
        assert loss(SOFT, **settings) == pytest.approx(loss(by_hand, loss=kind))


@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "focal"])
def test_the_weight_of_a_row_multiplies_its_loss(kind: str) -> None:
    weights = torch.tensor([0.5, 1.0, 2.5])
    each = Loss(Train(loss=kind)).per_row(LOGITS, SOFT)
    assert row_weights(SOFT, weights).tolist() == [0.75, 2.125]
    hand = (0.75 * each[0] + 2.125 * each[1]) / 2
    assert loss(SOFT, weights, loss=kind) == pytest.approx(hand.item())


def test_rows() -> None:
    assert as_rows(TARGET, 3).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert as_rows(SOFT, 3) is SOFT
    expected = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    torch.testing.assert_close(as_rows(TARGET, 3, 0.3), expected)
    torch.testing.assert_close(as_rows(SOFT, 3, 0.3).sum(1), torch.ones(2))


def test_class_weights_have_a_mean_of_1_over_the_images() -> None:
    target = np.repeat([0, 1, 2], [500, 20, 1])
    weights = class_weights(Train(class_weights="inverse"), target, 3)
    assert weights[torch.from_numpy(target)].mean().item() == pytest.approx(1)
    rows = np.random.default_rng(0).dirichlet([1, 2, 3], 50).astype(np.float32)
    weights = class_weights(Train(class_weights="inverse"), rows, 3)
    assert row_weights(torch.from_numpy(rows), weights).mean().item() == pytest.approx(1)


def test_class_weights_are_one_over_the_images() -> None:
    target = np.repeat([0, 1], [3000, 100])
    inverse = class_weights(Train(class_weights="inverse"), target, 2)
    assert (inverse[1] / inverse[0]).item() == pytest.approx(30)
    assert class_weights(Train(), target, 2) is None


def test_the_loss_that_is_made_has_the_weights_of_the_classes() -> None:
    settings = Experiment(competition="x", train={"class_weights": "inverse"})
    rows = as_rows(torch.tensor([0, 0, 0, 1]), 2).numpy()
    weighted = np.concatenate([rows, np.full((4, 1), 0.5, rows.dtype)], 1)  # of pseudo-labels
    for targets in (rows.argmax(1), rows, weighted):
        made = make_loss(settings, targets, 2, torch.device("cpu"))
        assert made.class_weights.tolist() == pytest.approx([2 / 3, 2])


def test_softmax_is_bce_given_that_one_class_is_there() -> None:
    """What prediction does with bce logits, from the sigmoids that it trained."""
    yes = LOGITS.sigmoid()
    only = torch.stack([yes[:, c] * (1 - yes).prod(1) / (1 - yes[:, c]) for c in range(3)], 1)
    torch.testing.assert_close(only / only.sum(1, keepdim=True), LOGITS.softmax(1))
    assert yes[1, 1].item() == pytest.approx(1 / (1 + exp(-log(6))))


@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "focal"])
def test_extreme_logits_stay_finite(kind: str) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    value = Loss(Train(loss=kind, label_smoothing=0.1))(logits, torch.tensor([1]))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
