"""What a head's linear layer cannot say: how near a picture is to each of those of training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class KernelRidge(nn.Module):
    """Kernel ridge regression with Gaussians around training pictures (Saunders et al. 1998).

    Nothing of it is trained. What the head reads of a picture [width] is projected by `basis`
    [width, dims], less `shift` [dims]; a Gaussian of its distance to each of the `centres`
    [n, dims], times `weight` [n, classes], is added to the logits.
    """

    PARTS = ("basis", "shift", "centres", "weight")

    def __init__(
        self, basis: torch.Tensor, shift: torch.Tensor, centres: torch.Tensor, weight: torch.Tensor
    ):
        super().__init__()
        for name, tensor in zip(self.PARTS, (basis, shift, centres, weight), strict=True):
            self.register_buffer(name, tensor.contiguous())  # what NCCL broadcasts

    @classmethod
    def room_for(
        cls, state: dict[str, torch.Tensor], prefix: str, device: torch.device
    ) -> "KernelRidge | None":
        """One that can be given a state dict's tensors of this `prefix`, if there are any."""
        if f"{prefix}weight" not in state:
            return None
        return cls(*(torch.empty_like(state[prefix + n], device=device) for n in cls.PARTS))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        with in_float32():
            return gaussian(pooled @ self.basis - self.shift, self.centres) @ self.weight


@contextmanager
def in_float32() -> Iterator[None]:
    """Without TF32, which keeps 10 bits of what a GPU from Ampere on multiplies.

    Weights of 60 and more cancel to an answer between 0 and 1: by TF32 a fold of leaf99-binary fell
    from .931 to .899, its log loss rose from .21 to .44 (H200).
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def gaussian(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """exp(-d²) [len(points), len(centres)] of their distances d."""
    squares = (points * points).sum(1, keepdim=True) + (centres * centres).sum(1)
    distances = torch.addmm(squares, points, centres.T, alpha=-2)
    return distances.clamp_(min=0).neg_().exp_()  # in place, in half the time
