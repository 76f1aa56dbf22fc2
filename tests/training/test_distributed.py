"""A fold of two processes is the fold of one: weights, losses, probabilities; also after a kill."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from test_train import HARD, kill_when
from torch import nn

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.data.loader import EpochBatches
from pipeline.launchers import pool
from pipeline.model.head import OwnHead
from pipeline.model.kernel import KernelRidge
from pipeline.training.distributed import RankSampler, rank_seed, run_on_main, sync_batchnorm

EXACT = {  # all that carries state or is averaged, and nothing that draws random numbers
    "augment": [],
    "model": {
        "features": "blocks",
        "head_init": "lda",
        "batchnorm": "frozen",
        "freeze": "layer2",
        "freeze_epochs": 1,
        "kernel": False,  # as "refit", it multiplies roundings by a thousand
    },
    "train": {**HARD["train"], "refit": False},
    "runtime": {"precision": "no", "device": "cpu"},
}
GROUP = """
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from accelerate import Accelerator
from pipeline.training.distributed import (
    broadcast_from_main, sync_model, run_on_main, gather_predictions, leave_group
)
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
for n in (7, 1):
    rows, seen = np.arange(10, 10 + n), []
    def predict(mine):
        seen.extend(mine)
        return np.stack([mine, 0.1 * mine], 1).astype(np.float32)
    whole = gather_predictions(predict, rows, 2, accelerator)
    np.testing.assert_array_equal(whole, predict(rows))
    assert len(seen) - n == len(rows[rank::2])
model = torch.nn.BatchNorm1d(3)
model.running_mean += rank + 1
model.weight.data *= rank + 2
sync_model(model, None)
assert model.running_mean.tolist() == [1, 1, 1] and model.weight.tolist() == [2, 2, 2]
def work():
    model.bias.data += 5
    return f"said by rank {rank}"
assert run_on_main(work, model, accelerator) == "said by rank 0"
assert model.bias.tolist() == [5, 5, 5]
from pipeline.model.kernel import KernelRidge
def remember():
    model.kernel = KernelRidge(*(torch.full((n, 2), rank + 3.0) for n in (1, 2, 3, 4)))
run_on_main(remember, model, accelerator)
assert model.kernel.weight.tolist() == [[3, 3]] * 4
from pipeline.model import depthwise
depthwise.compiles = lambda device: rank == 0  # measured so near its bound that they differ
conv = torch.nn.Conv2d(6, 6, 3, groups=6).to(memory_format=torch.channels_last)
depthwise.spare_compiler(conv, accelerator.device, broadcast_from_main)
assert conv.few and conv.weight.stride() == (9, 9, 3, 1)
from pipeline.base.config import Model
from pipeline.model.freeze import freeze
from pipeline.model.build import build_model
settings = Model(backbone="test_vit", weights="none", batchnorm="train", size=32)
vit = build_model(settings, 2, 0)
freeze(vit, settings)
trainer = SimpleNamespace(model=accelerator.prepare(vit), bare_model=vit, accelerator=accelerator)
for step in range(2):  # DDP would wait in the second for a final norm that the head does not read
    trainer.model(torch.randn(2, 3, 32, 32)).square().sum().backward()
assert vit.backbone.blocks[-1].mlp.fc2.weight.grad.any()
leave_group(trainer)
threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], "one may abort the exit"
"""


@pytest.fixture
def exact(write: Callable[..., str], space: Path) -> Callable[[str], str]:
    """Write the experiment under a name, with random weights that may be frozen, from a file."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), space / "random.safetensors")
    model = {**EXACT["model"], "weights": str(space / "random.safetensors")}
    return lambda name: write(name, **{**EXACT, "model": model})


def test_two_processes_train_the_weights_of_one(
    run: Callable[..., str], exact: Callable[[str], str], split: Callable[[str], str], space: Path
) -> None:
    """4 batches of 8, 8, 7 and 7 images; killed as a group when the first epoch was saved."""
    run("train", split(exact("one")), "--fold", "0")
    one, two = (space / "runs" / name / "fold0" for name in ("one", "two"))
    command = [sys.executable, "-m", "pipeline.train", exact("two"), "--fold", "0"]
    command += ["--gpus-per-fold", "2"]
    kill_when(command, (two / "last.pt").exists)
    assert not (two / "model.safetensors").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("goes on after epoch") == 1, "rank 0 alone speaks"
    assert done.stderr == ""
    weights, expected = (load_file(run / "model.safetensors") for run in (two, one))
    for name, value in expected.items():
        torch.testing.assert_close(
            weights[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    log, expected = (pd.read_csv(run / "log.csv") for run in (two, one))
    assert list(log.epoch) == [0, 1, 2, 3]
    same = ["epoch", "lr", "train_loss", "valid_loss", "valid_score"]
    pd.testing.assert_frame_equal(log[same], expected[same], rtol=1e-4, atol=2e-5)
    record, expected = (records.load(run / "model.safetensors") for run in (two, one))
    assert record["key"] == expected["key"], "how many processes it took is in no key"
    assert (record["ranks"], expected["ranks"]) == (2, 1)
    assert len(list(two.glob("[!.]*"))) == 3, "rank 1 has left nothing"


def test_each_row_comes_once_and_rank_0_gives_its_model_to_all() -> None:
    """7 rows make a part of 4 and one of 3; of one row rank 1 has none."""
    group = pool.Process(["-c", GROUP], {**os.environ, "OMP_NUM_THREADS": "1"}, 2)
    deadline = time.monotonic() + 60
    while (code := group.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert code == 0


def test_a_kernel_travels_on_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank would open rank 0's, to lay it there."""

    class Kernel(KernelRidge):
        on = "cuda:0"

        def cpu(self) -> KernelRidge:
            self.on = "cpu"
            return self

        def to(self, device: str) -> KernelRidge:
            self.on = device
            return self

    def sent(objects: list[tuple[str, Kernel]]) -> None:
        assert objects[0][1].on == "cpu"

    model = nn.Linear(1, 1)
    model.kernel = Kernel(*(torch.zeros(1, 1) for _ in KernelRidge.PARTS))
    monkeypatch.setattr("pipeline.training.distributed.broadcast_object_list", sent)
    main = SimpleNamespace(is_main_process=True, device="cuda:0")
    monkeypatch.setattr("pipeline.training.distributed.sync_model", lambda model: None)
    assert run_on_main(lambda: "said", model, main) == "said"
    assert model.kernel.on == "cuda:0"


def rank(number: int, of: int) -> SimpleNamespace:
    return SimpleNamespace(process_index=number, num_processes=of)


def test_parts_are_whole_batches_with_seeds_of_their_own() -> None:
    batches = EpochBatches(22, 8, seed=3)
    parts = [list(RankSampler(batches, rank(number, 3))) for number in range(3)]
    for whole, *shares in zip(batches, *parts, strict=True):
        assert sorted(row for part in shares for row in part.rows) == sorted(whole.rows)
        assert {len(part.rows) for part in shares} <= {2, 3}
        assert len({whole.seed, *(part.seed for part in shares)}) == 4
    assert list(RankSampler(batches, rank(0, 1))) == list(batches), "alone all is as it was"
    assert rank_seed(5, rank(0, 1)) == 5
    assert batches.sizes == [len(batch.rows) for batch in batches]


def test_a_batch_of_fewer_images_than_processes_is_refused() -> None:
    RankSampler(EpochBatches(9, 3, seed=0), rank(0, 3))
    RankSampler(EpochBatches(15, 2, seed=0), rank(0, 1), least=2)
    with pytest.raises(UserError, match=r"a batch of 1 images is too small \(BatchNorm that"):
        RankSampler(EpochBatches(1, 2, seed=0), rank(0, 1), least=2)
    with pytest.raises(UserError, match="a batch of 3 images cannot be shared by 2 processes"):
        RankSampler(EpochBatches(9, 3, seed=0), rank(0, 2), least=2)
    with pytest.raises(UserError, match="a batch of 2 images cannot be shared by 3 processes"):
        RankSampler(EpochBatches(8, 3, seed=0), rank(0, 3))


def synchronised(model: nn.Module, frozen: bool) -> list[str]:
    modules = sync_batchnorm(model, frozen).named_modules()
    return [name for name, module in modules if isinstance(module, nn.SyncBatchNorm)]


def test_batchnorm_that_trains_is_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(width: int, classes: int) -> nn.Module:
        mean = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*mean, nn.BatchNorm1d(width), nn.Linear(width, classes))

    def net() -> nn.Module:
        return OwnHead(timm.create_model("test_resnet"), own, 3)

    assert synchronised(net(), frozen=False) == [], "a process alone"
    ranks = SimpleNamespace(is_initialized=lambda: True, get_backend=lambda: "nccl")
    monkeypatch.setattr("pipeline.training.distributed.distributed", ranks)
    assert {"backbone.bn1", "head.2"} < set(synchronised(net(), frozen=False))
    assert synchronised(net(), frozen=True) == ["head.2"], "a head's own trains all the same"
    assert synchronised(timm.create_model("test_resnet"), frozen=True) == []
