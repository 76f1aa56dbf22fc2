"""What a head's numbers (logits) mean: shares of classes, chances of labels, or values."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.base.forms import Kind

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Answer:
    """Turns logits [n, classes] into predictions of the same shape.

    A head of numbers is taught them transformed and standardised: `mean` and `std` of each
    column, of the training part of its fold. `low` and `high` are those that it was taught, and
    beyond them it answers nothing: what it extrapolates, an exponential would blow up.
    """

    kind: Kind = "shares"
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    transform: str = "none"

    def __call__(self, logits: "torch.Tensor") -> "torch.Tensor":
        if self.kind == "numbers":
            values = logits * logits.new_tensor(self.std) + logits.new_tensor(self.mean)
            if self.low:
                values = values.clamp(logits.new_tensor(self.low), logits.new_tensor(self.high))
            return BACK[self.transform](values)
        return logits.softmax(1) if self.kind == "shares" else logits.sigmoid()

    def taught(self, values: np.ndarray) -> np.ndarray:
        """What a head is taught of numbers [n, columns]; to call this turns it back."""
        return (FORTH[self.transform](values) - self.mean) / self.std

    @property
    def fact(self) -> dict[str, Any]:
        """For the record of a model; nothing of shares."""
        return {} if self.kind == "shares" else {"answer": vars(self)}


SHARES = Answer()
FORTH = {"none": np.asarray, "log1p": np.log1p, "sqrt": np.sqrt}
BACK = {"none": lambda x: x, "log1p": lambda x: x.expm1(), "sqrt": lambda x: x * x}
