"""Attention: the map lies where a head looks, for conv nets and ViTs, and changes no model."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pipeline.base.cli import UserError
from pipeline.base.config import Runtime
from pipeline.base.device import make_accelerator
from pipeline.inference.attention import attention, on_grid
from pipeline.inference.predictor import Predictor
from pipeline.model.build import head_inputs
from pipeline.model.freeze import training_norms
from pipeline.model.head import BlockHead, OwnHead
from pipeline.model.taps import END, choose_taps, classifier

SIZE = 128
NETS = {
    "resnet18": {"zero_init_last": False},
    "tf_efficientnet_lite0": {},
    "vit_tiny_patch16_224": {"img_size": SIZE},
    "swin_tiny_patch4_window7_224": {"img_size": SIZE},
}


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Three pictures of little noise, and the same with a bright region a sixteenth in size."""
    plain = 0.03 * torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    bright = plain.clone()
    bright[:, :, :32, 64:96] += 3
    return plain, bright


def predictor_of(model: nn.Module) -> Predictor:
    preprocessing = {"size": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3}
    return Predictor(model, preprocessing, make_accelerator(Runtime(device="cpu")), Runtime())


def looking_there(name: str, by_blocks: bool) -> Predictor:
    """A random net of three classes: 2 is the bright region, 0 its opposite."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **NETS[name])
    if by_blocks:
        taps, unread = choose_taps(timm.create_model(name, **NETS[name]), SIZE)
        model = BlockHead(model, 3, taps=taps, unread=unread)
    for norm in training_norms(model):
        norm.reset_running_stats()
        norm.momentum = None  # the mean
    with torch.no_grad():
        for images in planted():
            model(images)
        head = classifier(model.eval())
        head.weight.zero_()
        head.weight[2] = what_it_changes(model)
        head.weight[0] = -head.weight[2]
    return predictor_of(model)


def what_it_changes(model: nn.Module) -> torch.Tensor:
    """Of what the head is given, [width]."""
    plain, bright = planted()
    if isinstance(model, timm.models.EfficientNet):  # its last layer sees the whole picture
        maps = model.forward_features(bright).mean(0)
        return maps[:, 0, 2] - maps.mean((1, 2))
    return (head_inputs(model, bright) - head_inputs(model, plain)).mean(0)


@pytest.mark.parametrize(
    ("name", "by_blocks"),
    [*((name, True) for name in NETS), ("resnet18", False), ("vit_tiny_patch16_224", False)],
)
def test_it_lies_where_the_head_looks(name: str, by_blocks: bool) -> None:
    predictor, (_, bright) = looking_there(name, by_blocks), planted()
    there, opposite = (attention(predictor, bright, [target] * 3) for target in (2, 0))
    assert there.shape == (3, SIZE, SIZE)
    assert there.dtype == np.float32
    assert there.min() == 0
    assert there.max((1, 2)).tolist() == [1, 1, 1]
    region = np.s_[:, :32, 64:96]
    assert there[region].sum() > 0.15 * there.sum(), "by chance it would be a sixteenth"
    assert opposite[region].sum() == 0 < opposite.sum()


def test_each_picture_has_a_class_of_its_own() -> None:
    predictor, (_, bright) = looking_there("resnet18", True), planted()
    mixed = attention(predictor, bright, torch.tensor([0, 2, 0]))
    assert mixed[1, :32, 64:96].mean() > 5 * mixed[[0, 2], :32, 64:96].mean()


@pytest.mark.parametrize("by_blocks", [False, True], ids=["last", "blocks"])
def test_the_model_stays_as_it_is(by_blocks: bool) -> None:
    predictor = looking_there("vit_tiny_patch16_224", by_blocks)
    model, images = predictor.model, planted()[1]
    model.requires_grad_(False)  # a frozen net is looked into, too
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(images)
        found = attention(predictor, images, [2, 2, 2])
        assert torch.equal(model(images), logits)
    assert found.max() == 1
    assert not model.training
    assert not images.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    assert hooks == len(getattr(model, "taps", []))  # a BlockHead's own


def test_of_a_net_that_is_read_at_its_end_it_is_that_of_its_last_layer() -> None:
    last = looking_there("resnet18", False)
    model = BlockHead(timm.create_model("resnet18"), 3, taps={END: 512})
    model.load_state_dict(
        {f"backbone.{k}": v for k, v in last.model.state_dict().items() if "fc." not in k}
        | {"head.weight": last.model.fc.weight, "head.bias": last.model.fc.bias}
        | {"mean": torch.zeros(512), "scale": torch.ones(512)}
    )
    images = planted()[1]
    np.testing.assert_allclose(
        attention(predictor_of(model), images, [2, 0, 2]), attention(last, images, [2, 0, 2])
    )


class Mean(nn.Module):
    """A head of the user's that is timm's."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.fc(maps.mean((2, 3)))


def test_of_an_own_head_it_is_that_of_the_map_which_this_is_given() -> None:
    last, images = looking_there("resnet18", False), planted()[1]
    model = OwnHead(timm.create_model("resnet18"), Mean, 3)
    state = last.model.state_dict()
    own = {f"{'head' if 'fc.' in name else 'backbone'}.{name}": x for name, x in state.items()}
    model.load_state_dict(own)
    found = attention(predictor_of(model), images, [2, 0, 2])
    np.testing.assert_allclose(found, attention(last, images, [2, 0, 2]), atol=1e-3)
    assert found.max() == 1


def test_class_and_registers_are_no_places() -> None:
    net = nn.Module()
    net.num_prefix_tokens = 2
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    assert on_grid(tokens, net).flatten().tolist() == [2, 3, 4, 5]
    with pytest.raises(UserError, match="no map of places"):
        on_grid(tokens[:, :5], net)
