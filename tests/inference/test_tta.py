"""Views: each one of the dihedral group exactly once, five crops from five places."""

import pytest
import torch

from pipeline.base.cli import UserError
from pipeline.inference.tta import canvas, refuse_enlarging, views


def keys(tta: str, image: torch.Tensor, size: int) -> list[tuple[float, ...]]:
    return [tuple(view(image).flatten().tolist()) for view in views(tta, size)]


ASYMMETRIC = torch.arange(12.0).reshape(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("tta", "count"), [("none", 1), ("hflip", 2), ("flips", 4), ("diagonals", 4), ("d4", 8)]
)
def test_each_view_once(tta: str, count: int) -> None:
    seen = keys(tta, ASYMMETRIC, 2)
    assert len(seen) == len(set(seen)) == count
    assert tuple(ASYMMETRIC.flatten().tolist()) in seen


def test_smaller_sets_are_parts_of_d4() -> None:
    all_views = set(keys("d4", ASYMMETRIC, 2))
    assert set(keys("hflip", ASYMMETRIC, 2)) < set(keys("flips", ASYMMETRIC, 2)) < all_views


def test_flips_are_flips() -> None:
    x = ASYMMETRIC
    expected = {tuple(v.flatten().tolist()) for v in (x, x.flip(3), x.flip(2), x.flip(2, 3))}
    assert set(keys("flips", x, 2)) == expected


def test_diagonals_are_half_a_turn_and_two_reflections() -> None:
    x = ASYMMETRIC
    other = x.transpose(2, 3)
    expected = {tuple(v.flatten().tolist()) for v in (x, x.flip(2, 3), other, other.flip(2, 3))}
    assert set(keys("diagonals", x, 2)) == expected


def test_five_crop_takes_centre_and_corners() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    corners = [view(x)[0, 0, 0, 0].item() for view in views("five-crop", 4)]
    assert corners == [7, 0, 2, 12, 14]
    assert all(view(x).shape == (1, 1, 4, 4) for view in views("five-crop", 4))


def test_canvas_keeps_the_share_that_a_crop_shows() -> None:
    assert [canvas("d4", size, trained=128, packed=160) for size in (96, 128, 160)] == [
        96,
        128,
        160,
    ]
    assert [canvas("five-crop", size, 128, 160) for size in (64, 128)] == [80, 160]


def test_pictures_are_not_enlarged() -> None:
    refuse_enlarging("d4", [64, 160], trained=128, packed=160)
    refuse_enlarging("five-crop", [64, 128], trained=128, packed=160)
    for tta, size, limit in (("d4", 161, 160), ("five-crop", 129, 128)):
        with pytest.raises(
            UserError, match=rf"{tta} at {size} px .* \(160 px.* at most {limit} px"
        ):
            refuse_enlarging(tta, [64, size], trained=128, packed=160)
