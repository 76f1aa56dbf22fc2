"""Augmentation: albumentations by name, built so that a wrong argument is an error.

A pure function of (picture, random numbers), applied in training only.
"""

import copy
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np
from pydantic import ValidationError

from pipeline.base.cli import UserError, did_you_mean, in_plugins, say_once, short, shown
from pipeline.base.settings import sides, size_name
from pipeline.data.batch_augment import BatchAugment, is_known
from pipeline.data.resize import INTERPOLATION

Transform = A.BasicTransform
Specs = list[dict[str, dict[str, Any]]]
TRANSFORMS = {n: c for n, c in vars(A).items() if isinstance(c, type) if issubclass(c, Transform)}


class Augment:
    """Random pictures of one size from uint8 [h, w, 3], equal for an equal seed."""

    is_random = True

    def __init__(
        self,
        specs: Specs,
        size: int | Sequence[int],
        interpolation: str,
        own: dict[str, type[Transform]] | None = None,  # the user's
    ):
        mode, known = INTERPOLATION[interpolation], TRANSFORMS | (own or {})
        (height, width), pairs = sides(size), [pair for spec in specs for pair in spec.items()]
        steps = [_transform(name, kw, (height, width), mode, known) for name, kw in pairs]
        if height != width:
            steps = [_upright(step, size_name(size)) for step in steps]
        self.compose = A.Compose([*steps, A.Resize(height, width, interpolation=mode)])

    def try_on(self, pixels: np.ndarray) -> None:
        """Each step once on a picture of the kind it will see. Raises UserError where one fails.

        Else it would fail in a worker in the middle of an epoch, or pass on what no net can take.
        """
        for step in copy.deepcopy(self.compose.transforms):
            name, (height, width) = type(step).__name__, pixels.shape[:2]
            step.p = 1
            try:
                pixels = A.Compose([step], seed=0)(image=pixels)["image"]
            except Exception as error:  # of OpenCV, NumPy or albumentations itself
                text = f"augment: {name} fails on pictures of {width} x {height} px"
                raise UserError(f"{text}: {in_plugins(error) or short(error)}") from None
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
                made = f"{pixels.dtype} {list(pixels.shape)}"
                raise UserError(f"augment: {name} makes {made} of pictures, not uint8 [h, w, 3]")

    def seed(self, seed: int) -> None:
        """Start a new stream. Workers hold copies: without this they all draw the same one.

        Each step has its own. Albumentations 2.0 gives all of them one seed, by which two mirrors
        of p .5 always went together, and no picture was mirrored once.
        """
        steps = self.compose.transforms
        seeds = np.random.SeedSequence(seed).generate_state(len(steps))
        for step, own in zip(steps, seeds.tolist(), strict=True):
            step.set_random_seed(own)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return self.compose(image=pixels)["image"]

    def batched(self) -> BatchAugment | None:
        """The same for batches on a GPU; None where a step of it is not known there."""
        return BatchAugment(self) if all(map(is_known, self.compose.transforms)) else None


def _upright(step: Transform, size: str) -> Transform | A.OneOf:
    """A transform without quarter turns, by which a picture would change its shape."""
    if not isinstance(step, (A.D4, A.RandomRotate90, A.Transpose)):
        return step
    name = type(step).__name__
    mirrors = [A.HorizontalFlip(p=1), A.VerticalFlip(p=1)]
    left = [A.NoOp(p=1), *([] if isinstance(step, A.Transpose) else [A.Compose(mirrors)])]
    left += mirrors if isinstance(step, A.D4) else []
    text = f"pictures of {size} px have no quarter turns, only {len(left)} of {name}'s views"
    say_once("augment", text)
    return A.OneOf(left, p=step.p)


def _transform(
    name: str,
    kwargs: dict[str, Any],
    size: tuple[int, int],
    mode: int,
    every: dict[str, type[Transform]],
) -> Transform:
    if name not in every:
        near, own = did_you_mean(name, every), every.keys() - TRANSFORMS
        told = f"; of your plugins: {', '.join(sorted(own))}" * bool(own)
        raise UserError(f"augment: albumentations has no {shown(name)}{near}{told}")
    cls = every[name]
    known = inspect.signature(cls.__init__).parameters
    crop = "ratio" in known and issubclass(cls, A.RandomResizedCrop)  # Erasing's is a hole's
    if "size" in known:  # what the backbone wants, unless the YAML says otherwise
        kwargs = {"size": size, **kwargs}
    if "interpolation" in known:
        kwargs = {"interpolation": mode, **kwargs}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # albumentations 2.0.8 only warns of an unknown argument
        try:
            if crop and size[0] != size[1]:  # of the picture's own shape
                ratio = kwargs.get("ratio", known["ratio"].default)
                kwargs = {**kwargs, "ratio": [part * size[1] / size[0] for part in ratio]}
            return cls(**kwargs)
        except Exception as error:  # its validators raise many kinds; all mean a bad argument
            takes = ", ".join(argument for argument in known if argument != "self")
            raise UserError(f"augment: {name}: {_reason(error)}; it takes {takes}") from None


def _reason(error: Exception) -> str:
    """What is wrong in one line; of pydantic's many, the first about each argument."""
    if not isinstance(error.__cause__, ValidationError):
        return short(error, 400)
    reasons = {}
    for item in error.__cause__.errors():
        given = "" if item["type"] == "missing" else f", not {shown(item['input'])}"
        text = item["msg"].removeprefix("Value error, ").rstrip(".")
        reasons.setdefault(item["loc"][0], f"{item['loc'][0]}: {text}{given}")
    return "; ".join(reasons.values())
