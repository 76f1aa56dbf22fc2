"""Optimizers by name, and blocks that are computed twice: the same gradients in less memory."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pipeline.base.cli import UserError
from pipeline.base.config import Model, Train
from pipeline.model.build import build_model, recompute
from pipeline.training.optim import make_optimizer, make_schedule, parameter_groups


def net(backbone: str = "test_resnet", **settings: object) -> nn.Module:
    torch.manual_seed(0)
    how = Model(backbone=backbone, weights="none", size=32, batchnorm="train", **settings)
    return build_model(how, 3, 0).train()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["adamw", "lion", "nadamw", "lamb", "muon"])
def test_every_optimizer_keeps_the_rates_and_decays_of_the_groups(name: str) -> None:
    model, settings = net(), Train(optimizer=name, layer_decay=0.5, lr=0.01, weight_decay=0.1)
    optimizer = make_optimizer(parameter_groups(model, settings), settings, {})
    schedule, first = make_schedule(optimizer, settings, 10), next(iter(model.parameters()))
    before = first.detach().clone()
    schedule.step_update(1)
    rates = {round(g["lr"] / g["lr_scale"], 8) for g in optimizer.param_groups}
    assert rates == {0.01}
    assert {g["lr_scale"] for g in optimizer.param_groups if g["head"]} == {5}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0, 0.1}
    gradients(model)
    optimizer.step()
    assert not torch.equal(first, before)


def test_schedules_fall_each_in_its_way() -> None:
    rates = {}
    for name in ("cosine", "linear", "tanh"):
        settings = Train(schedule=name, warmup=0.1, lr=0.1)
        optimizer = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))]}], lr=0.1)
        schedule, rates[name] = make_schedule(optimizer, settings, 100), []
        for step in (0, 10, 55, 99):
            schedule.step_update(step)
            rates[name].append(optimizer.param_groups[0]["lr"] / 0.1)
    np.testing.assert_allclose(rates["linear"], [0, 1, 0.5, 1 / 90], atol=1e-3)
    np.testing.assert_allclose(rates["cosine"], [0, 1, 0.5, 0.0003], atol=1e-3)
    np.testing.assert_allclose(rates["tanh"], [0, 1, (1 + np.tanh(2)) / 2, 0.003], atol=1e-3)


def test_an_unknown_optimizer_is_told_of_the_nearest() -> None:
    groups = parameter_groups(net(), Train())
    with pytest.raises(UserError, match=r"no 'lionn'; did you mean 'lion'[^,]{,40}$"):
        make_optimizer(groups, Train(optimizer="lionn"), {})
    with pytest.raises(UserError, match=r"train.optimizer: bnblion: .*bitsandbytes"):
        make_optimizer(groups, Train(optimizer="bnblion"), {})


@pytest.mark.parametrize("features", ["blocks", "last"])
def test_checkpoints_change_no_gradient_and_hold_no_block(features: str) -> None:
    plain, other = net(features=features), net(features=features)
    recompute(other)
    for one, two in zip(gradients(plain), gradients(other), strict=True):
        assert torch.equal(one, two)
    assert not getattr(other, "pooled", None), "what a second pass read would keep its activations"


def test_a_net_without_checkpoints_is_told() -> None:
    with torch.device("meta"):
        model = timm.create_model("dla46_c")
    with pytest.raises(UserError, match=r"train.grad_checkpointing: a DLA has none"):
        recompute(model)
