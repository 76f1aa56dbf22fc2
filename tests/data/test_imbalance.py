"""A planted imbalance of 1:50: what each remedy does to a rare class, judged on balanced data."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score

from pipeline.base.config import Train
from pipeline.data.loader import EpochBatches
from pipeline.data.sampler import ClassSampler
from pipeline.training.loss import Loss, class_weights


def clouds(counts: list[int], seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Points [n, 2] around (-1, 0) and (1, 0): 16 % of each class lie beyond the middle."""
    target = np.repeat([0, 1], counts)
    points = np.random.default_rng(seed).normal(0, 1, (len(target), 2))
    points[:, 0] += 2 * target - 1
    return torch.from_numpy(points).float(), target


def judge(**settings: object) -> tuple[float, float]:
    """Macro-F1 on balanced test points and recall of the class that training has 1 to 50."""
    settings = Train(**settings)
    points, target = clouds([2000, 40], seed=0)
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loss = Loss(settings, class_weights(settings, target, 2))
    how = settings.sampler
    draw = None if how == "none" else ClassSampler(target, how, seed=0)
    batches = EpochBatches(len(target), 256, seed=0, draw=draw)
    for batches.epoch in range(20):
        for spec in batches:
            optimizer.zero_grad()
            loss(model(points[spec.rows]), torch.from_numpy(target[spec.rows])).backward()
            optimizer.step()
    points, target = clouds([1000, 1000], seed=1)
    guess = model(points).argmax(1).numpy()
    return f1_score(target, guess, average="macro"), recall_score(target, guess)


@pytest.fixture(scope="module")
def untreated() -> tuple[float, float]:
    return judge()


@pytest.mark.parametrize("remedy", [{"class_weights": "inverse"}, {"sampler": "balanced"}])
def test_full_remedies_come_near_the_best_possible(
    remedy: dict[str, str], untreated: tuple[float, float]
) -> None:
    f1, recall = judge(**remedy)
    assert untreated[1] < 0.4
    assert recall > 0.75
    assert f1 > 0.81, "the best possible is 0.84"
    assert f1 > untreated[0] + 0.15


def test_the_milder_remedy_lies_between(untreated: tuple[float, float]) -> None:
    _, recall = judge(sampler="sqrt")
    _, full = judge(sampler="balanced")
    assert untreated[1] + 0.1 < recall < full
