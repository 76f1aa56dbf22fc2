"""Class sampling: shares kept over epochs, no image twice before all came once."""

import numpy as np
import pytest

from pipeline.base.config import Experiment
from pipeline.data.extra import epoch_sampler
from pipeline.data.loader import EpochBatches
from pipeline.data.sampler import ClassSampler, ShareSampler

TARGET = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [64, 16, 4, 1]))


def counts(kind: str, epoch: int) -> np.ndarray:
    return np.bincount(TARGET[ClassSampler(TARGET, kind, seed=5)(epoch)], minlength=4)


@pytest.mark.parametrize(("kind", "shares"), [("balanced", [1, 1, 1, 1]), ("sqrt", [8, 4, 2, 1])])
def test_classes_come_in_their_shares(kind: str, shares: list[int]) -> None:
    ideal = np.array(shares) / sum(shares) * len(TARGET)
    for epoch in range(5):
        assert counts(kind, epoch).sum() == len(TARGET), "an epoch is as long as the data"
        assert (np.abs(counts(kind, epoch) - ideal) < 1).all()


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_no_image_again_before_all_of_its_class(kind: str) -> None:
    for epoch in range(9):
        seen = np.bincount(ClassSampler(TARGET, kind, seed=5)(epoch), minlength=len(TARGET))
        for label in range(4):
            mine = seen[label == TARGET]
            assert mine.max() - mine.min() <= 1


def test_an_epoch_follows_from_seed_and_number() -> None:
    sampler = ClassSampler(TARGET, "balanced", seed=5)
    later = sampler(7)
    assert (ClassSampler(TARGET, "balanced", seed=5)(7) == later).all(), "no epoch before needed"
    assert not (ClassSampler(TARGET, "balanced", seed=6)(7) == later).all()
    assert not (sampler(6) == later).all()


@pytest.mark.parametrize("seed", range(30))
def test_any_class_sizes_fill_an_epoch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, rng.integers(1, 40), rng.integers(1, 200)) * 3
    for kind in ("balanced", "sqrt"):
        sampler = ClassSampler(target, kind, seed)
        assert [len(sampler(epoch)) for epoch in range(6)] == [len(target)] * 6


def test_batches_shuffle_what_the_sampler_draws() -> None:
    draw = ClassSampler(TARGET, "balanced", seed=5)
    batches = EpochBatches(len(TARGET), 8, seed=1, draw=draw)
    batches.epoch = 3
    rows = [row for spec in batches for row in spec.rows]
    assert sorted(rows) == sorted(draw(3))
    assert rows != list(draw(3))
    assert {len(spec.rows) for spec in batches} <= {7, 8, 9}


def test_none_is_the_old_order() -> None:
    every = Experiment(name="exp", competition="demo")
    assert epoch_sampler(every, np.arange(len(TARGET)), None, TARGET, 1) is None
    batches = EpochBatches(10, 5, seed=1, draw=None)
    batches.epoch = 2
    order = np.random.default_rng((1, 2)).permutation(10).tolist()
    assert [spec.rows for spec in batches] == [order[:5], order[5:]]


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_an_experiment_has_the_sampler_that_it_names(kind: str) -> None:
    every = Experiment(name="exp", competition="demo", train={"sampler": kind})
    found = epoch_sampler(every, np.arange(len(TARGET)), None, TARGET, 5)
    assert (found(3) == ClassSampler(TARGET, kind, seed=5)(3)).all()


def test_external_pictures_take_turns() -> None:
    extra = np.arange(80) >= 20
    drawn = [ShareSampler(extra, 0.5, seed=5)(epoch) for epoch in range(6)]
    assert all(sorted(one[:20]) == list(range(20)) and len({*one}) == 40 for one in drawn)
    assert len({*np.concatenate(drawn)}) > 20 + 40, "of 60 in turn"
    assert (ShareSampler(extra, 0.5, seed=5)(4) == drawn[4]).all(), "no epoch before needed"
    assert not (ShareSampler(extra, 0.5, seed=6)(4) == drawn[4]).all()
