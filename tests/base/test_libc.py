"""How many cores are ours: of a container with a quota fewer than the system shows."""

import math
from pathlib import Path

import pytest

from pipeline.base import libc


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}, 4.0),
        ({"job/cpu.max": "400000 100000", "job/step/cpu.max": "50000 100000"}, 0.5),
        ({"other/cpu.max": "100000 100000"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
    ],
)
def test_what_a_container_may_take(
    tmp_path: Path, files: dict[str, str], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = tmp_path / "own"
    own.write_text("1:cpu:/x\n0::/job/step\n")
    assert libc.cpu_quota(tmp_path, own) == expected
    monkeypatch.setattr(libc, "cpu_quota", lambda: expected)
    monkeypatch.setattr(libc.os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert libc.cores() == {math.inf: 3, 4.0: 3, 2.5: 3, 1.5: 2, 0.5: 1}[expected]
