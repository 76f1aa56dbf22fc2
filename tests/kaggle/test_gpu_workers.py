"""A process for each GPU: each row comes back in its place, and a process that died is replaced."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.deadline import Deadline
from pipeline.kaggle.notebook import gpu_workers
from pipeline.kaggle.notebook.manifest import BundledModel, Manifest


def gpu_and_rows(weights: Path, model: BundledModel, source: Path, rows: np.ndarray) -> np.ndarray:
    gpu = np.full(len(rows), float(os.environ["CUDA_VISIBLE_DEVICES"]))
    return np.stack([gpu, rows], axis=1)


@pytest.mark.parametrize("n", [1, 2])
def test_a_process_for_each_gpu_and_every_row_in_its_place(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_workers, "run_views", gpu_and_rows)  # torch twice takes long to import
    processes = gpu_workers.GpuWorkers(n, Deadline(600.0))
    told = [processes.predict(None, None, None, np.array(rows)) for rows in ([9, 5, 7], [3])]
    processes.close()
    second = n - 1  # the GPU of every other row
    assert told[0].tolist() == [[0, 9], [second, 5], [0, 7]] and told[1].tolist() == [[0, 3]]


POISONED = "STANDS_FOR_A_BROKEN_CUDA_CONTEXT"


def falls_ill(weights: Path, model: BundledModel, met: Path, rows: np.ndarray) -> np.ndarray:
    """A stand-in whose second process dies, breaks or is silent: once, or always for `fatal`."""
    if os.environ.get(POISONED):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    kind = model.file
    if rows[0] == 1 and kind != "well" and (kind == "fatal" or not met.exists()):
        met.touch()
        if kind == "sticky":
            os.environ[POISONED] = "1"
            raise RuntimeError("CUDA error: device-side assert triggered")
        if kind == "silent":
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)
    return np.stack([rows, rows * 2], axis=1)


@pytest.mark.parametrize("kind", ["dies", "sticky", "fatal", "silent"])
def test_a_gpu_process_that_fails_is_replaced_and_its_work_done_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_workers, "run_views", falls_ill)
    processes = gpu_workers.GpuWorkers(2, Deadline(0.0 if kind == "silent" else 600.0))

    def predict(name: str) -> list[list[int]]:
        model = BundledModel.model_construct(file=name)
        return processes.predict(None, model, tmp_path / "met", np.arange(5)).tolist()

    answers = [[i, 2 * i] for i in range(5)]
    try:
        assert predict("well") == answers
        if kind == "silent":
            monkeypatch.setattr(gpu_workers, "OVERTIME", 0.2)
        if kind in ("dies", "sticky"):
            assert predict(kind) == answers
        else:
            with pytest.raises(TimeoutError if kind == "silent" else BrokenProcessPool):
                predict(kind)
        monkeypatch.setattr(gpu_workers, "OVERTIME", 600.0)
        assert predict("well") == answers
    finally:
        processes.close()
    said = capsys.readouterr().err
    assert ("GPU workers are replaced" in said) is (kind != "silent")
    assert ("device-side assert" in said) is (kind == "sticky")


def test_memory_that_does_not_hold_a_batch(
    bundled: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.inference.predictor import Predictor

    real, tried = Predictor.probabilities, []

    def short_of_memory(self: Predictor, *args: object, **named: object) -> np.ndarray:
        tried.append(self.runtime.predict_batch)
        if tried[-1] > 40:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(self, *args, **named)

    weights = bundled("label") / "runs" / "blend" / "bundle" / "weights"
    monkeypatch.setattr(Predictor, "probabilities", short_of_memory)
    model = Manifest.load(weights).models[0]
    pixels = np.zeros((3, model.pixels, model.pixels, 3), dtype=np.uint8)
    np.save(weights.parents[1] / "zeros.npy", pixels)
    source = weights.parents[1] / "zeros.npy"
    prob = gpu_workers.run_views(weights / model.file, model, source, np.arange(3))
    assert prob.shape == (3, 4) and tried[0] == 64 and len(tried) > 2
