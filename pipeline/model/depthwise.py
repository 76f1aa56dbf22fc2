"""Depthwise convolutions on a GPU whose cuDNN compiles a kernel for each new shape of them.

lite0 waits 14 s for that in each new process and 10 s more for another number of pictures (H200,
PyTorch 2.11, bf16). PyTorch's own kernels are there at once, but work five times as long: 70 µs
more a picture of 128 px in training. So few pictures are worth no compiler.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import MethodType

import torch
from torch import nn

from pipeline.model.fused import convolve

FEW = 50_000 * 224**2  # pixels of all the pictures to come
COMPILED = 0.1  # seconds for a shape


def depthwise(model: nn.Module) -> list[nn.Conv2d]:
    """Convolutions of a channel each."""
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return [conv for conv in convs if 1 < conv.groups == conv.in_channels]


@cache
def compiles(device: torch.device) -> bool:
    """Whether cuDNN takes long for a shape that it has not met."""
    conv = nn.Conv2d(240, 240, 5, padding=2, groups=240).to(device, torch.float16)
    for side in (8, 9):  # at first it loads its libraries too
        maps = torch.zeros(32, 240, side, side, dtype=torch.float16, device=device)
        maps = maps.to(memory_format=torch.channels_last)
        torch.cuda.synchronize(device)
        started = time.monotonic()
        with torch.inference_mode():
            conv(maps).sum().item()
    return time.monotonic() - started > COMPILED


def spare_compiler(
    model: nn.Module, device: torch.device, agreed: Callable[[bool], bool] = bool
) -> None:
    """Let depthwise convolutions take PyTorch's kernels, where cuDNN compiles, for few pictures.

    Ranks of a group, whose weights must lie alike, are `agreed` on what they measured.
    """
    convs = depthwise(model)
    for conv in convs if convs and agreed(compiles(device)) else ():
        conv.few = True
        # channels-last weights would call cuDNN in the backward pass
        conv.weight.data = conv.weight.data.clone(memory_format=torch.contiguous_format)
        conv.forward = MethodType(own_kernel, conv)


def own_kernel(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    forward = convolve if hasattr(self, "fused") else type(self).forward
    if not self.few:
        return forward(self, x)
    with torch.backends.cudnn.flags(enabled=False):
        return forward(self, x.contiguous())


def expect(model: nn.Module, pixels: float) -> None:
    """Choose kernels for so many pixels of pictures."""
    for conv in spared(model):
        conv.few = pixels < FEW


def spared(model: nn.Module) -> list[nn.Conv2d]:
    return [conv for conv in depthwise(model) if hasattr(conv, "few")]


@contextmanager
def expecting(model: nn.Module, pixels: float) -> Iterator[None]:
    """Choose kernels for so many pixels as long as it lasts: training goes on with its own."""
    before = [(conv, conv.few) for conv in spared(model)]
    expect(model, pixels)
    try:
        yield
    finally:
        for conv, few in before:
            conv.few = few
