"""Mean and deviation of a block's output over the picture's places."""

from typing import Any

import torch
from torch import nn

HALF = (torch.float16, torch.bfloat16)


class MeanAndDeviation(torch.autograd.Function):
    """Over the places of [batch, places, channels]: two of [batch, channels], at least float32.

    torch.var_mean and its gradient take 7 to 20 times as long on a CPU (medians, 64 pictures). On a
    GPU half-precision maps are summed in float32 as they lie, without a float32 copy of each.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dtype in HALF:
            mean = x.mean(1, dtype=torch.float32)
            norm = torch.linalg.vector_norm(x, dim=1, dtype=torch.float32)
            square = norm * norm / x.shape[1]
        else:
            mean, square = x.mean(1), (x * x).mean(1)
        deviation = ((square - mean * mean).clamp(min=0) + 1e-6).sqrt()  # 0's slope has no end
        ctx.save_for_backward(x, mean, deviation)
        return mean, deviation

    @staticmethod
    def backward(ctx: Any, to_mean: torch.Tensor, to_deviation: torch.Tensor) -> torch.Tensor:
        x, mean, deviation = ctx.saved_tensors
        places = x.shape[1]
        slope = to_deviation / (deviation * places)
        shift = to_mean / places - slope * mean
        if x.dtype == torch.float16:  # a loss scaled by 65536 leaves no room for the slope
            return torch.addcmul(shift[:, None], slope[:, None], x.float()).half()
        return torch.addcmul(shift.to(x.dtype)[:, None], slope.to(x.dtype)[:, None], x)


def pool(
    out: torch.Tensor | tuple[torch.Tensor, ...], channels_last: bool, aspect: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation [batch, c] each of tokens [batch, n, c] or of maps of either layout.

    Of what a block gives beside them (the grid's size, in some ViTs) nothing is read.
    """
    out = out[0] if isinstance(out, tuple) else out
    out = with_channels_last(out, channels_last, aspect).flatten(1, -2)
    return MeanAndDeviation.apply(out.float() if out.device.type == "cpu" else out)


def with_channels_last(out: torch.Tensor, channels_last: bool, aspect: float = 1.0) -> torch.Tensor:
    """Tokens or a block's map with the channels in the last place.

    `channels_last` is how timm says that the net ends, while blocks may have the other layout
    (TinyViT, SwinV2-CR, VOLO). Two sides in the pictures' `aspect`, their height over their width,
    tell; a grid's sides may be rounded.
    """
    if out.ndim != 4:
        return out

    def is_grid(high: int, wide: int) -> bool:
        return abs(high - wide * aspect) < max(1, aspect)

    first, second, third = out.shape[1:]
    maps = is_grid(second, third) and not (is_grid(first, second) and channels_last)
    return out.permute(0, 2, 3, 1) if maps else out


def is_channels_last(backbone: nn.Module) -> bool:
    return getattr(backbone, "output_fmt", "NCHW") == "NHWC"
