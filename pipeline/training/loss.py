"""What training minimises: a loss per row of logits, times the weight of the row's classes.

A row's target is its label, or with `conflicts: soft` the mean label of all images of its pixels.
All of it works on labels, on soft rows (mixed batches, contradictory twins) and on rows of a weight
(pseudo-labels): these are times their weight, which stands behind them, so that to mix rows is to
mix losses. Label smoothing comes last, here and nowhere else: it is linear, so that smoothing a
mixture equals mixing smoothed rows. The validation loss is plain log loss, of numbers the RMSE,
whatever is set here.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.base.cli import UserError, shown
from pipeline.base.config import Experiment, Train
from pipeline.base.forms import Kind, as_array, in_cells
from pipeline.data.mix import as_rows
from pipeline.inference.answers import FORTH, SHARES, Answer

SLOPE = 4.0  # of log odds, over the way from a level to the next


def asymmetric(logits: torch.Tensor, rows: torch.Tensor, reduction: str) -> torch.Tensor:
    """timm's AsymmetricLossMultiLabel (Ridnik et al. 2021), whose versions sum it differently."""
    p = logits.float().sigmoid()
    q = (1.05 - p).clamp(max=1)  # a label that is rightly thought unlikely costs nothing
    loss = rows * p.clamp(min=1e-8).log() + (1 - rows) * q.log()
    return -loss * (1 - p * rows - q * (1 - rows)) ** (4 - 3 * rows)


def focal(logits: torch.Tensor, rows: torch.Tensor, reduction: str) -> torch.Tensor:
    """Cross entropy that fades for what is thought likely already (Lin et al. 2017)."""
    log = logits.float().log_softmax(1)
    return -rows * (1 - log.exp()) ** 2 * log


def cumulative_bce(levels: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Whether a picture is above each cut between two levels (Cao et al. 2020), cuts halfway.

    A number between two levels, as of mixed pictures, is above their cut by its place.
    """
    low, step = levels[:-1], levels.diff()

    def loss(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        above = SLOPE * ((logits - low) / step - 0.5)
        marks = ((rows - low) / step).clamp(0, 1)
        return F.binary_cross_entropy_with_logits(above, marks, reduction="none").sum(1)

    return loss


# of each number of a row of logits and targets
LOSSES = {
    "bce": F.binary_cross_entropy_with_logits,
    "focal": focal,
    "asymmetric": asymmetric,
    "smooth_l1": F.smooth_l1_loss,
    "mse": F.mse_loss,
}


def make_loss(
    settings: Experiment,
    targets: np.ndarray,
    classes: int,
    device: torch.device,
    answer: Answer = SHARES,
) -> "Loss":
    """The experiment's, weighted by its training `targets`, and tried on rows like them."""
    own = settings.own("loss").get(settings.train.loss)
    if settings.train.loss == "cumulative_bce" and not own:
        levels = torch.arange(answer.low[0], answer.high[0] + 1, device=device)
        own = cumulative_bce((levels - answer.mean[0]) / answer.std[0])
    rows = targets if targets.ndim == 1 else targets[:, :classes]
    loss = Loss(settings.train, class_weights(settings.train, rows, classes), own).to(device)
    logits = torch.zeros(2, classes, device=device, requires_grad=True)
    loss.try_on(logits, weighted=rows.shape != targets.shape)
    return loss


class Loss(nn.Module):
    """Mean over a batch of weight × loss; `class_weights` is float32 [classes], None: all 1.

    cross_entropy: PyTorch's. bce: one yes-or-no question per class, summed, which spares the
    softmax its race between classes (Wightman et al. 2021, ResNet strikes back). asymmetric: bce
    that is led by the labels that are there. smooth_l1 and mse: PyTorch's, of numbers, summed.

    Where a picture is of one class, prediction is a softmax after any of them. After bce that is
    right too: of independent yes-or-no answers with odds exp(logit), given that exactly one is yes,
    class c has p = softmax(logits)c.
    """

    def __init__(
        self,
        settings: Train,
        class_weights: torch.Tensor | None = None,
        own: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ):
        super().__init__()
        self.own = own
        self.kind, self.smoothing = settings.loss, settings.label_smoothing
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits float [batch, classes]; target int64 [batch], or rows [batch, classes], or rows
        with their weights [batch, classes + 1]."""
        weight = None
        if target.ndim == 2 and target.shape[1] > logits.shape[1]:
            target, weight = target[:, :-1] / target[:, -1:], target[:, -1]
        loss = self.per_row(logits, target)
        if self.class_weights is not None:
            loss = loss * row_weights(target, self.class_weights)
        return (loss if weight is None else loss * weight).mean()

    def try_on(self, logits: torch.Tensor, weighted: bool = False) -> None:
        """The user's `own` loss once, before hours go by. Raises UserError for what is no loss."""
        if self.own:
            found = self.per_row(logits, torch.ones_like(logits) / logits.shape[1])
            made = getattr(found, "shape", type(found).__name__)
            weighted = weighted or self.class_weights is not None
            if made not in ((), (len(logits),)) or (made == () and weighted):
                wanted = "a number a row" + ", or their mean" * (not weighted)
                text = f"{self.kind} gives {shown(made)} for {len(logits)} rows, not {wanted}"
                raise UserError(f"train.loss: {text}")

    def per_row(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Unweighted loss, float [batch]; of the user's `own` function a mean [] as well."""
        if self.kind == "cross_entropy":
            smoothing = self.smoothing
            return F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        rows = as_rows(target, logits.shape[1], self.smoothing)
        if self.own:
            return self.own(logits.float(), rows)
        # the sum, not timm's mean: its size does not shrink with the number of classes
        return LOSSES[self.kind](logits, rows, reduction="none").sum(1)


def row_weights(target: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Weight of each row, float [batch]: its class's, or the mean over its soft target."""
    if target.ndim == 1:
        return class_weights[target]
    return (target * class_weights).sum(1)


def class_weights(settings: Train, targets: np.ndarray, classes: int) -> torch.Tensor | None:
    """Weights float32 [classes] whose mean over the training images is 1; None: no weighting.

    `targets` is int [n] or rows [n, classes] of the training images. inverse: 1 / images of the
    class. The sampler changes nothing here: with both, rare classes gain twice.
    """
    if settings.class_weights == "none":
        return None
    counts = np.bincount(targets, minlength=classes) if targets.ndim == 1 else targets.sum(0)
    counts = counts.astype(np.float64)
    return torch.from_numpy(counts.sum() / (len(counts) * counts)).float()


def settled(settings: Train, train: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """The training part of a fold (target, hash) after `conflicts: drop` or `majority`.

    A tie has no majority: its pictures stay as they are. Raises UserError where a class would be
    left without a picture.
    """
    how, labels = settings.conflicts, train.groupby("hash").target
    if how not in ("drop", "majority"):
        return train
    if how == "drop":
        kept, way = train[labels.transform("nunique") == 1], "soft or majority"
    else:
        kept, way = train.assign(target=labels.transform(majority)), "soft or keep"
    if gone := sorted(set(train.target) - set(kept.target)):
        text = f"{how} leaves no training picture of {shown(classes[gone[0]])}"
        raise UserError(f"train.conflicts: {text}; take {way}")
    return kept


def majority(labels: pd.Series) -> pd.Series:
    """The label of most of a few pictures; theirs, where no label is that of most."""
    first = labels.mode()
    return labels if len(first) > 1 else pd.Series(first[0], labels.index)


def training_targets(settings: Train, train: pd.DataFrame, classes: int) -> np.ndarray:
    """int64 [n] labels, or a form's rows [n, classes]; with `conflicts: soft` float32 rows.

    `train` is the training part of a fold (target, hash).
    """
    labels = as_array(train.target)
    if settings.conflicts != "soft":
        return labels
    rows = np.eye(classes, dtype=np.float32)[labels] if labels.ndim == 1 else labels
    return twin_rows(rows.astype(np.float32), train.hash.to_numpy())


def standardised_targets(
    train: pd.DataFrame, kind: Kind, transform: str = "none"
) -> tuple[pd.DataFrame, Answer]:
    """The training part of a fold with numbers transformed to mean 0 and deviation 1, and what
    undoes it."""
    if kind != "numbers":
        return train, Answer(kind)
    values = FORTH[transform](as_array(train.target))
    mean, std = values.mean(0), values.std(0)
    std[std == 0] = 1
    facts = [fact.tolist() for fact in (mean, std, values.min(0), values.max(0))]
    answer = Answer(kind, *facts, transform)
    rows = [tuple(row) for row in answer.taught(as_array(train.target)).tolist()]
    return train.assign(target=in_cells(rows, train.target)), answer


def twin_rows(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Each row becomes the mean row of all images with the same pixels.

    Equal pixels, not equal groups: pictures of one patient may well have different labels.
    Twins never straddle folds, so that held-out labels take no part.
    """
    _, group = np.unique(hashes, return_inverse=True)
    sums = np.zeros((group.max() + 1, rows.shape[1]), dtype=np.float32)
    np.add.at(sums, group, rows)
    return (sums / np.bincount(group)[:, None]).astype(np.float32)[group]
