"""Batches: equal for any number of workers, different from epoch to epoch and batch to batch."""

import numpy as np
import pytest
import torch

from pipeline.parts.augment import Augment, Resize
from pipeline.parts.loader import EpochBatches, Pictures, derive_seed, in_order, make_loader

HARSH = [{"RandomResizedCrop": {"scale": [0.3, 1.0]}}, {"ColorJitter": {"p": 1.0}}]


def pixels(n: int = 22, size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)


def epoch(workers: int, number: int, same: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    packed = pixels()
    if same:
        packed[:] = packed[0]
    pictures = Pictures(packed, np.arange(22), np.arange(22) % 5, Augment(HARSH, 16, "bicubic"))
    batches = EpochBatches(22, 5, seed=7)
    batches.epoch = number
    return list(make_loader(pictures, batches, workers, pin=False))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers: int) -> None:
    for (images, target), (same_images, same_target) in zip(
        epoch(0, 3), epoch(workers, 3), strict=True
    ):
        assert torch.equal(images, same_images)
        assert torch.equal(target, same_target)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_epochs_differ(workers: int) -> None:
    first, second = (torch.cat([images for images, _ in epoch(workers, n)]) for n in (0, 1))
    assert not torch.equal(first.sort(0).values, second.sort(0).values)


def test_two_workers_draw_different_augmentations() -> None:
    """All pictures are one picture: what differs is the augmentation."""
    batches = [images for images, _ in epoch(2, 0, same=True)]
    assert len(batches) == 4
    views = torch.cat(batches).flatten(1)
    assert len(torch.unique(views, dim=0)) == 22


def test_batches_are_uint8_and_whole() -> None:
    for images, target in epoch(0, 0):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (16, 16, 3)
        assert len(images) == len(target)
        assert len(images) in (5, 6)


def test_every_image_once_an_epoch() -> None:
    rows = [row for spec in EpochBatches(22, 5, seed=1) for row in spec.rows]
    assert sorted(rows) == list(range(22))
    assert rows != sorted(rows)
    assert len(list(EpochBatches(3, 64, seed=1))) == 1


def test_evaluation_sees_no_augmentation() -> None:
    packed = pixels(n=3, size=16)
    pictures = Pictures(packed, np.array([2, 0]), np.zeros(2), Resize(16, "bicubic"))
    ((images, _),) = make_loader(pictures, in_order(2, 8), 0, pin=False)
    assert (images.numpy() == packed[[2, 0]]).all()


def test_in_order_covers_the_rest() -> None:
    assert [spec.rows for spec in in_order(5, 2)] == [[0, 1], [2, 3], [4]]


def test_seeds_depend_on_the_order_of_their_parts() -> None:
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert derive_seed(11, 2) != derive_seed(1, 12)
    assert derive_seed("a", 1) == derive_seed("a", 1)
