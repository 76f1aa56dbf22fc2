"""Which modules of a backbone a head reads: its blocks, as timm groups its layers."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from os.path import commonpath
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn
from torch.utils._pytree import tree_leaves

from pipeline.base.cli import UserError, short
from pipeline.base.settings import sides
from pipeline.model.pooling import is_channels_last, pool

MAX_WIDTH = 8192  # numbers that a head reads; a backbone of more is read once a stage
END = ""  # a tap: the final features of a net whose blocks cannot be read
# what a model raises that is asked for what it cannot do
FOREIGN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def classifier(model: nn.Module) -> nn.Module:
    """Its last layer, or layers: a distilled DeiT has two."""
    head = model.get_classifier()
    return nn.ModuleList(head) if isinstance(head, tuple | list) else head


def cut_head(backbone: nn.Module, taps: Collection[str] = ()) -> None:
    """Take away what follows the last that is read, as far as this version of timm can."""
    old = taps and not hasattr(backbone, "prune_intermediate_layers")  # read under a newer timm
    if END in taps or old:
        backbone.reset_classifier(0)
    else:
        backbone.prune_intermediate_layers(1, prune_head=True)


def windows(model: nn.Module) -> list[Any]:
    """Of a Swin or MaxViT, which timm scales with the pictures."""
    found = (
        getattr(module, "window_size", getattr(module, "partition_size", None))
        for module in model.modules()
    )
    return [window for window in found if window]


def final_features(backbone: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What timm's own classifier would be given, [batch, width]."""
    return backbone.forward_head(backbone.forward_features(images), pre_logits=True)


def choose_taps(backbone: nn.Module, size: int | Sequence[int]) -> tuple[dict[str, int], list[str]]:
    """The modules a head shall read, with their numbers, and parameters that none of them needs.

    Tried with one picture of `size` px; on the meta device that costs nothing.
    Raises UserError for a backbone whose blocks timm does not name, or that cannot be read.
    """
    try:
        cut_head(backbone)
        fine, coarse = (blocks(backbone, by_stage) for by_stage in (False, True))
        read = read_blocks(backbone.eval(), {*fine, *coarse}, size)
        widths = {name: 2 * mean.shape[1] for name, (mean, _) in read.items()}
        found = ({n: w for n, w in widths.items() if n in of} for of in (fine, coarse))
        taps = within_most(*map(without_copies, found))
        unread = without_slope(backbone, [part for name in taps for part in read[name]])
    except FOREIGN as error:
        kind, reason = type(backbone).__name__, short(error, 99)
        raise UserError(f"the blocks of a {kind} cannot be read ({reason})") from None
    return taps, unread


def final_tap(backbone: nn.Module, size: int | Sequence[int]) -> tuple[dict[str, int], list[str]]:
    """As `choose_taps`, for a backbone whose blocks cannot be read: its final features are."""
    cut_head(backbone, [END])
    device = next(backbone.parameters()).device
    features = final_features(backbone.eval(), torch.zeros(1, 3, *sides(size), device=device))
    return {END: features.shape[1]}, without_slope(backbone, [features])


def behind_last_map(backbone: nn.Module, size: int | Sequence[int]) -> list[str]:
    """Parameters between the last map, which a head of the user's own reads, and timm's own."""
    cut_head(backbone, [END])
    device = next(backbone.parameters()).device
    maps = backbone.eval().forward_features(torch.zeros(1, 3, *sides(size), device=device))
    if not isinstance(maps, torch.Tensor):  # CrossViT: one for each of its branches
        kind = type(backbone).__name__
        raise UserError(f"model.classifier: a {kind} has several last maps; set it to linear")
    return without_slope(backbone, [maps])


def without_slope(backbone: nn.Module, read: Iterable[torch.Tensor]) -> list[str]:
    """Names of the parameters on which nothing that is `read` depends."""
    parameters = dict(backbone.named_parameters())
    total = sum(part.sum() for part in read)
    slopes = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return [name for name, slope in zip(parameters, slopes, strict=True) if slope is None]


def names_but_head(backbone: nn.Module) -> list[str]:
    """Names of the parameters of all but its classifier."""
    head = set(classifier(backbone).parameters())
    return [name for name, parameter in backbone.named_parameters() if parameter not in head]


def names_up_to(backbone: nn.Module, last: str, size: int | Sequence[int]) -> list[str]:
    """Names of the parameters of the module `last` and of all on which it depends.

    These are not those listed before it: Twins lists the patch embeddings of all stages first.
    Raises UserError for a module that the backbone does not have, or only in its classifier.
    """
    head, read = set(classifier(backbone).modules()), []

    def hear(module: nn.Module, given: object, out: object) -> None:
        parts = [part for part in tree_leaves(out) if isinstance(part, torch.Tensor)]
        read.extend(part.sum() for part in parts if part.requires_grad)  # before any in-place step

    for name, module in backbone.named_modules():
        if f"{name}.".startswith(f"{last}.") and module not in head:
            module.register_forward_hook(hear)
    with torch.enable_grad():
        backbone.eval()(torch.zeros(1, 3, *sides(size), device=next(backbone.parameters()).device))
    if not read:
        tops = [name for name, module in backbone.named_children() if module not in head]
        raise UserError(f"model.freeze: no module {last!r}; try backbone or one of {tops}")
    free = set(without_slope(backbone, read))
    names = [name for name, _ in backbone.named_parameters()]
    return [name for name in names if name not in free or name.startswith(f"{last}.")]


def without_copies(widths: dict[str, int]) -> dict[str, int]:
    """Without modules whose output is that of the last one in them: stages that end in a block."""
    kept = {}
    for name, width in widths.items():
        inside = [w for other, w in widths.items() if other.startswith(f"{name}.")]
        if not (inside and inside[-1] == width):
            kept[name] = width
    return kept


def within_most(fine: dict[str, int], coarse: dict[str, int]) -> dict[str, int]:
    """All blocks if they give at most MAX_WIDTH numbers, else the stages, from the last on those
    that fit.

    Of a net without stages every k-th block, with the smallest k that fits. The last is always
    read.
    """
    if sum(fine.values()) <= MAX_WIDTH:
        return fine
    names, taps = list(fine), {}
    if coarse != fine:
        for name in reversed(coarse):
            if not taps or sum(taps.values()) + coarse[name] <= MAX_WIDTH:
                taps = {name: coarse[name], **taps}
        return taps
    for step in range(2, len(names) + 1):
        taps = {name: fine[name] for name in names[(len(names) - 1) % step :: step]}
        if sum(taps.values()) <= MAX_WIDTH:
            break
    return taps


def read_blocks(
    backbone: nn.Module, names: Iterable[str], size: int | Sequence[int]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What a head would read of these modules, in the order they run; without those that do not."""
    channels_last, (height, width) = is_channels_last(backbone), sides(size)
    device = next(backbone.parameters()).device
    read = partial(pool, channels_last=channels_last, aspect=height / width)
    with torch.enable_grad(), watched(backbone, names, read) as seen:
        backbone.forward_features(torch.zeros(1, 3, height, width, device=device))
    return dict(seen)


@contextmanager
def watched(
    net: nn.Module, names: Iterable[str], read: Callable[[Any], Any] = lambda out: out
) -> Iterator[list[tuple[str, Any]]]:
    """What is `read` of each module's output, in the order they run; before any in-place step."""
    seen: list[tuple[str, Any]] = []
    hooks = [
        net.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: seen.append((name, read(out)))
        )
        for name in names
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def blocks(backbone: nn.Module, by_stage: bool) -> list[str]:
    """Modules that are one block, or one stage, of a timm model, as it groups its layers."""
    groups = group_parameters(backbone, matcher(backbone, by_stage))
    owners = [[name.rpartition(".")[0] for name in names] for names in groups.values()]
    if not shared_name(owners[-1]):  # the last block and the final norm, which timm counts to it
        numbers = [match[0] for name in owners[-1] if (match := re.match(r".*?\.\d+(\.|$)", name))]
        most = max(numbers, key=numbers.count, default="")
        owners[-1] = [name for name in owners[-1] if f"{name}.".startswith(most)]
    names = (runs(backbone, shared_name(each)) for each in owners)
    return [name for name in dict.fromkeys(names) if name]


def matcher(backbone: nn.Module, by_stage: bool) -> dict[str, Any]:
    """How to group the layers: timm's way, or ours for nets for which it has none."""
    try:
        return backbone.group_matcher(coarse=by_stage)
    except AttributeError:  # MetaFormers
        fine = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if by_stage else fine}
    except AssertionError:  # RDNet
        return backbone.group_matcher(coarse=False)


def runs(backbone: nn.Module, name: str) -> str:
    """The module itself, or the one around a list, which is never called and gives nothing."""
    while name and isinstance(backbone.get_submodule(name), nn.ModuleList):
        name = name.rpartition(".")[0]
    return name


def shared_name(modules: list[str]) -> str:
    """Of the module that holds all of these; "" where only the whole net does."""
    return commonpath([f"/{name.replace('.', '/')}" for name in modules])[1:].replace("/", ".")
