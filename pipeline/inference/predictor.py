"""One class turns pictures into probabilities: validation, OOF, test and notebook use it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.base.cli import UserError, short
from pipeline.base.config import Runtime
from pipeline.base.device import lacks_memory, make_accelerator
from pipeline.base.progress import Progress
from pipeline.base.settings import Size, sides
from pipeline.data.images import Pixels
from pipeline.data.loader import Pictures, in_order, load_batches
from pipeline.data.resize import Resize
from pipeline.inference.answers import SHARES, Answer
from pipeline.inference.tta import View, allowed
from pipeline.model.build import load_model, to_device
from pipeline.model.depthwise import expecting
from pipeline.model.taps import FOREIGN

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
        images = images.to(self.device, non_blocking=True).mul(self.scale)
        return images.add_(self.shift).permute(0, 3, 1, 2)


class Predictor:
    """A model on its device, and how its pictures are prepared (`preprocessing` of its record)."""

    def __init__(
        self,
        model: nn.Module,
        preprocessing: dict[str, Any],
        accelerator: Accelerator,
        runtime: Runtime,
        answer: Answer = SHARES,
    ):
        self.answer = answer
        # by way of training: LeViT keeps in eval mode what it made of weights that moved since
        self.model, self.preprocessing = model.train().eval(), preprocessing
        self.accelerator, self.runtime = accelerator, runtime
        self.device, self.precision = accelerator.device, inference_precision(accelerator)
        self.normalise = Normalise(preprocessing, accelerator.device)
        self.at_once = 0  # pictures that a GPU has memory for; 0: a whole batch

    @classmethod
    def load(cls, path: Path, runtime: Runtime) -> Self:
        """Of a trained model's file and record. Raises UserError where they are not whole."""
        model, record = load_model(path)
        accelerator, how = make_accelerator(runtime), record["preprocessing"]
        model = to_device(model, runtime, how["size"], accelerator.device)
        return cls(model, how, accelerator, runtime, Answer(**record.get("answer", {})))

    def probabilities(
        self,
        pixels: Pixels,
        rows: np.ndarray,
        views: list[View],
        sizes: Sequence[int] = (),
        label: str = "predict",
    ) -> np.ndarray:
        """Mean probability over `views`, float32 [len(rows), classes], in the order of `rows`.

        With `sizes` (px, the height) the views are seen at each, else at
        `preprocessing["size"]`, to which the head was last fitted. Each is a pass of its own over
        the pictures: reading them costs little beside the forward passes.
        Raises UserError for a size that the pictures or the model do not have.
        """
        self.check_sizes(sizes, packed=len(pixels[rows[0]]))
        means = []
        views = allowed(views, own := self.preprocessing["size"])
        for size in sizes or [None]:
            shape = self.of_height(size) if size else own
            batches = self.batches(pixels, rows, shape, f"{label} {size} px" if sizes else label)
            means.append(self.mean_over_views(batches, views))
        return np.mean(means, axis=0)

    def of_height(self, height: int) -> Size:
        """A size in the shape of training."""
        high, wide = sides(self.preprocessing["size"])
        return height if high == wide else (height, round(height * wide / high))

    def batches(
        self, pixels: Pixels, rows: np.ndarray, size: Size, label: str
    ) -> Iterator[torch.Tensor]:
        """Normalised pictures [batch, 3, h, w] on the device, with a progress bar."""
        resize = Resize(size, self.preprocessing["interpolation"])
        pictures = Pictures(pixels, rows, np.zeros(len(rows)), resize)
        specs = in_order(len(rows), self.runtime.predict_batch)
        loader = load_batches(pictures, specs, self.runtime, self.device)
        coming, bar = len(rows) * math.prod(sides(size)), Progress(label, len(rows), "images")
        with expecting(self.model, coming), bar as progress:
            for images, _ in loader:
                yield self.normalise(images)
                progress.advance(len(images))

    def mean_over_views(self, batches: Iterator[torch.Tensor], views: list[View]) -> np.ndarray:
        found = []
        with torch.inference_mode(), as_saved(self.model):
            for images in batches:
                logits = self.over_views(self.model, images, views)
                found.append(torch.stack([self.answer(one) for one in logits]).mean(0).cpu())
        return torch.cat(found).numpy()

    def over_views(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        images: torch.Tensor,
        views: list[View],
    ) -> list[torch.Tensor]:
        """What `function` gives for each view of a batch, in float32."""
        seen = (view(images).contiguous(memory_format=torch.channels_last) for view in views)
        return [self.in_parts(function, one) for one in seen]

    def in_parts(
        self, function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        """Half as many at once, from then on, where a GPU has no memory for them."""
        try:
            parts = images.split(self.at_once or len(images))
            return torch.cat([forward(function, part, self.precision) for part in parts])
        except RuntimeError as error:
            most = min(self.at_once or len(images), len(images))
            if not lacks_memory(error) or most < 2:
                raise
        self.at_once = -(-most // 2)
        torch.cuda.empty_cache()
        return self.in_parts(function, images)

    def check_sizes(self, sizes: Sequence[int], packed: int) -> None:
        """Raise UserError for a size beyond the packed pictures, or one the model cannot take.

        Enlarged pictures show nothing new. ViT and Swin take their own size only, MaxViT multiples
        of its windows, most CNNs any: each says so itself when it is given an empty picture.
        """
        for size in sizes:
            if size > packed:
                text = f"{size} px would enlarge the packed pictures, which have {packed}"
                raise UserError(f"predict.sizes: {text}")
            if problem := self.refuses(self.of_height(size)):
                text = f"this backbone takes no pictures of {size} px: {problem}"
                raise UserError(f"predict.sizes: {text}")

    def refuses(self, size: Size) -> str:
        """What the model says to a picture of a size that it cannot take, else nothing."""
        try:
            with torch.inference_mode(), as_saved(self.model):
                # past what `runtime.compile` would make of another size
                self.model.forward(torch.zeros(1, 3, *sides(size), device=self.device))
        except torch.OutOfMemoryError:
            raise
        except FOREIGN as error:
            return short(error)
        return ""


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
