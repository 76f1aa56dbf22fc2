"""Training and inference rates on this device, beside timm's own benchmark loop in the same run.

reads   nothing: pictures are noise, weights random
writes  FILE.json with --out
run     python -m tests.gpu_rates resnet50 vit_small_patch16_224 [--size 224] [--batch 256]

timm's loop is that of its `benchmark.py --bench train --amp --channels-last --opt adamw`: one batch
that lies on the device, random targets. Ours trains from packed pixels through the loader and the
augmentation. A bar is ours over timm's, which is measured before and after (A B A).
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import timm
import torch
import typer
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2

from pipeline.base import records
from pipeline.base.cli import run_stage, say, short
from pipeline.base.config import Experiment
from pipeline.base.device import make_accelerator, peak_memory_gb, workers
from pipeline.inference.predictor import Predictor
from pipeline.inference.tta import VIEWS
from pipeline.training.graph import HALF
from pipeline.training.trainer import Trainer
from pipeline.tuning.machine import synchronize
from pipeline.tuning.search import load_rate, step_rate

CLASSES, PICTURES = 100, 1024


def main(
    models: list[str],
    size: Annotated[int, typer.Option(help="px")] = 224,
    batch: Annotated[int, typer.Option(help="pictures a step")] = 256,
    seconds: Annotated[float, typer.Option(help="of one measurement")] = 4.0,
    compiled: Annotated[bool, typer.Option("--compile", help="both sides compiled")] = False,
    graph: Annotated[bool, typer.Option(help="our steps recorded once and played back")] = False,
    profile: Annotated[bool, typer.Option(help="what takes an epoch's time, instead")] = False,
    out: Annotated[Path | None, typer.Option(help="all figures, as JSON")] = None,
) -> None:
    pixels, runtime = noise(round(1.25 * size)), {"compile": compiled, "graph": graph}
    if profile:
        tell_kernels(models[0], size, batch, pixels, runtime)
        return
    found = {}
    for name in models:
        try:
            found[name] = rates(name, size, batch, seconds, runtime, pixels)
        except Exception as error:  # the next model may do; a card is not lent for long
            found[name] = {"failed": short(f"{type(error).__name__}: {error}", 400)}
        say("rates", f"{name}: " + ", ".join(f"{k} {shown(v)}" for k, v in found[name].items()))
        if out:
            records.write_json(out, found)


def noise(side: int) -> np.ndarray:
    """uint8 [PICTURES, side, side, 3] of coarse noise, as rows of packed pixels."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (PICTURES, side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)[:, :side, :side].copy()


def rates(
    name: str,
    size: int,
    batch: int,
    seconds: float,
    runtime: dict[str, bool],
    pixels: np.ndarray,
) -> dict[str, Any]:
    """Images/s by what was measured, and our share of timm's."""
    found: dict[str, Any] = {}
    timms = [timm_train(name, size, batch, seconds, runtime["compile"])]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "first.safetensors"
        save_file(timm.create_model(name, **sized(name, size)).state_dict(), weights)
        for how, model in recipes(weights).items():
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            trainer = make(name, size, batch, model, runtime, pixels)
            found |= {f"{how}: {k}": v for k, v in ours(trainer, batch, seconds).items()}
            del trainer
            gc.collect()  # it and its Graph refer to each other
    timms.append(timm_train(name, size, batch, seconds, runtime["compile"]))
    found["timm train"] = statistics.mean(timms)
    for how in recipes(Path()):
        for part in ("step", "epoch"):
            found[f"{how}: {part} / timm"] = found[f"{how}: {part}"] / found["timm train"]
        found[f"{how}: epoch / step"] = found[f"{how}: epoch"] / found[f"{how}: step"]
    return found


def recipes(weights: Path) -> dict[str, dict[str, Any]]:
    """Settings of the model: as it comes, the head's input alone as timm has it, and all as timm's
    benchmark has it."""
    last = {"weights": str(weights), "features": "last", "head_init": "random"}
    plain = {**last, "batchnorm": "train"}
    return {"default": {"weights": str(weights)}, "last": last, "plain": plain}


def sized(name: str, size: int) -> dict[str, int]:
    return {"img_size": size} if "vit" in name or "swin" in name else {}


def make(
    name: str,
    size: int,
    batch: int,
    model: dict[str, Any],
    runtime: dict[str, bool],
    pixels: np.ndarray,
) -> Trainer:
    settings = Experiment(
        competition="demo",
        model={"backbone": name, "size": size, **model},
        augment="photos",
        train={"epochs": 10, "batch_size": batch},
        runtime={**runtime, "predict_batch": batch},
    )
    rows = np.arange(20 * batch)
    train = pd.DataFrame({"row": rows % len(pixels), "target": rows % CLASSES})
    classes = [str(k) for k in range(CLASSES)]
    targets = train.target.to_numpy()
    return Trainer(settings, 0, classes, pixels, train, train[:batch], "accuracy", targets)


def ours(trainer: Trainer, batch: int, seconds: float) -> dict[str, float]:
    """Images/s of the step alone, whole epochs, the loader alone by its workers, and inference."""
    trainer.epoch = 1
    started = time.monotonic()
    trainer.set_mode()  # which records, where it is asked to
    one = next(iter(trainer.loader))
    trainer.step([one], len(one[0]))
    synchronize(trainer.accelerator.device)
    found = {"seconds to the first step": time.monotonic() - started}
    step_rate(trainer, one, batch, seconds / 2)  # cuDNN searches, and compiling takes its time
    found["step"] = step_rate(trainer, one, batch, seconds)
    trainer.train_epoch()
    found["epoch"] = trainer.train_epoch()[1]
    count = workers(trainer.settings.runtime, on_gpu(trainer))
    found["loader"] = load_rate(trainer, batch, count, lambda group, n: None)
    predictor = trainer.predictor(trainer.final_model())
    for tta in ("none", "d4"):
        found[f"predict {tta}"] = predict_rate(predictor, trainer, 10 * batch, tta)
    return found | peak_memory_gb()


def on_gpu(trainer: Trainer) -> bool:
    return trainer.accelerator.device.type == "cuda"


def tell_kernels(
    name: str, size: int, batch: int, pixels: np.ndarray, runtime: dict[str, bool]
) -> None:
    """The table of PyTorch's profiler of an epoch by the default recipe."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "first.safetensors"
        save_file(timm.create_model(name, **sized(name, size)).state_dict(), weights)
        trainer = make(name, size, batch, recipes(weights)["default"], runtime, pixels)
    trainer.train_epoch()
    with torch.profiler.profile() as found:
        trainer.train_epoch()
    by = "self_cuda_time_total" if on_gpu(trainer) else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=60))


def predict_rate(predictor: Predictor, trainer: Trainer, n: int, tta: str) -> float:
    rows = np.resize(trainer.rows, n)
    predictor.probabilities(trainer.pixels, rows[: n // 5], VIEWS[tta])  # warm
    started = time.monotonic()
    predictor.probabilities(trainer.pixels, rows, VIEWS[tta])
    return n / (time.monotonic() - started)


def timm_train(name: str, size: int, batch: int, seconds: float, compiled: bool) -> float:
    """Images/s of timm's TrainBenchmarkRunner."""
    accelerator = make_accelerator(Experiment(competition="demo").runtime)
    device, precision = accelerator.device, accelerator.mixed_precision
    model = timm.create_model(name, num_classes=CLASSES, **sized(name, size)).to(device)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4)
    forward = torch.compile(model) if compiled else model
    images = torch.randn(batch, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    target, loss = torch.randint(CLASSES, (batch,), device=device), torch.nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        half = {"dtype": HALF[precision]} if precision in HALF else {"enabled": False}
        with torch.autocast(device.type, **half):
            value = loss(forward(images), target)
        value.backward()
        optimizer.step()
        synchronize(device)

    rate = per_second(step, seconds, batch)
    model.to("cpu")
    return rate


def per_second(step: Callable[[], None], seconds: float, batch: int) -> float:
    for _ in range(5):
        step()
    steps, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        step()
        steps += 1
    return steps * batch / (time.monotonic() - started)


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value > 9 else f"{value:.3f}"


if __name__ == "__main__":
    run_stage(main)
