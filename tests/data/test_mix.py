"""Mixed batches: label shares follow the pixels, odd batches work, off means off."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup

from pipeline.base import records
from pipeline.base.config import Mix
from pipeline.base.runs import model_path
from pipeline.data.mix import Mixer, in_pairs

ALL = {"mixup": 0.4, "cutmix": 1.0}


def mixer(classes: int, epochs: int = 10, **settings: object) -> Mixer:
    np.random.seed(1)
    return Mixer(Mix(**settings), classes, epochs)


def colours(n: int, side: int = 16) -> torch.Tensor:
    """Picture i is i everywhere; channels-last, as the training's are."""
    plain = torch.arange(float(n)).reshape(n, 1, 1, 1)
    return plain.repeat(1, 3, side, side).contiguous(memory_format=torch.channels_last)


def measured(images: torch.Tensor) -> torch.Tensor:
    """Share of each constant colour in each picture [batch, batch]."""
    shown = images[:, 0].round().long()
    return F.one_hot(shown, len(images)).float().mean((1, 2))


@pytest.mark.parametrize("method", ALL)
def test_odd_batches_and_rows_that_sum_to_one(method: str) -> None:
    mix = mixer(176, **{method: ALL[method]})
    for n in (1, 2, 3, 5, 8):
        images, soft = mix(colours(n), torch.arange(n))
        assert images.shape == (n, 3, 16, 16)
        assert soft.shape == (n, 176)
        torch.testing.assert_close(soft.sum(1), torch.ones(n), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_the_odd_one_stays_plain(method: str) -> None:
    images, soft = mixer(4, **{method: 1.0})(colours(5), torch.tensor([0, 1, 2, 3, 1]))
    assert (images[4] == 4).all()
    torch.testing.assert_close(soft[4], torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert not torch.equal(images[:4], colours(5)[:4])


def test_mixup_shares_follow_the_pixels() -> None:
    images, soft = mixer(2, mixup=1.0)(colours(2), torch.tensor([0, 1]))
    torch.testing.assert_close(images[:, 0, 0, 0], soft[:, 1])
    assert 0 < soft[0, 1] < 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
def test_area_shares_equal_measured_areas(n: int) -> None:
    mix = mixer(n, cutmix=1.0)
    for _ in range(20):
        images, soft = mix(colours(n), torch.arange(n))
        torch.testing.assert_close(soft, measured(images), atol=1e-6, rtol=0)


def test_off_means_untouched() -> None:
    mix = mixer(2)
    images, target = torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 1])
    same_images, same_target = mix(images, target)
    assert same_images is images
    assert same_target is target


def test_the_last_epochs_are_not_mixed() -> None:
    mix = mixer(4, epochs=5, off_epochs=2, **ALL)
    touched = []
    for mix.epoch in range(5):
        images, target = torch.rand(4, 3, 8, 8), torch.arange(4)
        before = images.clone()
        images, after = mix(images, target)
        touched.append(after is not target or not torch.equal(images, before))
    assert touched == [True, True, True, False, False]


def test_probability_and_methods_have_their_shares() -> None:
    mix = mixer(4, prob=0.4, **ALL)
    drawn = []
    for name, method in mix.methods.items():
        mix.methods[name] = lambda *batch, name=name, method=method: (
            drawn.append(name) or method(*batch)
        )
    soft = [mix(colours(4, 8), torch.arange(4))[1].is_floating_point() for _ in range(3000)]
    assert abs(np.mean(soft) - 0.4) < 0.03, "3.4 sigma"
    assert sum(soft) == len(drawn)
    for name in ALL:
        assert abs(drawn.count(name) / len(drawn) - 1 / 2) < 0.05


def test_equal_seed_equal_batch() -> None:
    def batches() -> list[torch.Tensor]:
        mix = mixer(6, prob=0.8, **ALL)
        return [mix(colours(6), torch.arange(6))[0] for _ in range(10)]

    assert torch.equal(torch.stack(batches()), torch.stack(batches()))


def test_training_tells_the_epoch(
    write: Callable[..., str], split: Callable[[str], str], run: Callable[..., str]
) -> None:
    """Two epochs: with both off the weights are those without mixing; with one off they are not."""
    split(write())
    digests = []
    for name, mix in {"never": {}, "off": {"off_epochs": 2}, "once": {"off_epochs": 1}}.items():
        mixed = {**ALL, **mix} if mix else {}
        run("train", write(name, mix=mixed), "--fold", "0")
        digests.append(records.load(model_path(name, 0))["digest"])
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_soft_rows_mix_as_their_pictures_do(settings: dict[str, float]) -> None:
    """Pictures whose channels are their target rows: after mixing, mean colour = target."""
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
    images = rows[:, :, None, None].expand(4, 3, 8, 8).clone()
    mixed, soft = mixer(3, **settings)(images, rows)
    torch.testing.assert_close(mixed.mean((2, 3)), soft)
    assert not torch.allclose(soft, rows)


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0)])
def test_labels_mix_as_timm_mixes_them(alphas: tuple[float, float]) -> None:
    target = torch.tensor([3, 1, 0, 2])
    for seed in range(20):
        np.random.seed(seed)
        images, soft = in_pairs(Mixup(*alphas), noise(), F.one_hot(target, 4).float())
        np.random.seed(seed)
        timms = Mixup(*alphas, label_smoothing=0.0, num_classes=4)
        same_images, same_soft = timms(noise(), target)
        assert torch.equal(images, same_images)
        torch.testing.assert_close(soft, same_soft)


def noise() -> torch.Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
