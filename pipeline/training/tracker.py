"""The rows of a fold's log for TensorBoard or W&B, where runtime.tracker asks for it."""

from pathlib import Path
from typing import Any

from pipeline.base import records
from pipeline.base.config import Experiment
from pipeline.training.log import Row


class Tracker:
    """Sends each row of the log once. Raises what its kind does without a key or a network."""

    def __init__(self, settings: Experiment, fold: int, folder: Path, log: list[Row]):
        begin = {"tensorboard": tensorboard, "wandb": wandb}[settings.runtime.tracker]
        self.log, self.sent = log, len(log)  # what was there before a resume was sent then
        self.writer = begin(settings, fold, folder)

    def __call__(self, done: bool) -> None:
        for row in self.log[self.sent :]:
            self.writer.log({name: value for name, value in row.items() if value is not None})
        self.sent = len(self.log)
        if done:
            self.writer.finish()


def wandb(settings: Experiment, fold: int, folder: Path) -> Any:
    """A run of W&B a fold, grouped by experiment; a resumed fold goes on in its own."""
    import wandb  # late: optional

    return wandb.init(
        project=settings.competition_name,
        group=settings.name,
        name=f"{settings.name} fold {fold}",
        id=records.digest([settings.name, fold, settings.key()]),
        resume="allow",
        config=settings.key(),
        dir=str(folder),
    )


def tensorboard(settings: Experiment, fold: int, folder: Path) -> Any:
    """Events in the fold's folder: tensorboard --logdir runs/NAME shows all folds."""
    from torch.utils.tensorboard import SummaryWriter  # late: optional

    return Events(SummaryWriter(str(folder)))


class Events:
    """TensorBoard's writer by the names of W&B's."""

    def __init__(self, writer: Any):
        self.writer, self.finish = writer, writer.close

    def log(self, row: Row) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()
