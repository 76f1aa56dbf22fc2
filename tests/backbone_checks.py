"""What must hold of a model of any backbone: the suite asks a few, tests/backbones.py all."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from pipeline import folds, predict, prepare, train
from pipeline.base import records
from pipeline.base.cli import Exit
from pipeline.base.config import Model, Runtime, Train, load_experiment
from pipeline.base.runs import model_path, prediction_path
from pipeline.data.splits import classes_of, load_folds
from pipeline.inference.metrics import log_loss
from pipeline.inference.predictions import Predictions
from pipeline.model.backbone import layout
from pipeline.model.build import body, build_model, load_model, save_weights, to_device
from pipeline.model.freeze import freeze, train_mode
from pipeline.model.head import BlockHead
from pipeline.model.taps import END, read_blocks, without_slope
from pipeline.training.optim import parameter_groups

CLASSES = 3


def worn(how: Model) -> nn.Module:
    """A model in eval mode whose weights are no start's.

    Gains that begin at zero would keep all before them from a gradient.
    """
    model = build_model(how, CLASSES, 0)
    model = to_device(model, Runtime(), how.size, torch.device("cpu")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return model


def pictures(how: Model) -> torch.Tensor:
    return torch.randn(2, 3, how.size, how.size, generator=torch.Generator().manual_seed(0))


def check_reads_to_its_end(model: BlockHead) -> None:
    """No parameter of a block, or of a part beside a block that is read, is unread."""
    assert END not in model.taps or not model.unread
    for name in model.unread:
        parts = name.split(".")
        around = {".".join(parts[:depth]) for depth in range(1, len(parts) - 1)}
        beside = [tap for tap in model.taps for place in around if tap.startswith(f"{place}.")]
        assert not beside, f"{name} is not read, {beside[-1]} is"


def check_gradients(model: nn.Module, how: Model) -> None:
    """Every parameter that trains gets one, and none that does not."""
    model.zero_grad()
    train_mode(model, "frozen")
    model(pictures(how)).square().sum().backward()
    given = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert given == trained, f"gradient or training alone: {sorted(given ^ trained)[:3]}"


def check_layer_decay(model: BlockHead) -> None:
    """No block has a lower rate than one before it, and the last a higher one than the first."""
    scales = {id(p): g["lr_scale"] for g in groups(model) for p in g["params"]}
    if END in model.taps:
        inner = [scales[id(p)] for p in body(model).parameters() if p.requires_grad]
        assert inner[0] < inner[-1] < scales[id(model.head.weight)]
        return
    blocks = [model.backbone.get_submodule(name) for name in model.taps]
    rates = [[scales[id(p)] for p in b.parameters() if p.requires_grad] for b in blocks]
    pairs = itertools.pairwise([each for each in rates if each])
    assert all(max(one) <= max(other) for one, other in pairs), f"rates of blocks: {rates}"
    assert max(rates[0]) < max(rates[-1]), f"rates of blocks: {rates[0]} ... {rates[-1]}"


def groups(model: nn.Module) -> list[dict]:
    return parameter_groups(model, Train(layer_decay=0.5))


def check_half_freezes(model: BlockHead, how: Model) -> None:
    """To freeze up to a block in the middle freezes what that block depends on, and no more."""
    net = model.train().eval().backbone.requires_grad_(True)  # LeViT keeps what it made in eval
    if END in model.taps:
        names = [name for name, child in net.named_children() if [*child.parameters()]]
        middle, expected = names[len(names) // 2 - 1], None
    else:
        middle = list(model.taps)[len(model.taps) // 2 - 1]
        free = {*without_slope(net, read_blocks(net, [middle], how.size)[middle])} - {*model.unread}
        expected = {name for name, _ in net.named_parameters()} - free
    freeze(model, how.model_copy(update={"freeze": middle, "depthwise": "train"}))
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    if expected is None:
        assert 0 < len(frozen) < len(list(net.parameters()))
    else:
        assert frozen == expected, f"up to {middle}, not alike: {sorted(frozen ^ expected)[:3]}"
    check_gradients(model, how)


@contextmanager
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A fresh process, which has seen nothing of this one's models."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def keep(model: BlockHead, how: Model, path: Path) -> None:
    """Save it with all that a record must tell to build it again."""
    save_weights(model, path)
    facts = {"model": how.model_dump(by_alias=True), "taps": model.taps}
    facts |= {"classes": list(map(str, range(CLASSES))), "arguments": layout(how).arguments}
    records.commit(path, {}, time.monotonic(), digest=records.file_digest(path), **facts)


def answers(path: Path, images: torch.Tensor) -> list[list[float]]:
    """Probabilities of a saved model."""
    torch.set_num_threads(1)
    model = to_device(load_model(path)[0], Runtime(), images.shape[2], torch.device("cpu"))
    with torch.inference_mode():
        return model(images).softmax(1).tolist()


def check_comes_back(model: BlockHead, how: Model, path: Path, pool: ProcessPoolExecutor) -> None:
    """Saved, and loaded in another process, it gives equal probabilities."""
    keep(model.eval(), how, path)
    with torch.inference_mode():
        logits = model(pictures(how))
    assert logits.std(0).min() > 0, "pictures are told apart"
    found = torch.tensor(pool.submit(answers, path, pictures(how)).result())
    torch.testing.assert_close(found, logits.softmax(1), rtol=0, atol=1e-5)


def check_model(how: Model, path: Path, pool: ProcessPoolExecutor) -> BlockHead:
    """All of it. Raises AssertionError where something does not hold."""
    model = worn(how)
    freeze(model, how)
    check_reads_to_its_end(model)
    check_gradients(model, how)
    check_layer_decay(model)
    check_comes_back(model, how, path, pool)
    check_half_freezes(model, how)
    return model


def experiment(home: Path, name: str, size: int, arguments: dict[str, int]) -> str:
    """All settings at their defaults but these, and random weights for the first."""
    first = timm.create_model(name, **arguments).state_dict()
    save_file({key: v.contiguous() for key, v in first.items()}, home / "first.safetensors")
    settings = {
        "competition": "demo",
        "folds": {"n": 2},
        "model": {"backbone": name, "weights": str(home / "first.safetensors"), "size": size},
        "train": {"epochs": 2, "batch_size": 8},
    }
    path = home / "first.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def check_stages(path: str) -> None:
    """One epoch, one resume, one prediction; out of fold that scores as the log says."""
    prepare.main(path)
    folds.main(path)
    for hours, code in ((0.0, Exit.PAUSED), (float("inf"), 0)):
        try:
            train.main(path, fold=[0], hours=hours)
            ended = 0
        except SystemExit as end:
            ended = end.code
        assert ended == code, f"training ended with {ended}"
    predict.main(path, fold=[0])
    settings = load_experiment(path)
    scores, table = records.load(model_path(settings.name, 0))["scores"], load_folds(settings)
    held, classes = table[table.fold == 0], classes_of(table)
    oof, test = (prediction_path(settings.name, 0, part, "none") for part in ("oof", "test"))
    prob = Predictions.load(oof).aligned(list(held.image), classes)
    loss = log_loss(np.array([classes.index(label) for label in held.label]), prob)
    assert scores["epoch"] == 2, scores
    off = abs(scores["valid_loss"] - loss)
    assert off < 1e-3 * max(loss, 0.1), f"a loss of {scores['valid_loss']} in the log, {loss} here"
    assert len(Predictions.load(test).prob)
