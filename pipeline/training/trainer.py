"""The training loop of one fold: epochs that resume weight for weight."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.base import records
from pipeline.base.cli import UserError, say
from pipeline.base.config import Experiment
from pipeline.base.deadline import Deadline
from pipeline.base.device import make_accelerator, workers
from pipeline.base.progress import Progress
from pipeline.data.augment import Augment
from pipeline.data.images import Pixels
from pipeline.data.loader import Batch, EpochBatches, Pictures, derive_seed, grouped, make_loader
from pipeline.data.mix import Mixer
from pipeline.data.sampler import make_sampler
from pipeline.inference.features import moves_batchnorm, probabilities_without_training
from pipeline.inference.predictor import Normalise, predict_probabilities
from pipeline.model.backbone import layout
from pipeline.model.build import arranged, build_model, parameter_groups, preprocessing
from pipeline.model.freeze import freeze, settle_batchnorm, thaw, train_mode
from pipeline.training import distributed
from pipeline.training.head_init import reads_features, start_head
from pipeline.training.log import Row, describe, make_row, write_log
from pipeline.training.loss import Loss, class_weights
from pipeline.training.optim import make_ema, make_schedule, warm_up_thawed


class Trainer:
    """Model, optimizer, schedule and data of one fold; `state()` and `resume()` hold it all.

    Randomness of an epoch comes from (seed, fold, epoch) only, so nothing else need be saved.
    """

    def __init__(
        self,
        settings: Experiment,
        fold: int,
        classes: list[str],
        pixels: Pixels,
        train: pd.DataFrame,
        valid: pd.DataFrame,
        metric: str,
        targets: np.ndarray,  # of the training images: int [n] or rows [n, classes]
    ):
        self.settings, self.fold, self.metric, self.classes = settings, fold, metric, len(classes)
        self.pixels, self.valid = pixels, valid
        self.seed = derive_seed(settings.train.seed, "fold", fold)
        self.thaws = settings.model.freeze_epochs
        self.accelerator = make_accelerator(settings.runtime, distributed.options(self.thaws))
        torch.manual_seed(self.seed)  # the random head
        model = build_model(settings.model, classes, fold)
        if settings.model.batchnorm == "train":
            model = distributed.shared_batchnorm(model)
        model = arranged(model, settings.runtime, settings.model.size, self.accelerator.device)
        if settings.runtime.compile:
            model.compile()
        self.preprocessing = preprocessing(model, settings.model)
        draw = make_sampler(settings.train, train.target.to_numpy(), self.seed)
        self.batches = EpochBatches(len(train), settings.train.batch_size, self.seed, draw)
        self.rows, self.labels = train.row.to_numpy(), train.target.to_numpy()
        self.loader = self._train_loader(self.rows, targets)
        self.epoch_steps = math.ceil(len(self.batches) / settings.train.accumulate)
        self.steps = settings.train.epochs * self.epoch_steps
        groups = parameter_groups(model, settings.train)
        optimizer = torch.optim.AdamW(groups, lr=settings.train.lr, fused=True)
        if not self.thaws:
            freeze(model, settings.model)
        self.schedule = make_schedule(optimizer, settings.train, self.steps)
        self.ema = make_ema(model, settings.train, self.steps)  # a copy: before it is wrapped
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.thaws:  # DDP takes on no parameter later
            freeze(model, settings.model)
        self.mixer = Mixer(settings.mix, len(classes), settings.train.epochs)
        weights = class_weights(settings.train, targets, len(classes))
        self.loss = Loss(settings.train, weights).to(self.accelerator.device)
        self.normalise = Normalise(self.preprocessing, self.accelerator.device)
        self.epoch, self.log = 0, []

    def run(self, last: Path, deadline: Deadline) -> None:
        """Train the epochs that are left; after each, `last` holds everything to go on from.

        It ends before one that may end after the deadline; the first one here is always made.
        """
        if self.epoch == 0:
            self.start_head()
            if self.accelerator.is_main_process:
                write_log(self.log, last.with_name("log.csv"))
        while self.epoch < self.settings.train.epochs:
            started = time.monotonic()
            loss, rate = self.train_epoch()
            prob = self.predict_valid(f"{self.label()} valid")
            self.refuse_lost(float(prob.sum()), "the sum of held-out probabilities")
            self.epoch += 1
            row = self.note(prob, started, loss=loss, rate=rate)
            if self.accelerator.is_main_process:
                with records.writing(last) as tmp, tmp.open("wb") as file:
                    torch.save(self.state(), file)  # to a name, a full disk is a RuntimeError
                write_log(self.log, last.with_name("log.csv"))
            self.tell(row)
            if not distributed.of_rank_0(deadline.fits(time.monotonic() - started)):
                return

    def start_head(self) -> None:
        """The head's first weights from one forward pass, judged in a log row of epoch 0."""
        started, model = time.monotonic(), self.accelerator.unwrap_model(self.model)
        pictures = (self.preprocessing, self.rows, self.labels, self.accelerator, self.seed)
        if moves_batchnorm(self.settings) and reads_features(self.settings.model):
            self.set_mode()
            settle_batchnorm(model, (self.normalise(pixels) for pixels, _ in self.loader))
        start = partial(start_head, model, self.settings, *pictures)
        words = distributed.by_rank_0(start, model, self.accelerator)
        if words is None:
            return
        if self.ema:
            self.ema.module.load_state_dict(model.state_dict())
        prob = self.predict_valid(f"fold {self.fold}  head valid", untrained=True)
        self.tell(self.note(prob, started), words)

    def train_epoch(self) -> tuple[float, float]:
        """One pass; returns the mean loss and images/s. Raises UserError when the loss is NaN."""
        seed = distributed.own_seed(derive_seed(self.seed, "epoch", self.epoch), self.accelerator)
        torch.manual_seed(seed)  # dropout, drop path
        np.random.seed(seed)  # mixing
        self.batches.epoch = self.mixer.epoch = self.epoch
        self.set_mode()
        each = self.settings.train.accumulate
        groups = zip(grouped(self.loader, each), grouped(self.batches.sizes, each), strict=True)
        started = time.monotonic()
        total, images = torch.zeros((), device=self.accelerator.device), 0
        with Progress(self.label(), self.batches.n, "images") as progress:
            for number, (group, sizes) in enumerate(groups):
                done = self.epoch * self.epoch_steps + number
                self.schedule.step_update(done)
                if self.thaws and self.epoch >= self.thaws:
                    since = done - self.thaws * self.epoch_steps
                    warm_up_thawed(self.optimizer, self.settings.train, self.steps, since)
                size = sum(sizes)
                total += self.step(group, size) * size  # no .item(): no waiting
                if self.ema:
                    self.ema.update(self.model, step=done)  # without a step it would not warm up
                images += size
                progress.advance(size)
        distributed.align(self.model, self.ema)
        loss = self.accelerator.reduce(total, "sum").item() / images
        self.refuse_lost(loss, "the loss")
        return loss, images / (time.monotonic() - started)

    def refuse_lost(self, value: float, name: str) -> None:
        """Raise UserError for weights that are lost: the last epoch's lie in the file still."""
        if not math.isfinite(value):
            remedy = "lower train.lr, or set train.clip_grad or runtime.precision: no"
            raise UserError(f"{self.label()}: {name} is {value}: {remedy}")

    def set_mode(self) -> None:
        """Training mode, with layers thawed when their time has come."""
        if self.thaws and self.epoch >= self.thaws:
            thaw(self.accelerator.unwrap_model(self.model), self.settings.model)
        train_mode(self.accelerator.unwrap_model(self.model), self.settings.model.batchnorm)

    def step(self, group: list[Batch], size: int) -> torch.Tensor:
        """One step down the mean loss of all ranks' `size` images; returns this rank's share."""
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.accelerator.device)
        for pixels, target in group:
            images = self.normalise(pixels)
            target = target.to(images.device, non_blocking=True)
            images, target = self.mixer(images, target)
            logits = self.model(images)  # Accelerate wraps it in autocast
            loss = self.loss(logits, target) * (len(pixels) / size)
            self.accelerator.backward(loss * self.accelerator.num_processes)  # DDP takes the mean
            total += loss.detach()
        if self.settings.train.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.train.clip_grad)
        self.optimizer.step()
        return total

    def predict_valid(self, label: str, untrained: bool = False) -> np.ndarray:
        """Plain probabilities of the held-out images with the weights that would be saved."""
        model, where = self.final_model(), self.preprocessing
        how = {"tta": "none", "accelerator": self.accelerator}
        if untrained and reads_features(self.settings.model):  # they are kept: no second pass
            known = (model, self.settings, where, "train")
            predict = partial(probabilities_without_training, *known, **how)
        else:
            how |= {"preprocessing": where, "runtime": self.settings.runtime, "label": label}
            predict = partial(predict_probabilities, model, self.pixels, **how)
        rows = self.valid.row.to_numpy()
        return distributed.predict_together(predict, rows, self.classes, self.accelerator)

    def final_model(self) -> nn.Module:
        return self.ema.module if self.ema else self.accelerator.unwrap_model(self.model)

    def note(self, prob: np.ndarray, started: float, **trained: float) -> Row:
        """Append a row to the log: the state that is saved next holds it."""
        target, group = self.valid.target.to_numpy(), self.optimizer.param_groups[0]
        lr = float(f"{group['lr'] / group['lr_scale']:.4g}")
        self.log.append(make_row(self.epoch, lr, target, prob, self.metric, started, **trained))
        return self.log[-1]

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "log": self.log,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.epoch, self.log = state["epoch"], state["log"]
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler and state["scaler"]:  # bench may have changed the precision
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def facts(self) -> dict[str, Any]:
        """What the record of the finished model tells of its training."""
        return {
            "preprocessing": self.preprocessing,
            "metric": self.metric,
            "start": self.log[0]["valid_score"] if self.log[0]["epoch"] == 0 else None,
            "scores": self.log[-1],
            "images": {"train": len(self.rows), "valid": len(self.valid)},
            "precision": self.accelerator.mixed_precision,
            "ranks": self.accelerator.num_processes,
            "taps": getattr(self.accelerator.unwrap_model(self.model), "taps", None),
            "arguments": layout(self.settings.model).arguments,
        }

    def label(self) -> str:
        epochs = self.settings.train.epochs
        return f"fold {self.fold}  epoch {min(self.epoch + 1, epochs)}/{epochs}"

    def tell(self, row: Row, start: str = "") -> None:
        say("train", describe(row, self.fold, self.settings.train.epochs, self.metric, start))

    def _train_loader(self, rows: np.ndarray, targets: np.ndarray) -> torch.utils.data.DataLoader:
        size, mode = self.preprocessing["size"], self.preprocessing["interpolation"]
        augment = Augment(self.settings.augment, size, mode)
        augment.try_on(self.pixels[rows[0]])
        on_gpu = self.accelerator.device.type == "cuda"
        pictures = Pictures(self.pixels, rows, targets, augment)
        least = 2 if self.settings.model.batchnorm == "train" else 1
        parts = distributed.OwnParts(self.batches, self.accelerator, least)
        return make_loader(pictures, parts, workers(self.settings.runtime, on_gpu), on_gpu)
