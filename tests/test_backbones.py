"""A backbone of each kind of block does what all must; tests/backbones.py asks every family."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from pipeline.base.cli import UserError
from pipeline.base.config import Model
from pipeline.model.backbone import layout
from pipeline.model.head import BlockHead
from pipeline.model.taps import END
from tests import backbones
from tests.backbone_checks import (
    check_model,
    check_reads_to_its_end,
    check_stages,
    elsewhere,
    experiment,
    worn,
)

LAST = {  # the last that is read of each, and px
    "test_resnet": ("layer4.0", 32),
    "test_byobnet": ("stages.3.0", 32),
    "test_efficientnet": ("blocks.4.0", 32),
    "test_nfnet": ("stages.3.0", 32),
    "test_convnext": ("stages.3.blocks.1", 32),
    "test_mambaout": ("stages.3", 32),
    "test_vit": ("blocks.5", 32),
    "test_coatnet": ("stages.3.blocks.0", 64),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with elsewhere() as process:
        process.submit(torch.zeros, 1)  # imports it meanwhile
        yield process


def of(name: str, size: int) -> Model:
    return Model(backbone=name, weights="none", batchnorm="train", size=size)


@pytest.mark.parametrize("name", LAST)
def test_each_kind_of_block(name: str, pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    last, size = LAST[name]
    model = check_model(of(name, size), tmp_path / "model.safetensors", pool)
    assert list(model.taps)[-1] == last


def test_what_cannot_be_read_at_its_blocks_is_read_at_its_end(
    pool: ProcessPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As CrossViT, HRNet (several branches) and VGG (the next layer overwrites what one gives)."""

    def none(*_: object) -> None:
        raise UserError("the blocks of a ResNet cannot be read (why)")

    monkeypatch.setattr("pipeline.model.backbone.choose_taps", none)
    how = of("test_resnet", 40)
    model = check_model(how, tmp_path / "model.safetensors", pool)
    assert model.taps == {END: model.backbone.num_features}
    said = "warning: the blocks of a ResNet cannot be read (why): the head is given its final"
    assert capsys.readouterr().err.count(said) == 2, "once of each settings: one freezes half"


def test_such_a_one_is_known() -> None:
    assert layout(of("vgg11", 48)).taps == {END: 4096}


def test_a_last_block_that_is_not_read_is_found() -> None:
    """The former defect: a ViT's last block was read by none."""
    found = layout(of("test_vit", 32))
    taps = {name: width for name, width in found.taps.items() if name != "blocks.5"}
    unread = ["blocks.5.norm1.weight", *found.unread]
    model = BlockHead(worn(of("test_vit", 32)).backbone, 3, 0.0, taps, unread)
    with pytest.raises(AssertionError, match=r"blocks.5.norm1.weight is not read, blocks.4 is"):
        check_reads_to_its_end(model)


def test_a_vit_goes_through_the_stages_by_default(space: Path) -> None:
    size = 32
    check_stages(experiment(space, "test_vit", size, layout(of("test_vit", size)).arguments))


@pytest.mark.parametrize(
    ("code", "works"), [(-6, "crashes in PyTorch (SIGABRT)"), (2, "no: error: a / b of it")]
)
def test_a_crash_is_a_row(
    code: int, works: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], code, "", f"...\nerror: a | b of {tmp_path}/x/it\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(backbones, "PAGE", tmp_path / "page.md")
    backbones.PAGE.write_text(f"Prose.\n\n{backbones.WRITTEN}")
    for name in ("vgg11_bn", "resnet10t", "vgg11_bn"):
        row = backbones.examine_apart(name, 96, tmp_path / "x")
        backbones.write_row(row, 96)
        (tmp_path / "x").rmdir()
    first, second = backbones.PAGE.read_text().splitlines()[-2:]
    assert first.startswith(f"| resnet | `resnet10t` | {works} |")
    assert second.startswith(f"| vgg | `vgg11_bn` | {works} |")
    assert backbones.PAGE.read_text().startswith("Prose.\n\nWritten by")
