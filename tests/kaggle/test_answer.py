"""A process of the notebook's: it finds the package, and ends when the time is over."""

import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.cli import Exit
from pipeline.kaggle.notebook import answer
from pipeline.kaggle.notebook.manifest import BundledModel
from pipeline.launchers import pool

HANGS = """
import sys, time
import numpy as np
from pipeline.kaggle.notebook import answer
answer.time = type("", (), {"time": lambda: 1000.0})
answer.Work.probabilities = lambda work, model, rows: (
    time.sleep(60 if model.run == "hangs" else 0) or np.stack([rows, rows * 2], 1)
)
answer.main(*sys.argv[-3:])
"""


@pytest.mark.parametrize(
    ("seconds", "run", "shares", "code"),
    [(60, "well", 2, 0), (0.1, "hangs", 1, -14), (0, "well", 1, Exit.PAUSED)],
)
def test_what_hangs_is_given_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    run: str,
    shares: int,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)  # the package is not beside the notebook
    there = lambda told, slot: pool.Process(["-c", HANGS, *told[-3:]], slot)  # noqa: E731
    monkeypatch.setattr(answer, "Process", there)
    known = {"weight": 1, "predict": {"tta": "d4"}, "pixels": 16, "fit": "pad"}
    work = answer.Work(
        scratch=tmp_path,
        weights=tmp_path,
        sources={"16-pad": tmp_path / "x.npy"},
        rows=[9, 5, 7],
        models=[BundledModel(file="m", run=run, fold=0, **known)],
        classes=["a", "b"],
        shares=shares,
        ends=1000.0 + seconds,
    )
    processes = [work.start((0, share), {}) for share in range(shares)]
    while None in (ended := [process.poll() for process in processes]):
        time.sleep(0.05)
    assert ended == [code] * shares
    expected = [[9, 18], [5, 10], [7, 14]]
    assert work.answers(0) is None if code else np.array_equal(work.answers(0), expected)
