"""The closed form of labels and numbers, against ridge regression written out."""

import numpy as np
import torch

from pipeline.training.discriminant import SHRINKAGES, Fitted
from pipeline.training.ridge import ridge, row_moments, solve


def planted(n: int = 300, width: int = 12) -> tuple[torch.Tensor, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 2, width)).astype(np.float32)
    x[:, 1] = x[:, 0] + 0.05 * x[:, 1]  # two views that are almost alike
    return torch.from_numpy(x), x.mean(1) @ random.normal(size=(width, 3))


def test_it_is_ridge_regression() -> None:
    features, score = planted()
    rows = np.column_stack([score, np.ones(len(score))])
    images = np.arange(0, 300, 2)
    weight, bias, mean = solve(row_moments(features, rows, images), 0.3)
    x, y = features[images].flatten(0, 1).double().numpy(), np.repeat(score[images], 2, axis=0)
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / 12 * np.eye(12)
    want = np.linalg.solve(shrunk, centred.T @ (y - y.mean(0)) / len(x)).T
    np.testing.assert_allclose(weight, want, rtol=1e-4)
    np.testing.assert_allclose(bias, y.mean(0) - want @ x.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(mean, y.mean(0))


def test_numbers_are_met_and_chances_are_odds() -> None:
    features, score = planted()
    standard = (score - score.mean(0)) / score.std(0)
    found = ridge(features, standard, 3)
    assert found.scale == 1 and found.shrinkage == min(SHRINKAGES)
    got = features[:, 0] @ found.weight.T + found.bias
    assert np.corrcoef(got[:, 1], standard[:, 1])[0, 1] > 0.99
    marks = score + np.random.default_rng(1).normal(0, 1, score.shape) > [0, 4, 0]
    found = ridge(features, marks, 3)
    chance = torch.sigmoid(features[:, 0] @ found.weight.T + found.bias).numpy()
    np.testing.assert_allclose(chance.mean(0), marks.mean(0), atol=0.06)
    loss = -np.log(np.where(marks, chance, 1 - chance)).mean()
    usual = marks.mean(0)
    assert loss < 0.7 * -np.log(np.where(marks, usual, 1 - usual)).mean()


def test_chances_that_are_computed_again_keep_their_level() -> None:
    """On a backbone that was trained shrinkage and scale are those of before; rare labels were
    given a log loss ten times as high by an offset that was only the log odds of their share."""
    features, score = planted()
    marks = score > np.quantile(score, 0.96, axis=0)
    found = ridge(features, marks, 3)
    again = ridge(features, marks, 3, Fitted(found.shrinkage, found.scale))
    torch.testing.assert_close(again.weight, found.weight)
    chance = torch.sigmoid(features.flatten(0, 1) @ again.weight.T + again.bias).numpy()
    np.testing.assert_allclose(chance.mean(0), marks.mean(0), atol=2e-3)
