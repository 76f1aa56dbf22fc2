"""One function turns pictures into probabilities: validation, OOF, test and notebook use it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.base.cli import UserError
from pipeline.base.config import Runtime
from pipeline.base.device import workers
from pipeline.base.progress import Progress
from pipeline.data.augment import Resize
from pipeline.data.images import Pixels
from pipeline.data.loader import Pictures, in_order, make_loader
from pipeline.inference.tta import View, canvas, refuse_enlarging, views
from pipeline.model.head import FOREIGN

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
Precision = Literal["no", "fp16"]
# Of a probability, between two batchings of the same pictures: other roundings, no other answer
TOLERANCE: dict[Precision, float] = {"no": 1e-3, "fp16": 5e-2}


class Normalise:
    """uint8 [batch, h, w, 3] on the host → normalised float [batch, 3, h, w] on the device.

    Bytes travel, a quarter of the floats; the result is channels-last without a copy.
    """

    def __init__(self, preprocessing: dict[str, Any], device: torch.device):
        self.device = device
        mean, std = (torch.tensor(preprocessing[name]) for name in ("mean", "std"))
        self.scale = (1 / (255 * std)).to(device)
        self.shift = (-mean / std).to(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.device, non_blocking=True).float()
        return images.mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)


def predict_probabilities(
    model: nn.Module,
    pixels: Pixels,
    rows: np.ndarray,
    preprocessing: dict[str, Any],
    tta: str,
    accelerator: Accelerator,
    runtime: Runtime,
    label: str,
    sizes: Sequence[int] = (),
    some: slice = slice(None),
) -> np.ndarray:
    """Mean probability over the views of `tta`, float32 [len(rows), classes], in that order.

    With `sizes` (px) the views are seen at each of them, else at the training size. Each size is
    a pass of its own over the pictures: reading them costs little beside the forward passes.
    `some` takes a part of the views, for one who has no time for all.
    Raises UserError for a size that the pictures or the model do not have.
    """
    trained, packed = preprocessing["size"], len(pixels[rows[0]])
    model.eval()
    refuse_enlarging(tta, sizes, trained, packed)
    refuse_foreign(model, sizes, accelerator.device)
    found = []
    for size in sizes or [trained]:
        side = canvas(tta, size, trained, packed)
        told = f"{label} {size} px" if sizes else label
        batches = batches_in_order(pixels, rows, side, preprocessing, accelerator, runtime, told)
        found.append(mean_over_views(model, batches, views(tta, size)[some], accelerator))
    return np.mean(found, axis=0)


def batches_in_order(
    pixels: Pixels,
    rows: np.ndarray,
    side: int,
    preprocessing: dict[str, Any],
    accelerator: Accelerator,
    runtime: Runtime,
    label: str,
) -> Iterator[torch.Tensor]:
    """Normalised pictures [batch, 3, side, side] on the device, with the progress they make."""
    resize, on_gpu = Resize(side, preprocessing["interpolation"]), accelerator.device.type == "cuda"
    pictures = Pictures(pixels, rows, np.zeros(len(rows)), resize)
    batches = in_order(len(rows), runtime.predict_batch)
    loader = make_loader(pictures, batches, workers(runtime, on_gpu), on_gpu)
    normalise = Normalise(preprocessing, accelerator.device)
    with Progress(label, len(rows), "images") as progress:
        for images, _ in loader:
            yield normalise(images)
            progress.advance(len(images))


def mean_over_views(
    model: nn.Module, batches: Iterable[torch.Tensor], looks: list[View], accelerator: Accelerator
) -> np.ndarray:
    """Mean probability over the views of all pictures, float32 [n, classes]."""
    found, precision = [], inference_precision(accelerator)
    with torch.inference_mode(), as_saved(model):
        for images in batches:
            logits = over_views(model, images, looks, precision)
            found.append(torch.stack([one.softmax(1) for one in logits]).mean(0).cpu())
    return torch.cat(found).numpy()


def inference_precision(accelerator: Accelerator) -> Precision:
    """float32 on a CPU, fp16 on a GPU that trains in half precision; never bf16.

    bf16 keeps 8 bits: what training hardly feels moves a probability by .24 (demo, fold 0, the
    largest of 400), fp16 by .036, and every GPU has it. What is decided by the kind of machine
    alone cannot differ between out-of-fold, test and the notebook's answers.
    """
    half = accelerator.device.type == "cuda" and accelerator.mixed_precision != "no"
    return "fp16" if half else "no"


@contextmanager
def as_saved(model: nn.Module) -> Iterator[None]:
    """Without the autocast that Accelerate puts around `forward` of a model in training."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped:
            model.forward = wrapped


def over_views(
    function: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    looks: list[View],
    precision: Precision,
) -> list[torch.Tensor]:
    """What `function` gives for each view of a batch, in float32."""
    return [forward(function, channels_last(look(images)), precision) for look in looks]


def forward(
    function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, precision: Precision
) -> torch.Tensor:
    """`function(images)` in float32; a batch with more than fp16 can hold is computed anew."""
    if precision == "fp16":
        with torch.autocast(images.device.type, torch.float16):
            out = function(images).float()
        if torch.isfinite(out).all():
            return out
    return function(images).float()


def refuse_foreign(model: nn.Module, sizes: Sequence[int], device: torch.device) -> None:
    """Raise UserError for a size that the model cannot take.

    ViT and Swin take their own size only, MaxViT multiples of its windows, most CNNs any:
    each says so itself when it is given an empty picture.
    """
    for size in sizes:
        try:
            with torch.inference_mode():
                model(torch.zeros(1, 3, size, size, device=device))
        except torch.OutOfMemoryError:
            raise
        except FOREIGN as error:
            reason = " ".join(str(error).split())
            text = f"predict.sizes: this backbone takes no pictures of {size} px: {reason}"
            raise UserError(text) from None


def channels_last(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)
