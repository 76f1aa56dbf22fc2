"""The machine's figures: what can be counted is counted exactly."""

import numpy as np
import pytest
import torch

from pipeline.base.config import Runtime
from pipeline.tuning import machine
from pipeline.tuning.machine import latency_ladder, shortest, work_per_image


def test_work_of_a_convolution_is_counted_by_hand() -> None:
    model = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    work = work_per_image(model, size=10, batch=4)
    assert work["flops"] == 2 * 100 * 8 * 3 * 9
    assert work["bytes"] == 4 * (3 * 100 + 8 * 100 + 8 * 3 * 9 / 4), "the weights once a batch"


def test_views_move_nothing() -> None:
    with machine.Traffic() as traffic:
        torch.zeros(10).view(2, 5)
    assert traffic.bytes == 40


def test_the_ladder_walks_arrays_of_doubled_size() -> None:
    found = latency_ladder(largest=2**15, steps=2000)
    assert [size for size, _ in found] == [2**13, 2**14, 2**15]
    assert all(0.1 < ns < 1e6 for _, ns in found)


def test_the_ladder_notices_a_numpy_that_copies_its_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = np.take
    monkeypatch.setattr(np, "take", lambda a, i, out, mode: take(a, i.copy(), out=out, mode=mode))
    with pytest.raises(AssertionError, match="does not walk"):
        latency_ladder(largest=2**13, steps=100)


def test_shortest_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 0.1, 1, 3, 4, 5.5])  # runs of 0.1, 2 and 1.5 s: then it is over 3 s
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(times))
    assert shortest(lambda: None) == 1.5


def test_a_machine_is_its_kinds_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that sees one of two equal GPUs must find what was measured with both in sight."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: ["T4", "T4", "P100"][i])
    for count, kinds in ((1, ["T4"]), (2, ["T4"]), (3, ["P100", "T4"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert machine.describe_machine(Runtime())["gpus"] == kinds
    assert machine.describe_machine(Runtime(device="cpu"))["gpus"] == []
