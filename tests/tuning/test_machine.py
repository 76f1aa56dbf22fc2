"""The machine's figures: what can be counted is counted exactly."""

import pytest
import torch

from pipeline.base.config import Runtime
from pipeline.tuning import machine
from pipeline.tuning.machine import shortest, work_per_image


def test_work_of_a_convolution_is_counted_by_hand() -> None:
    model = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    work = work_per_image(model, size=10, batch=4)
    assert work["flops"] == 2 * 100 * 8 * 3 * 9
    assert work["bytes"] == 4 * (3 * 100 + 8 * 100 + 8 * 3 * 9 / 4), "the weights once a batch"


def test_views_move_nothing() -> None:
    with machine.Traffic() as traffic:
        torch.zeros(10).view(2, 5)
    assert traffic.bytes == 40


def test_shortest_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 0.1, 1, 3, 4, 5.5])  # runs of 0.1, 2 and 1.5 s: then it is over 3 s
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(times))
    assert shortest(lambda: None, torch.device("cpu")) == 1.5


def test_the_card_has_a_rate_of_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal sizes of work: what it counts as one run's is in the rates."""
    monkeypatch.setattr(machine, "shortest", lambda work, device: 0.5)
    monkeypatch.setattr(machine, "COPIED", 1000)
    card = machine.measure_machine(Runtime(device="cpu"))
    assert card["flops"]["cpu"] == dict.fromkeys(["fp32", "bf16", "fp16"], 2 * 1024**3 / 0.5)
    assert card["memory"] == {"cpu": 2 * 1000 / 0.5}


def test_a_machine_is_its_kinds_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that sees one of two equal GPUs must find what was measured with both in sight."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: ["T4", "T4", "P100"][i])
    for count, kinds in ((1, ["T4"]), (2, ["T4"]), (3, ["P100", "T4"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert machine.describe_machine(Runtime())["gpus"] == kinds
    assert machine.describe_machine(Runtime(device="cpu"))["gpus"] == []
