"""The head that reads every block: which, what it reads, and that copies read their own."""

import copy

import pytest
import timm
import torch

from pipeline.parts.pyramid import MOST, Pyramid, blocks


def test_means_and_deviations_of_every_block() -> None:
    backbone = timm.create_model("test_resnet").eval()
    images = torch.randn(3, 3, 32, 32)
    maps = {}
    for name in ("layer1.0", "layer2.0", "layer3.0", "layer4.0"):
        backbone.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: maps.__setitem__(name, out)
        )
    backbone.forward_features(images)
    expected = [
        part for m in maps.values() for part in (m.mean((2, 3)), m.std((2, 3), correction=0))
    ]
    model = Pyramid(backbone, 5).eval()
    assert list(model.taps) == list(maps)
    torch.testing.assert_close(model.statistics(images), torch.cat(expected, 1), atol=2e-3, rtol=0)
    assert model(images).shape == (3, 5)


def test_features_are_standardised() -> None:
    model = Pyramid(timm.create_model("test_resnet"), 2).eval()
    images = torch.randn(2, 3, 32, 32)
    raw = model.statistics(images)
    model.mean.fill_(0.5)
    model.scale.fill_(3.0)
    torch.testing.assert_close(model.statistics(images), raw)
    torch.testing.assert_close(model(images), model.head((raw - 0.5) * 3))


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_vit", "test_convnext", "swin_s3_tiny_224"]
)
def test_layouts_of_other_families(name: str) -> None:
    """Tokens, channels first and channels last: the width is twice the channels of the blocks."""
    backbone = timm.create_model(name)
    model = Pyramid(backbone, 3).eval()
    side = backbone.pretrained_cfg["input_size"][-1]
    features = model.statistics(torch.randn(1, 3, side, side))
    assert features.shape == (1, sum(model.taps.values()))
    channels = {w // 2 for w in model.taps.values()}
    assert (
        channels <= {info["num_chs"] for info in backbone.feature_info} | {backbone.embed_dim}
        if (hasattr(backbone, "embed_dim"))
        else channels
    )


def test_wide_backbones_are_read_once_a_stage() -> None:
    model = Pyramid(timm.create_model("resnet50"), 3)
    assert list(model.taps) == ["layer1", "layer2", "layer3", "layer4"]
    assert sum(model.taps.values()) == 2 * (256 + 512 + 1024 + 2048)
    assert sum(model.taps.values()) <= MOST
    assert len(blocks(timm.create_model("resnet50"), by_stage=False)) > 16


def test_a_copy_reads_its_own_blocks() -> None:
    """The weight average is a deep copy: its hooks must not feed the original."""
    model = Pyramid(timm.create_model("test_resnet"), 2).eval()
    twin = copy.deepcopy(model)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(twin(images), model(images))
    with torch.no_grad():
        twin.backbone.conv1[0].weight.zero_()
    assert not torch.allclose(twin(images), model(images))
    assert model.pooled == twin.pooled == []
