"""Augmentation lists: a wrong argument is an error that names it."""

import numpy as np
import pytest

from pipeline.parts.augment import Augment, Resize
from pipeline.parts.cli import UserError


def ramp(size: int = 32) -> np.ndarray:
    return np.arange(size * size * 3, dtype=np.uint32).reshape(size, size, 3).astype(np.uint8)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"HorizontalFip": {}}, "no 'HorizontalFip'; did you mean 'HorizontalFlip'"),
        ({"CoarseDropout": {"max_holes": 8}}, "max_holes"),
        ({"RandomResizedCrop": {"scale": [0.5, 2.0]}}, "RandomResizedCrop"),
        ({"Compose": {}}, "no 'Compose'"),
    ],
)
def test_wrong_transforms_are_errors(spec: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Augment([spec], 16, "bicubic")


def test_same_seed_same_picture() -> None:
    augment = Augment([{"RandomResizedCrop": {}}, {"SquareSymmetry": {}}], 16, "bilinear")
    augment.seed(5)
    first = [augment(ramp()) for _ in range(3)]
    augment.seed(5)
    again = [augment(ramp()) for _ in range(3)]
    augment.seed(6)
    other = [augment(ramp()) for _ in range(3)]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_output_has_the_size_whatever_the_list() -> None:
    for specs in (
        [],
        [{"HorizontalFlip": {"p": 1.0}}],
        [{"CenterCrop": {"height": 9, "width": 9}}],
    ):
        assert Augment(specs, 20, "bicubic")(ramp()).shape == (20, 20, 3)


def test_resize_leaves_pixels_of_the_right_size_alone() -> None:
    assert np.array_equal(Resize(32, "bicubic")(ramp()), ramp())
    assert Resize(16, "bicubic")(ramp()).shape == (16, 16, 3)
