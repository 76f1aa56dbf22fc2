"""Which places of a picture speak for a class: class activation maps of any backbone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from pipeline.base.cli import UserError
from pipeline.inference.predictor import Predictor
from pipeline.model.build import body, head_logits
from pipeline.model.head import BlockHead, OwnHead
from pipeline.model.pooling import is_channels_last, pool, with_channels_last
from pipeline.model.taps import END, watched


def attention(
    predictor: Predictor, images: torch.Tensor, targets: Sequence[int] | torch.Tensor
) -> np.ndarray:
    """How much each place speaks for a class, float32 [batch, height, width] in 0..1.

    `images` [batch, 3, height, width] are normalised, as `predictor.batches` gives them; `targets`
    are indices of classes, one a picture. What a head reads at a place speaks for the class as
    gradient times activation (HiResCAM, Draelos & Carin 2020; of a mean that is Grad-CAM, Selvaraju
    et al. 2017): of the class's score over the mean score, of the activation over the picture's
    mean. The mean place of a picture and what is less has 0, the largest 1.
    The model stays as it is. Raises UserError for a backbone without a map of places.
    """
    model, net = predictor.model, body(predictor.model)
    by_blocks = isinstance(model, BlockHead) and END not in model.taps
    read = read_blocks if by_blocks else read_last
    with torch.inference_mode(False), torch.enable_grad():
        logits, maps = read(model, images.clone())
        target = torch.as_tensor(targets, device=logits.device).long()[:, None]
        others = logits.mean(1) if logits.shape[1] > 1 else 0  # of one number there are none
        score = (logits.gather(1, target)[:, 0] - others).sum()
        slopes = torch.autograd.grad(score, maps)
    cam, aspect = torch.zeros_like(images[:, :1]), images.shape[2] / images.shape[3]
    for x, slope in zip(maps, slopes, strict=True):
        x, slope = (on_grid(one.detach().float(), net, aspect) for one in (x, slope))
        share = (slope * (x - x.mean((1, 2), keepdim=True))).sum(3)[:, None]
        per_area = share * share[0].numel()  # a place of a fine map is small
        cam += interpolate(per_area, images.shape[2:], mode="bilinear", align_corners=False)
    blur = images.shape[2] // 32  # px each way: the first blocks' edges as regions
    cam = avg_pool2d(cam, 2 * blur + 1, 1, blur, count_include_pad=False)[:, 0]
    cam = (cam - cam.mean((1, 2), keepdim=True)).clamp(min=0)
    return (cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-20)).cpu().numpy()


def read_blocks(model: BlockHead, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and what the head reads: slopes are those of its reading, not of later blocks'."""
    with torch.no_grad(), watched(model.backbone, model.taps) as seen:
        model.statistics(images)
    maps = [out.requires_grad_() for _, out in seen]
    pooled = [part for x in maps for part in pool(x, model.channels_last, model.aspect)]
    return model.from_statistics(torch.cat(pooled, 1)), maps


def read_last(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and what the last layer gives; where timm's head reads the class token alone of that,
    the normed tokens that it looked at in the last block. Raises UserError for several branches.
    """
    net = body(model)
    by_class_token = getattr(net, "global_pool", "") == "token"
    names = [f"blocks.{len(net.blocks) - 1}.norm1"] if by_class_token else []
    with watched(net, names) as seen:
        features = net.forward_features(images.requires_grad_())  # a frozen net has slopes, too
    if not isinstance(features, torch.Tensor):
        raise UserError(f"a {type(net).__name__} has no map of places, but several")
    if isinstance(model, OwnHead):
        return model.from_last(features), [features]
    inputs = net.forward_head(features, pre_logits=True)
    return head_logits(model, inputs), [out for _, out in seen] or [features]


def on_grid(x: torch.Tensor, net: nn.Module, aspect: float = 1.0) -> torch.Tensor:
    """[batch, h, w, channels] of maps of either layout, or of tokens without class and registers.

    Raises UserError for tokens that stand on no grid of the pictures' `aspect`.
    """
    if x.ndim == 4:
        return with_channels_last(x, is_channels_last(net), aspect)
    tokens = x[:, getattr(net, "num_prefix_tokens", 0) :]
    high = round((tokens.shape[1] * aspect) ** 0.5)
    wide = round(high / aspect)
    if x.ndim != 3 or high * wide != tokens.shape[1]:
        raise UserError(f"a {type(net).__name__} has no map of places: {tuple(x.shape)}")
    return tokens.unflatten(1, (high, wide))
