"""What this machine can do, arithmetic and memory, and what a model asks of it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.base.config import Runtime
from pipeline.base.device import describe_machine, gpus
from pipeline.base.settings import sides

COPIED = 2**28  # bytes moved by one run of a bandwidth


def measure_machine(runtime: Runtime) -> dict[str, Any]:
    """The machine's card: FLOP/s and bytes/s of the CPU and of one GPU of each kind."""
    devices = {"cpu": torch.device("cpu"), **gpus(runtime)}
    return {
        "machine": describe_machine(runtime),
        "flops": {name: matmul_rates(device) for name, device in devices.items()},
        "memory": {name: memory_rate(device) for name, device in devices.items()},
    }


def shortest(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of five runs after a warm-up; of fewer where they take long.

    What else runs on a machine only ever slows it. (torch.utils.benchmark's Timer looks for a CUDA
    compiler when it is imported, and complains where there is one and no GPU.)
    """
    found = []
    while len(found) < 6 and sum(found) < 3:
        started = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found[1:] or found)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
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


def work_per_image(
    model: nn.Module, size: int | Sequence[int], batch: int = 16
) -> dict[str, float]:
    """FLOPs (a multiplication and an addition are two) and bytes moved by one forward pass."""
    device = next(model.parameters()).device
    images = torch.zeros(batch, 3, *sides(size), device=device).to(
        memory_format=torch.channels_last
    )
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model.eval().forward(images)  # not a compiled call, which would hide its operations
    with torch.no_grad(), Traffic() as traffic:
        model.forward(images)
    return {"flops": flops.get_total_flops() / batch, "bytes": traffic.bytes / batch}
