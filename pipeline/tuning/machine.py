"""What this machine can do: arithmetic, memory, transfers, disk, pictures.

Each figure is the best of a few runs: what else runs on a machine only ever makes it slower.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.base.config import Experiment, Runtime, root
from pipeline.base.device import describe_machine, gpus
from pipeline.data.augment import Augment
from pipeline.data.images import decode, square

COPIED = 2**28  # bytes moved by one run of each bandwidth
CPU = torch.device("cpu")


def measure_machine(runtime: Runtime) -> dict[str, Any]:
    """The machine's card: FLOP/s and bytes/s of the CPU and of one GPU of each kind, and more."""
    kinds = gpus(runtime)
    devices = {"cpu": CPU, **kinds}
    return {
        "machine": describe_machine(runtime),
        "flops": {name: matmul_rates(device) for name, device in devices.items()},
        "memory": {name: memory_rate(device) for name, device in devices.items()},
        "from host": {name: transfer_rates(device) for name, device in kinds.items()},
        "ladder": latency_ladder(),
        "pictures": picture_rates(),
        "disk": disk_rate(),
    }


def shortest(work: Callable[[], Any], device: torch.device = CPU) -> float:
    """Seconds of the fastest of five runs after a warm-up; of fewer where they take long."""
    found = []
    while len(found) < 6 and sum(found) < 3:
        started = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - started)
    return min(found[1:] or found)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rates(device: torch.device) -> dict[str, float]:
    """FLOP/s of a product of square matrices, by number format, with or without units for it.

    fp32 is full precision; tf32, on GPUs from Ampere on, keeps 10 bits of its factors' mantissas.
    """
    on_gpu, before = device.type == "cuda", torch.get_float32_matmul_precision()
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if on_gpu and torch.cuda.get_device_capability(device) >= (8, 0):
        formats["tf32"] = torch.float32
    n, found = 8192 if on_gpu else 1024, {}
    for name, dtype in formats.items():
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * n**3 / shortest(lambda a=a, b=b: a @ b, device)
    torch.set_float32_matmul_precision(before)
    return found


def memory_rate(device: torch.device) -> float:
    """Bytes/s read and written by a copy within the device's memory, far larger than caches."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / shortest(lambda: target.copy_(source), device)


def transfer_rates(gpu: torch.device) -> dict[str, float]:
    """Bytes/s from the host to a GPU, from pageable and from pinned memory."""
    target, found = torch.empty(COPIED, dtype=torch.uint8, device=gpu), {}
    for name in ("pageable", "pinned"):
        source = torch.ones(COPIED, dtype=torch.uint8, pin_memory=name == "pinned")
        copy = shortest(lambda source=source: target.copy_(source, non_blocking=True), gpu)
        found[name] = COPIED / copy
    return found


def latency_ladder(largest: int = 2**27, steps: int = 200_000) -> list[tuple[int, float]]:
    """(bytes, ns per read) of reads that each depend on the one before, in growing arrays.

    `take` writes its answers where it reads its next questions: trail[i + 1] = after[trail[i]],
    one random cycle through the whole array, which NumPy walks in order and in C. Should a
    version copy the questions first, the AssertionError says so.
    """
    rng, found = np.random.default_rng(0), []
    for size in 2 ** np.arange(13, int(np.log2(largest)) + 1):
        order = rng.permutation(size // 8)
        after, trail = np.empty(size // 8, np.intp), np.zeros(steps + 1, np.intp)
        after[order] = np.roll(order, -1)
        seconds = shortest(lambda a=after, t=trail: np.take(a, t[:-1], out=t[1:], mode="wrap"))
        assert (trail[1:] == after[trail[:-1]]).all(), "this NumPy does not walk in order"
        found.append((int(size), 1e9 * seconds / steps))
    return found


def picture_rates(size: int = 224) -> dict[str, float]:
    """Images/s of one core: a JPEG of 512 px decoded and packed; packed pixels augmented."""
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    augment = Augment(Experiment(competition="any").augment, size, "bicubic")
    augment.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        cv2.imwrite(str(path), cv2.resize(noise, (512, 512), interpolation=cv2.INTER_CUBIC))

        def pack() -> np.ndarray:
            return square(decode(path).rgb, round(1.25 * size), "stretch")

        packed, threads, several = pack(), cv2.getNumThreads(), range(20)
        cv2.setNumThreads(1)
        decoded = len(several) / shortest(lambda: [pack() for _ in several])
        augmented = len(several) / shortest(lambda: [augment(packed) for _ in several])
        cv2.setNumThreads(threads)
    return {"decoded": decoded, "augmented": augmented}


def disk_rate() -> float:
    """Bytes/s of a sequential read under runs/, after the page cache was told to forget it."""
    root("runs").mkdir(parents=True, exist_ok=True)
    block = bytearray(2**23)
    with tempfile.TemporaryFile(dir=root("runs")) as file:
        file.write(os.urandom(COPIED))
        file.flush()
        os.fsync(file.fileno())

        def read() -> None:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            while file.readinto(block):
                pass

        return COPIED / shortest(read)


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, each tensor once an operation."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = () if func.is_view else tree_leaves((args, kwargs, out))
        self.bytes += sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))
        return out


def work_per_image(model: nn.Module, size: int, batch: int = 16) -> dict[str, float]:
    """FLOPs (a multiplication and an addition are two) and bytes moved by one forward pass."""
    device = next(model.parameters()).device
    images = torch.zeros(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model.eval().forward(images)  # not a compiled call, which would hide its operations
    with torch.no_grad(), Traffic() as traffic:
        model.forward(images)
    return {"flops": flops.get_total_flops() / batch, "bytes": traffic.bytes / batch}
