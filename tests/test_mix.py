"""Mixed batches: label shares follow the pixels, odd batches work, off means off."""

import numpy as np
import pytest
import torch
from timm.data import Mixup

from pipeline.parts.config import Mix
from pipeline.parts.mix import Mixer


def test_odd_batches_and_rows_that_sum_to_one() -> None:
    np.random.seed(1)
    mixer = Mixer(Mix(mixup=1.0), classes=4)
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 2, 2).clone()
    mixed, soft = mixer(images.clone(), torch.tensor([0, 1, 2, 3, 1]))
    assert mixed.shape == images.shape
    assert soft.shape == (5, 4)
    torch.testing.assert_close(soft.sum(1), torch.ones(5))
    assert torch.equal(mixed[4], images[4]), "the odd one stays plain"
    torch.testing.assert_close(soft[4], torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert not torch.equal(mixed[:4], images[:4])


def test_label_shares_follow_the_pixels() -> None:
    np.random.seed(2)
    mixer = Mixer(Mix(mixup=1.0), classes=2)
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4).clone()
    mixed, soft = mixer(images, torch.tensor([0, 1]))
    torch.testing.assert_close(mixed[:, 0, 0, 0], soft[:, 1])
    assert 0.01 < soft[0, 1] < 0.99


def test_off_means_untouched() -> None:
    mixer = Mixer(Mix(), classes=2)
    images, target = torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 1])
    same_images, same_target = mixer(images, target)
    assert same_images is images
    assert same_target is target
    assert len(Mixer(Mix(mixup=1.0), classes=2)(images[:1], target[:1])[1]) == 1, "a lone image"


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_soft_rows_mix_as_their_pictures_do(settings: dict[str, float]) -> None:
    """Pictures whose channels are their target rows: after mixing, mean colour = target."""
    np.random.seed(3)
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
    images = rows[:, :, None, None].expand(4, 3, 8, 8).clone()
    mixed, soft = Mixer(Mix(**settings), classes=3)(images, rows)
    torch.testing.assert_close(mixed.mean((2, 3)), soft)
    assert not torch.allclose(soft, rows)


def test_labels_mix_as_timm_mixes_them() -> None:
    target = torch.tensor([3, 1, 0, 2])
    for seed in range(20):
        np.random.seed(seed)
        images, soft = Mixer(Mix(mixup=0.4, cutmix=1.0, prob=0.8), classes=4)(noise(), target)
        np.random.seed(seed)
        timms = Mixup(0.4, 1.0, prob=0.8, label_smoothing=0.0, num_classes=4)
        same_images, same_soft = timms(noise(), target)
        assert torch.equal(images, same_images)
        torch.testing.assert_close(soft, same_soft)


def noise() -> torch.Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
