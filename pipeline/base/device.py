"""The machine that works: its device and precision, its memory, and what `bench` measured of it."""

import gc
import json
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import KwargsHandler, check_cuda_p2p_ib_support

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Experiment, Runtime, root
from pipeline.base.libc import cores, libc_function
from pipeline.base.settings import size_name

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
# what a GPU's libraries say that find no memory to work in
NO_ROOM = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_NOT_SUPPORTED", "unable to find an engine")


def make_accelerator(runtime: Runtime, options: Sequence[KwargsHandler] = ()) -> Accelerator:
    """Device and precision for this machine; `options` are those of a group of processes."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        # Accelerate keeps the first precision for a whole process, which may do several things
        AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(min(torch.get_num_threads(), cores()))  # it knows of no quota
    cpu = runtime.device == "cpu" or not torch.cuda.is_available()
    if cpu:
        tune_malloc()
    elif not check_cuda_p2p_ib_support():  # RTX 40xx side by side, which Accelerate refuses else
        os.environ.setdefault("NCCL_P2P_DISABLE", "1")
        os.environ.setdefault("NCCL_IB_DISABLE", "1")
    precision = runtime.precision
    if precision == "auto":  # the variable is Accelerate's own
        precision = os.environ.get("ACCELERATE_MIXED_PRECISION") or _precision(cpu)
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=list(options))


def _precision(cpu: bool) -> str:
    if not cpu:  # before Ampere (a Kaggle T4) there are no bf16 units
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    flags = cpu_facts().get("flags", "")
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "no"


def cpu_facts() -> dict[str, str]:
    """What Linux says of a core; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}


def workers(runtime: Runtime, on_gpu: bool) -> int:
    """Loader processes: on a CPU they would take the cores that train."""
    if runtime.workers is not None:
        return runtime.workers
    return min(4, torch.get_num_threads()) if on_gpu else 0


def tune_malloc() -> None:
    """Let malloc reuse large blocks instead of returning each to the system.

    PyTorch's CPU tensors come from malloc, and every batch would page-fault its activations anew
    (lite0 at 128 px on two cores, medians of 3: training 32 → 61 images/s, inference 187 → 257;
    largest memory 2.6 → 3.0 GB).
    """
    if mallopt := libc_function("mallopt"):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def trim_malloc() -> None:
    """After a fold, in a process that does several: what it freed lies in pieces too small to use.

    Without this the fifth fold of a resnet18 held 9 % more than the first.
    """
    gc.collect()  # a Trainer and its loader refer to each other
    gc.freeze()  # what is left stays: half a million objects of imports, which take 0.2 s a look
    if malloc_trim := libc_function("malloc_trim"):
        malloc_trim(0)


def lacks_memory(error: RuntimeError) -> bool:
    """Whether fewer pictures at once may help."""
    return isinstance(error, torch.OutOfMemoryError) or any(x in str(error) for x in NO_ROOM)


def peak_memory_gb() -> dict[str, float]:
    """Largest resident memory of this process and, on a GPU, of its tensors."""
    peak = {"ram_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}
    if torch.cuda.is_available():
        peak["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peak


def describe_machine(runtime: Runtime) -> dict[str, Any]:
    """What a speed depends on besides the work."""
    return {
        "cpu": cpu_facts().get("model name", os.uname().machine),
        "cores": cores(),
        "gpus": sorted(gpus(runtime)),
        "torch": torch.__version__,
    }


def gpus(runtime: Runtime) -> dict[str, torch.device]:
    """A GPU of each kind by its name: folds that share a machine see one each, and one card."""
    count = torch.cuda.device_count() if runtime.device == "auto" else 0
    return {torch.cuda.get_device_name(i): torch.device("cuda", i) for i in range(count)}


def machine_folder(runtime: Runtime) -> Path:
    return root("runs") / "_tune" / records.digest(describe_machine(runtime))[:8]


def tune_path(settings: Experiment) -> Path:
    name = f"{Path(settings.model.backbone).name}-{size_name(settings.model.size)}.json"
    return machine_folder(settings.runtime) / name


def tuned(settings: Experiment) -> Experiment:
    """The experiment with what `bench` chose; what its own `runtime` says wins.

    Raises UserError for a file that `bench` did not write.
    """
    path, runtime = tune_path(settings), settings.runtime
    if runtime.tune == "off" or not path.is_file():
        return settings
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))["runtime"]
        if "workers" in chosen:  # folds side by side share the cores
            chosen["workers"] = min(chosen["workers"], torch.get_num_threads())
        runtime = Runtime(**{**chosen, **runtime.model_dump(exclude_unset=True)})
    except (ValueError, KeyError, TypeError):  # no UTF-8, no JSON, other keys or values
        raise UserError(f"{path}: not what bench wrote; delete it, or run bench again") from None
    return settings.model_copy(update={"runtime": runtime})
