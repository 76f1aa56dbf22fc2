"""What of a model trains: layers frozen, for ever or at first, and whose statistics move."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.base.config import Model
from pipeline.model.backbone import layout
from pipeline.model.build import body
from pipeline.model.depthwise import depthwise
from pipeline.model.fused import conv_norm_pairs
from pipeline.model.head import BlockHead, OwnHead


def freeze(model: nn.Module, settings: Model) -> None:
    """Freeze what the settings say: up to a module, or all but the head."""
    if settings.freeze:
        names = set(layout(settings).frozen)
        for name, parameter in body(model).named_parameters():
            if name in names:
                parameter.requires_grad = False
    freeze_always(model, settings)


def freeze_always(model: nn.Module, settings: Model) -> None:
    """Freeze what is never unfrozen."""
    if settings.depthwise == "frozen":
        freeze_depthwise(body(model))  # a head of the user's own is new
    if isinstance(model, BlockHead | OwnHead):
        for name in model.unread:  # they would get no gradient, for which DDP waits
            model.backbone.get_parameter(name).requires_grad = False


def freeze_depthwise(backbone: nn.Module) -> None:
    """Freeze depthwise convolutions and the norms that follow them.

    They find edges and spots, which differ little from task to task, and hold a hundredth of the
    weights; but their gradient is slow: without it lite0 trains 1.5 times as fast (two cores).
    """
    norms = dict(conv_norm_pairs(backbone))
    for conv in depthwise(backbone):
        for layer in [conv, *([norms[conv]] if conv in norms else [])]:
            layer.requires_grad_(False)


def unfreeze(model: nn.Module, settings: Model) -> None:
    """Let all train that `settings.freeze` froze."""
    model.requires_grad_(True)
    freeze_always(model, settings)


def train_mode(model: nn.Module, batchnorm: str) -> None:
    """`model.train()`, but BatchNorm that is frozen keeps its running statistics and uses them.

    That of a head of the user's own has none yet, and trains.
    """
    model.train()
    for module in body(model).modules():
        if isinstance(module, _BatchNorm):
            weights = list(module.parameters())
            if batchnorm == "frozen" or (weights and not weights[0].requires_grad):
                module.eval()


def training_norms(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm that goes by the statistics of the batch, of a model in `train_mode`."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]


def fewest_images(model: nn.Module) -> int:
    """That a model in `train_mode` learns from at once: of one BatchNorm learns nothing."""
    return 2 if training_norms(model) else 1
