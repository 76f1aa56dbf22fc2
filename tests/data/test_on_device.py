"""Augmentation in batches on a GPU makes the pictures that albumentations makes one by one."""

import weakref
from types import SimpleNamespace

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from pipeline.base.config import Experiment, Runtime
from pipeline.data import loader, on_device
from pipeline.data.augment import Augment
from pipeline.data.batch_augment import BatchAugment
from pipeline.data.loader import EpochBatches, Pictures, load_batches
from pipeline.data.on_device import DeviceLoader, release, resident
from pipeline.data.resize import Resize

SMALLER = {"Resize": {"height": 64, "width": 64}}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
AFFINE = {"rotate": [-20, 20], "shear": [-10, 10], "scale": [0.8, 1.2], "border_mode": 0, "p": 0.7}
SMOOTH = np.stack(
    [
        cv2.resize(coarse, (80, 80), interpolation=cv2.INTER_CUBIC)
        for coarse in np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
    ]
)


def augment(specs: object, size: int = 64, mode: str = "bicubic") -> Augment:
    return Augment(Experiment(competition="demo", augment=specs).augment, size, mode)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("specs", "most"),  # mean difference of a picture's values, of 0 to 255
    [
        ("none", 0.4),
        ("light", 0.4),
        ("d4", 0.4),
        (["Transpose", "VerticalFlip", {"RandomRotate90": {"p": 1}}], 0.4),
        ([{"RandomResizedCrop": {"scale": [0.1, 0.5]}}], 0.5),
        ([{"Affine": AFFINE}], 2.0),  # their edges are smoothed otherwise
        ([{"RandomResizedCrop": {}}, {"Rotate": {"border_mode": 4, "p": 1}}], 0.9),
        ([SMALLER, {"Rotate": {"p": 1}}], 0.4),
        ([SMALLER, {"RandomResizedCrop": {"scale": [0.1, 0.5]}}], 1.2),
        ("photos", 2.5),  # OpenCV's hue has 180 steps, its saturation 256
        ("leaves", 2.5),
    ],
)
def test_the_pictures_of_albumentations(specs: object, most: float, mode: str) -> None:
    one_by_one, batched = augment(specs, mode=mode), BatchAugment(augment(specs, mode=mode))
    one_by_one.seed(7)
    expected = np.stack([one_by_one(picture) for picture in SMOOTH]).astype(float)
    given = torch.from_numpy(SMOOTH).to(DEVICE).permute(0, 3, 1, 2)

    def by(seed: int) -> np.ndarray:
        plan = batched.plan(len(given), given.shape[-1], seed)
        return batched(given, plan).permute(0, 2, 3, 1).cpu().numpy()

    made = by(7)
    off = np.abs(made - expected).mean((1, 2, 3))
    assert off.max() < most
    if specs != "none":
        assert np.abs(by(8) - expected).mean() > 10, "another seed makes others"


def test_loaders_of_both_kinds_give_equal_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures(SMOOTH, np.arange(2, 12), np.arange(10), augment("d4"))
    batches = EpochBatches(10, 4, seed=3)
    monkeypatch.setattr(loader, "resident", lambda pixels, device: torch.from_numpy(pixels))
    ours = load_batches(pictures, batches, Runtime(workers=1), torch.device("cpu"))
    assert isinstance(ours, DeviceLoader)
    monkeypatch.undo()
    theirs = load_batches(pictures, batches, Runtime(), torch.device("cpu"))
    assert not isinstance(theirs, DeviceLoader)
    for (images, target), (others, labels) in zip(ours, theirs, strict=True):
        assert (images - others).abs().mean() < 0.4
        assert target.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("specs", "known"),
    [
        (["GaussianBlur"], False),
        ([{"Rotate": {"fill": 255}}], False),
        ([{"Rotate": {"crop_border": True}}], False),
        ([{"Rotate": {"border_mode": 1}}], False),
        ([{"Affine": {"fit_output": True}}], False),
        ([{"RandomResizedCrop": {"size": [64, 48]}}], False),
        ([{"RandomResizedCrop": {"area_for_downscale": "image"}}], False),
        ([{"Resize": {**SMALLER["Resize"], "area_for_downscale": "image"}}], False),
        ([{"RandomResizedCrop": {"p": 0.5}}, "Rotate"], False),
        ([{"RandomResizedCrop": {"p": 0.5}}, "RandomResizedCrop"], False),
        ([{"Resize": {**SMALLER["Resize"], "p": 0.5}}], False),
        ("heavy", False),
        *[(preset, True) for preset in ("none", "light", "d4", "photos", "leaves")],
        ([{"Rotate": {"border_mode": 4}}], True),
    ],
)
def test_what_is_made_otherwise_here_is_left_to_the_loader(specs: object, known: bool) -> None:
    assert (augment(specs).batched() is not None) is known


def test_a_subclass_is_not_what_it_was_made_from() -> None:
    class Stripe(A.ColorJitter):
        def apply(self, img: np.ndarray, **params: object) -> np.ndarray:
            return np.zeros_like(img)

    assert not Augment([{"Stripe": {}}], 64, "bicubic", {"Stripe": Stripe}).batched()


def test_without_interpolation_of_its_kind_too() -> None:
    assert not Resize(64, "lanczos").batched()
    assert Resize(64, "bilinear").batched()


def test_pictures_are_sent_once_and_only_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Card:
        type = "cuda"

    monkeypatch.setattr(on_device, "_held", {})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * SMOOTH.nbytes - 1, 0))
    assert resident(SMOOTH, Card()) is None, "half of the memory is too little"
    assert resident([SMOOTH], Card()) is None, "files are decoded by loader processes"
    assert resident(SMOOTH, torch.device("cpu")) is None


def test_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = SimpleNamespace(there=torch.zeros(1))
    trainer.itself, there = trainer, weakref.ref(trainer.there)
    freed = []
    monkeypatch.setattr(on_device, "_held", {"pixels.npy": (SMOOTH, trainer.there)})
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(there() is None))
    del trainer
    release()
    assert freed == [True]
