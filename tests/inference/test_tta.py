"""Views: each one of the dihedral group exactly once."""

import pytest
import torch

from pipeline.inference.tta import VIEWS


def keys(tta: str, image: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(view(image).flatten().tolist()) for view in VIEWS[tta]]


ASYMMETRIC = torch.arange(12.0).reshape(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("tta", "count"), [("none", 1), ("hflip", 2), ("flips", 4), ("diagonals", 4), ("d4", 8)]
)
def test_each_view_once(tta: str, count: int) -> None:
    seen = keys(tta, ASYMMETRIC)
    assert len(seen) == len(set(seen)) == count
    assert tuple(ASYMMETRIC.flatten().tolist()) in seen


def test_smaller_sets_are_parts_of_d4() -> None:
    all_views = set(keys("d4", ASYMMETRIC))
    assert set(keys("hflip", ASYMMETRIC)) < set(keys("flips", ASYMMETRIC)) < all_views


def test_flips_are_flips() -> None:
    x = ASYMMETRIC
    expected = {tuple(v.flatten().tolist()) for v in (x, x.flip(3), x.flip(2), x.flip(2, 3))}
    assert set(keys("flips", x)) == expected


def test_diagonals_are_half_a_turn_and_two_reflections() -> None:
    x = ASYMMETRIC
    other = x.transpose(2, 3)
    expected = {tuple(v.flatten().tolist()) for v in (x, x.flip(2, 3), other, other.flip(2, 3))}
    assert set(keys("diagonals", x)) == expected
