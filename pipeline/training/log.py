"""The log of a fold: a row per epoch, and the line that tells it."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.base.cli import say
from pipeline.base.competition import load_competition
from pipeline.base.forms import as_array
from pipeline.data.studies import by_id
from pipeline.inference.metrics import METRICS, sign_of

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

Row = dict[str, float | None]
COLUMNS = ["epoch", "lr", "train_loss", "valid_loss", "valid_score", "images_per_s", "seconds"]


def make_row(
    trainer: "Trainer",
    prob: np.ndarray,
    started: float,
    loss: float | None = None,
    rate: float | None = None,
) -> Row:
    """A row of the log; the head's start has neither training loss nor images/s, and where all
    images are trained on there is no score."""
    (target, prob), group = as_scored(trainer, prob), trainer.optimizer.param_groups[0]
    loss_name = "rmse" if trainer.answer.kind == "numbers" else "log_loss"
    known = {"valid_loss": loss_name, "valid_score": trainer.metric} if len(target) else {}
    scores = {name: round(METRICS[how](target, prob), 5) for name, how in known.items()}
    return {
        "epoch": trainer.epoch,
        "lr": float(f"{group['lr'] / group['lr_scale']:.4g}"),
        "train_loss": loss and round(loss, 5),
        "valid_loss": scores.get("valid_loss"),
        "valid_score": scores.get("valid_score"),
        "images_per_s": rate and round(rate, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def as_scored(trainer: "Trainer", prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets of the held-out pictures and their answers; of an id's several pictures one."""
    valid, target = trainer.valid, as_array(trainer.valid.target)
    if "study" not in valid:
        return target, prob
    rules = load_competition(trainer.settings.competition)
    return target[~valid.study.duplicated()], by_id(list(valid.study), prob, rules)[1]


def training_lost(
    starts: Sequence[float], ends: Sequence[float], metric: str, pictures: int
) -> str:
    """What to say of training after which a head scores worse than when it started, or nothing.

    `starts` and `ends` are the scores of some folds before the first and after the last epoch, on
    so many held-out `pictures` in all.
    """
    start, end = np.mean(starts), np.mean(ends)
    if not sign_of(metric) * (end - start) < 0:  # NaN too
        return ""
    text = f"the head scored {start:.4f} before training and {end:.4f} after it"
    if metric == "accuracy" and start - end < (error := (end * (1 - end) / pictures) ** 0.5):
        return f"{text}: within a standard error, {error:.4f}"
    remedy = "set train.epochs: 0, lower train.lr, or freeze more of the backbone (model.freeze)"
    return f"warning: {text}: {remedy}"


def tell(trainer: "Trainer", start: str = "") -> None:
    """Print the last row of the log; `start` says how the head began, before the first epoch."""
    row = trainer.log[-1]
    found = {"loss": row["train_loss"], "valid loss": row["valid_loss"]}
    losses = [f"{name} {value:.3f}" for name, value in found.items() if value is not None]
    epoch = "head" if start else f"epoch {row['epoch']}/{trainer.settings.train.epochs}"
    end = start or f"{row['images_per_s']:.0f} images/s"
    known = row["valid_score"] is not None
    score = f"{trainer.metric} {row['valid_score']:.4f}" if known else "all pictures are trained on"
    parts = [f"fold {trainer.fold}", epoch, *losses, score, end, f"{row['seconds']:.0f} s"]
    say("train", "  ".join(parts))
