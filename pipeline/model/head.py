"""A head that reads every block of the backbone, not its last layer alone.

What tells two leaves apart may be a texture that ImageNet's last layer has long summed away. The
mean and the deviation of every block's output over the picture's places keep it: the statistics
of Gatys et al. 2016 (style), read linearly as in Head2Toe (Evci et al., ICML 2022).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pipeline.model.kernel import KernelRidge
from pipeline.model.pooling import is_channels_last, pool
from pipeline.model.taps import END, choose_taps, cut_head, final_features


class BlockHead(nn.Module):
    """Backbone, the standardised means and deviations of its blocks' outputs, a linear head.

    A finished one may have a `kernel`, whose logits are added.

    `mean` and `scale` [width] are 0 and 1 until the head's start sets them. `taps` are the modules
    it reads and how many numbers each gives; versions of timm differ in what they call a block, so
    a trained model names its own. `unread` are parameters of which the head learns nothing.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        drop_rate: float = 0.0,
        taps: dict[str, int] | None = None,
        unread: Iterable[str] = (),
    ):
        super().__init__()
        if taps is None:
            taps, unread = choose_taps(backbone, backbone.pretrained_cfg["input_size"][-1])
        cut_head(backbone, taps)
        self.backbone, self.taps, self.unread = backbone, taps, list(unread)
        self.channels_last = is_channels_last(backbone)
        self.pooled: list[torch.Tensor] | None = None
        for name in [tap for tap in self.taps if tap != END]:
            backbone.get_submodule(name).register_forward_hook(self._pool)
        width = sum(self.taps.values())
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(width, classes)
        self.kernel: KernelRidge | None = None

    def statistics(self, images: torch.Tensor) -> torch.Tensor:
        """Means and deviations, float32 [batch, width], of normalised images [batch, 3, h, w]."""
        if END in self.taps:
            return final_features(self.backbone, images).float()
        self.pooled, self.aspect = [], images.shape[2] / images.shape[3]
        self.backbone.forward_features(images)
        pooled, self.pooled = torch.cat(self.pooled, 1), None
        return pooled

    def from_statistics(self, pooled: torch.Tensor) -> torch.Tensor:
        """Logits float32 [batch, classes]: thousands of products, and half would round each."""
        with torch.autocast(pooled.device.type, enabled=False):
            logits = self.head(self.drop((pooled - self.mean) * self.scale))
            return logits if self.kernel is None else logits + self.kernel(pooled)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.from_statistics(self.statistics(images))

    def get_classifier(self) -> nn.Linear:
        return self.head

    def _load_from_state_dict(self, state: dict[str, torch.Tensor], prefix: str, *how: Any) -> None:
        self.kernel = KernelRidge.room_for(state, f"{prefix}kernel.", self.mean.device)
        super()._load_from_state_dict(state, prefix, *how)

    def _pool(self, block: nn.Module, _: object, out: torch.Tensor) -> None:
        pooled = pool(out, self.channels_last, self.aspect)
        if self.pooled is not None:  # else a checkpoint computes the block again
            self.pooled += pooled


class OwnHead(nn.Module):
    """Backbone, and a head of the user's: `own` makes it of the width and the number of classes.

    It is given the last map float [batch, width, h, w], of a ViT tokens [batch, n, width]. `unread`
    are parameters of which it learns nothing.
    """

    def __init__(
        self,
        backbone: nn.Module,
        own: Callable[..., nn.Module],
        classes: int,
        unread: Iterable[str] = (),
    ):
        super().__init__()
        self.taps, self.unread = {END: backbone.num_features}, list(unread)
        cut_head(backbone, self.taps)
        self.backbone, self.head = backbone, own(backbone.num_features, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.from_last(self.backbone.forward_features(images))

    def from_last(self, last: torch.Tensor) -> torch.Tensor:
        """Logits of what the backbone gives last."""
        maps = last.ndim == 4 and is_channels_last(self.backbone)
        return self.head(last.permute(0, 3, 1, 2) if maps else last)

    def get_classifier(self) -> nn.Module:
        return self.head


def fit_end(
    backbone: nn.Module,
    state: dict[str, torch.Tensor],
    prefix: str = "",
    taps: Iterable[str] = (),
) -> None:
    """Take from a cut backbone and its saved `state` what only one of them has behind the last of
    the `taps`: how many layers timm takes away depends on its version.

    Raises LookupError for a layer before it: without that the net would be another one.
    """
    own = {f"{prefix}{name}": value for name, value in backbone.state_dict().items()}
    read = tuple(f"{prefix}{tap}." if tap else prefix for tap in taps)
    last = max((i for i, name in enumerate(own) if name.startswith(read)), default=-1)
    behind = set([*own][last + 1 :])
    for name in state.keys() - own.keys():
        if name.startswith(prefix) and is_cut(backbone, name.removeprefix(prefix)):
            del state[name]
    for name in own.keys() - state.keys():
        path = name.removeprefix(prefix).rpartition(".")[0]
        parent, _, layer = path.rpartition(".")
        if not path:  # a parameter of the net itself
            state[name] = own[name]
        elif name in behind:
            setattr(backbone.get_submodule(parent), layer, nn.Identity())
        else:
            raise LookupError(f"{name} is missing")


def is_cut(backbone: nn.Module, name: str) -> bool:
    """Whether timm took away a layer that held this tensor: it is None, or does nothing."""
    layer = backbone
    for part in name.split(".")[:-1]:
        if not hasattr(layer, part):
            return False
        layer = getattr(layer, part)
        if layer is None or isinstance(layer, nn.Identity):
            return True
    return False
