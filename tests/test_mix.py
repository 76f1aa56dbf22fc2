"""Mixed batches: label shares follow the pixels, odd batches work, off means off."""

import numpy as np
import torch

from pipeline.parts.config import Mix
from pipeline.parts.mix import Mixer


def test_odd_batches_and_rows_that_sum_to_one() -> None:
    np.random.seed(1)
    mixer = Mixer(Mix(mixup=1.0), classes=4, smoothing=0.1)
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 2, 2).clone()
    mixed, soft = mixer(images.clone(), torch.tensor([0, 1, 2, 3, 1]))
    assert mixed.shape == images.shape
    assert soft.shape == (5, 4)
    torch.testing.assert_close(soft.sum(1), torch.ones(5))
    assert torch.equal(mixed[4], images[4]), "the odd one stays plain"
    torch.testing.assert_close(soft[4], torch.tensor([0.025, 0.925, 0.025, 0.025]))
    assert not torch.equal(mixed[:4], images[:4])
    assert mixer.smoothing_left == 0.0


def test_label_shares_follow_the_pixels() -> None:
    np.random.seed(2)
    mixer = Mixer(Mix(mixup=1.0), classes=2, smoothing=0.0)
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4).clone()
    mixed, soft = mixer(images, torch.tensor([0, 1]))
    torch.testing.assert_close(mixed[:, 0, 0, 0], soft[:, 1])
    assert 0.01 < soft[0, 1] < 0.99


def test_off_means_untouched() -> None:
    mixer = Mixer(Mix(), classes=2, smoothing=0.1)
    images, target = torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 1])
    same_images, same_target = mixer(images, target)
    assert same_images is images
    assert same_target is target
    assert mixer.smoothing_left == 0.1
