"""The head that reads every block: which, what it reads, and that copies read their own."""

import copy

import pytest
import timm
import torch

from pipeline.base.cli import UserError
from pipeline.base.config import Model
from pipeline.model.backbone import layout
from pipeline.model.head import BlockHead
from pipeline.model.taps import MAX_WIDTH, blocks, within_most


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
    model = BlockHead(backbone, 5).eval()
    assert list(model.taps) == list(maps)
    torch.testing.assert_close(model.statistics(images), torch.cat(expected, 1), atol=2e-3, rtol=0)
    assert model(images).shape == (3, 5)


def test_features_are_standardised() -> None:
    model = BlockHead(timm.create_model("test_resnet"), 2).eval()
    images = torch.randn(2, 3, 32, 32)
    raw = model.statistics(images)
    model.mean.fill_(0.5)
    model.scale.fill_(3.0)
    torch.testing.assert_close(model.statistics(images), raw)
    torch.testing.assert_close(model(images), model.head((raw - 0.5) * 3))


def test_a_wide_vit_is_read_every_so_manieth_block_up_to_the_last() -> None:
    """12 blocks of 2 x 768 numbers are 18,432: every third is within the bound."""
    found = layout(Model(backbone="vit_base_patch16_224", size=224))
    assert found.taps == dict.fromkeys(["blocks.2", "blocks.5", "blocks.8", "blocks.11"], 1536)


@pytest.mark.parametrize(
    ("name", "size", "arguments"),
    [
        ("test_resnet", 48, {}),
        ("test_vit3", 48, {"img_size": 48}),
        ("swin_tiny_patch4_window7_224", 96, {"img_size": 96}),
        ("maxvit_pico_rw_256", 256, {}),
    ],
)
def test_a_backbone_is_built_for_its_size_where_it_must_be(
    name: str, size: int, arguments: dict[str, int]
) -> None:
    assert layout(Model(backbone=name, size=size, features="last")).arguments == arguments


def test_a_size_that_a_backbone_cannot_take_is_one_line() -> None:
    words = r"^model.size: efficientformer_l1 takes no pictures of 96 px .*; its own size is 224$"
    with pytest.raises(UserError, match=words):
        layout(Model(backbone="efficientformer_l1", size=96))


@pytest.mark.parametrize(
    ("stages", "kept"),
    [([4000, 2000, 1000], "abc"), ([100, 3000, 2000, 6000], "acd"), ([3000, 9000], "b")],
)
def test_of_stages_that_are_too_wide_the_last_that_fit_are_read(
    stages: list[int], kept: str
) -> None:
    """RegNet-Y 32 GF gave a head 12,064 numbers, more than the bound."""
    coarse = dict(zip("abcd", stages, strict=False))
    assert "".join(within_most({"x": MAX_WIDTH + 1}, coarse)) == kept


def test_wide_backbones_are_read_once_a_stage() -> None:
    model = BlockHead(timm.create_model("resnet50"), 3)
    assert list(model.taps) == ["layer1", "layer2", "layer3", "layer4"]
    assert sum(model.taps.values()) == 2 * (256 + 512 + 1024 + 2048)
    assert sum(model.taps.values()) <= MAX_WIDTH
    assert len(blocks(timm.create_model("resnet50"), by_stage=False)) > 16


def test_a_copy_reads_its_own_blocks() -> None:
    """The weight average is a deep copy: its hooks must not feed the original."""
    model = BlockHead(timm.create_model("test_resnet"), 2).eval()
    twin = copy.deepcopy(model)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(twin(images), model(images))
    with torch.no_grad():
        twin.backbone.conv1[0].weight.zero_()
    assert not torch.allclose(twin(images), model(images))
    assert model.pooled is twin.pooled is None


@pytest.mark.parametrize(
    ("backbone", "width", "last"),
    [
        (
            "tiny_vit_5m_224",
            2880,
            "stages.3.blocks.1",
        ),  # maps [h, w, c] before [c, h, w]
        ("pvt_v2_b0", 1088, "stages.3"),
        ("poolformer_s12", 4864, "stages.3.blocks.1"),  # timm has no groups of its layers
        ("mvitv2_tiny", 3072, "stages.3"),  # blocks in a list, which is not called; pairs as output
        ("densenet121", 5568, "features.norm5"),  # wider than the last layer
        ("rdnet_tiny", 5232, "dense_stages.6"),  # timm has no groups by stage
    ],
)
def test_odd_nets_are_read_to_their_end_in_the_right_axis(
    backbone: str, width: int, last: str
) -> None:
    """Read in the wrong one, a head's width was the sum of channels and sides of maps."""
    taps = layout(Model(backbone=backbone, weights="x", size=96)).taps
    assert sum(taps.values()) == width
    assert list(taps)[-1] == last
