"""Batches: equal for any number of workers, different from epoch to epoch and batch to batch."""

import gc
import signal
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.base.cli import UserError, explain
from pipeline.base.config import Runtime
from pipeline.data import loader
from pipeline.data.augment import Augment
from pipeline.data.loader import (
    BatchSpec,
    EpochBatches,
    Pictures,
    derive_seed,
    in_order,
    load_batches,
)
from pipeline.data.resize import Resize

HARSH = [{"RandomResizedCrop": {"scale": [0.3, 1.0]}}, {"ColorJitter": {"p": 1.0}}]


def pixels(n: int = 22, size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)


def load(pictures: Pictures, batches: Iterable[BatchSpec], workers: int) -> DataLoader:
    return load_batches(pictures, batches, Runtime(workers=workers), torch.device("cpu"))


def epoch(workers: int, number: int, same: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    packed = pixels()
    if same:
        packed[:] = packed[0]
    pictures = Pictures(packed, np.arange(22), np.arange(22) % 5, Augment(HARSH, 16, "bicubic"))
    batches = EpochBatches(22, 5, seed=7)
    batches.epoch = number
    return list(load(pictures, batches, workers))


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
    ((images, _),) = load(pictures, in_order(2, 8), 0)
    assert (images.numpy() == packed[[2, 0]]).all()


def test_in_order_covers_the_rest() -> None:
    assert [spec.rows for spec in in_order(5, 2)] == [[0, 1], [2, 3], [4]]


def test_seeds_depend_on_the_order_of_their_parts() -> None:
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert derive_seed(11, 2) != derive_seed(1, 12)
    assert derive_seed("a", 1) == derive_seed("a", 1)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (15, 2, [3, 2, 2, 2, 2, 2, 2]),  # eight batches would leave one image alone
        (3, 2, [3]),
        (1, 2, [1]),
        (799, 64, [67] * 7 + [66] * 5),  # as it was
        (22, 5, [6, 6, 5, 5]),
    ],
)
def test_no_image_stands_alone(n: int, batch_size: int, sizes: list[int]) -> None:
    assert EpochBatches(n, batch_size, seed=0).sizes == sizes


def test_workers_share_the_pixels_and_are_not_sent_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 starts processes otherwise."""
    monkeypatch.setattr(
        "multiprocessing.context._default_context._actual_context", get_context("spawn")
    )

    class Unsent(np.ndarray):
        def __reduce__(self) -> None:
            raise AssertionError("pickled")

    pictures = Pictures(pixels().view(Unsent), np.array([3, 1]), np.zeros(2), Resize(24, "bicubic"))
    ((images, _),) = load(pictures, in_order(2, 2), 1)
    assert (images.numpy() == pixels()[[3, 1]]).all()


class Broken:
    """Pictures of which one is damaged."""

    def __getitem__(self, row: int) -> np.ndarray:
        if row == 7:
            raise UserError("images/7.jpg: broken: UserError: no")
        return pixels(1)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_ails_a_worker_is_one_line(workers: int) -> None:
    pictures = Pictures(Broken(), np.arange(9), np.zeros(9), Resize(24, "bicubic"))
    with pytest.raises(UserError) as error:
        list(load(pictures, in_order(9, 2), workers))
    assert explain(error.value) == "images/7.jpg: broken: UserError: no"


def test_a_worker_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "PATIENCE", 0.3)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # of its end
    pictures = Pictures(pixels(9), np.arange(9), np.zeros(9), Resize(24, "bicubic"))
    made = load(pictures, in_order(9, 2), 1)
    monkeypatch.setattr(Pictures, "__getitem__", lambda *_: signal.pause())
    with pytest.raises(RuntimeError, match="DataLoader timed out") as error:
        list(made)
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    for lost in (error.value, killed):
        said = explain(lost)
        assert said.startswith("a loader process is lost (DataLoader ") and "\n" not in said
        assert "runtime.workers: 0" in said
    assert explain(RuntimeError("Caught ValueError in DataLoader worker process 0.")) is None
    del error, lost
    gc.collect()  # their frames hold the loader, whose end would be awaited in another test


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("free", "used"),
    [(10**9, 4), (10 * 4160, 4), (10 * 4160 - 1, 3), (4 * 4160, 1), (4 * 4160 - 1, 0), (0, 0)],
)
def test_as_many_workers_as_there_is_shared_memory_for(
    free: int, used: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch is 5 pictures of 16 px with their labels; a worker is two ahead, two are in use."""
    monkeypatch.setattr(loader, "SHARED", Path.cwd())
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    loader.warn_once.cache_clear()
    pictures = Pictures(pixels(size=16), np.arange(22), np.zeros(22), Resize(16, "bicubic"))
    monkeypatch.setattr(pictures, "targets", torch.zeros(22, 64, dtype=torch.uint8))
    batches = [spec._replace(rows=spec.rows[:1] * 5) for spec in in_order(22, 5)]
    assert 5 * (16 * 16 * 3 + 64) == 4160
    made = load(pictures, batches, 4)
    made = load(pictures, batches, 4)
    assert made.num_workers == used and made.timeout == (loader.PATIENCE if used else 0)
    said = capsys.readouterr().err
    assert said.count("--shm-size") == said.count(f"{used} will do") == (used < 4), "once"
