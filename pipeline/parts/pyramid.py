"""A head that reads every block of the backbone, not its last layer alone.

What tells two leaves apart may be a texture that ImageNet's last layer has long summed away. The
mean and the deviation of every block's output over the picture's places keep it: the statistics
of Gatys et al. 2016 (style), read linearly as in Head2Toe (Evci et al., ICML 2022).
"""

from os.path import commonpath
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

MOST = 8192  # numbers that a head reads; a backbone of more is read once a stage


class MeanAndDeviation(torch.autograd.Function):
    """Over the places of [batch, places, channels]: two of [batch, channels].

    torch.var_mean and its gradient take 7 to 20 times as long on a CPU (medians, 64 pictures).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = x.mean(1)
        variance = ((x * x).mean(1) - mean * mean).clamp(min=0)
        deviation = (variance + 1e-6).sqrt()  # a root's slope at 0 has no end
        ctx.save_for_backward(x, mean, deviation)
        return mean, deviation

    @staticmethod
    def backward(ctx: Any, to_mean: torch.Tensor, to_deviation: torch.Tensor) -> torch.Tensor:
        x, mean, deviation = ctx.saved_tensors
        places = x.shape[1]
        slope = to_deviation / (deviation * places)
        return torch.addcmul((to_mean / places - slope * mean)[:, None], slope[:, None], x)


class Pyramid(nn.Module):
    """Backbone, the standardised means and deviations of its blocks' outputs, a linear head.

    `mean` and `scale` [width] are 0 and 1 until the head's start sets them. `taps` are the modules
    it reads and how many numbers each gives; versions of timm differ in what they call a block, so
    a trained model names its own.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        drop_rate: float = 0.0,
        taps: dict[str, int] | None = None,
    ):
        super().__init__()
        backbone.prune_intermediate_layers(1, prune_head=True)  # what follows the last block
        self.backbone = backbone
        self.channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        self.pooled: list[torch.Tensor] = []
        self.taps = taps or self._choose()
        for name in self.taps:
            backbone.get_submodule(name).register_forward_hook(self._pool)
        width = sum(self.taps.values())
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(width, classes)

    def statistics(self, images: torch.Tensor) -> torch.Tensor:
        """Means and deviations, float32 [batch, width], of normalised images [batch, 3, h, w]."""
        self.pooled = []
        self.backbone.forward_features(images)
        pooled, self.pooled = torch.cat(self.pooled, 1), []
        return pooled

    def from_statistics(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits float32 [batch, classes]: thousands of products, and half would round each."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(self.drop((pooled - self.mean) * self.scale))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.from_statistics(self.statistics(images))

    def get_classifier(self) -> nn.Linear:
        return self.head

    def _pool(self, block: nn.Module, _: object, out: torch.Tensor) -> None:
        """Keep [batch, 2 × channels] of tokens [batch, n, c] or maps of either layout."""
        if out.ndim == 4 and not self.channels_last:
            out = out.permute(0, 2, 3, 1)
        self.pooled += MeanAndDeviation.apply(out.flatten(1, -2).float())

    def _choose(self) -> dict[str, int]:
        fine, coarse = (self._widths(blocks(self.backbone, by_stage)) for by_stage in (False, True))
        return fine if sum(fine.values()) <= MOST else coarse

    def _widths(self, names: list[str]) -> dict[str, int]:
        """How many numbers each of these modules gives; those that never run are left out."""
        found = {}

        def look(name: str, out: torch.Tensor) -> None:
            self._pool(self.backbone, None, out)
            found[name] = 2 * self.pooled.pop().shape[1]

        hooks = [
            self.backbone.get_submodule(name).register_forward_hook(
                lambda module, given, out, name=name: look(name, out)
            )
            for name in names
        ]
        side = self.backbone.pretrained_cfg["input_size"][-1]
        with torch.no_grad():
            self.backbone.eval().forward_features(torch.zeros(1, 3, side, side))
        for hook in hooks:
            hook.remove()
        return found


def blocks(backbone: nn.Module, by_stage: bool) -> list[str]:
    """Modules that are one block, or one stage, of a timm model, as it groups its layers."""
    groups = group_parameters(backbone, backbone.group_matcher(coarse=by_stage))
    owners = [[name.rpartition(".")[0] for name in names] for names in groups.values()]
    shared = [commonpath([f"/{name.replace('.', '/')}" for name in names]) for names in owners]
    return [name for path in dict.fromkeys(shared) if (name := path[1:].replace("/", "."))]
