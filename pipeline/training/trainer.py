"""The training loop of one fold: epochs that resume weight for weight."""

import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.base.cli import UserError
from pipeline.base.config import Experiment
from pipeline.base.deadline import Deadline
from pipeline.base.device import make_accelerator
from pipeline.base.forms import as_array
from pipeline.base.progress import Progress
from pipeline.base.settings import sides
from pipeline.data.augment import Augment
from pipeline.data.extra import epoch_sampler
from pipeline.data.images import Pixels
from pipeline.data.loader import Batch, EpochBatches, Pictures, derive_seed, grouped, load_batches
from pipeline.data.mix import Mixer
from pipeline.inference.answers import SHARES, Answer
from pipeline.inference.features import FrozenFeatures
from pipeline.inference.predictor import Normalise, Predictor
from pipeline.inference.tta import VIEWS
from pipeline.model.build import build_model, preprocessing, recompute, to_device
from pipeline.model.depthwise import expect
from pipeline.model.freeze import fewest_images, freeze, train_mode, unfreeze
from pipeline.training import checkpoint, distributed, optim
from pipeline.training.compiled import compile_anew, compile_step
from pipeline.training.discriminant import Fitted
from pipeline.training.graph import Graph
from pipeline.training.head_end import end_head, seconds_of_end
from pipeline.training.head_init import fits_features, start_head
from pipeline.training.log import make_row, tell
from pipeline.training.loss import make_loss
from pipeline.training.parts import Parts


class Trainer:
    """Model, optimizer, schedule and data of one fold.

    Randomness of an epoch comes from (seed, fold, epoch) only, so it need not be saved.
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
        targets: np.ndarray,  # of the training images, as `Loss` takes them
        answer: Answer = SHARES,
    ):
        self.answer = answer
        self.started, self.epoch, self.log = time.monotonic(), 0, []
        self.settings, self.fold, self.metric, self.classes = settings, fold, metric, classes
        self.pixels, self.valid, self.watch = pixels, valid, bool  # `watch` is told of each epoch
        self.rows, self.labels = train.row.to_numpy(), as_array(train.target)
        self.seed = derive_seed(settings.train.seed, "fold", fold)
        self.fitted: Fitted | None = None  # how the head's closed form was
        self.unfreezes, self.parts = settings.model.freeze_epochs, Parts(settings)
        self.accelerator = make_accelerator(settings.runtime, distributed.options(self.unfreezes))
        model = self._make_model()
        self.preprocessing = preprocessing(model, settings.model)
        self.normalise = Normalise(self.preprocessing, self.accelerator.device)
        self._make_data(model, targets)
        self._make_optimizer(model)
        self.loss = make_loss(settings, targets, len(classes), self.accelerator.device, answer)
        self.graph, self.compiled_for = Graph(self), 0  # parameters that train
        compile_step(self)

    def _make_model(self) -> nn.Module:
        runtime, how = self.settings.runtime, self.settings.model
        torch.manual_seed(self.seed)  # the random head
        own = self.settings.own("head").get(how.classifier)
        model = build_model(how, len(self.classes), self.fold, own)
        if self.settings.train.grad_checkpointing:
            recompute(model)
        fixed, device = how.batchnorm == "frozen", self.accelerator.device
        model = distributed.sync_batchnorm(model, fixed)
        model = to_device(model, runtime, how.size, device, fixed, distributed.broadcast_from_main)
        expect(model, self.settings.train.epochs * len(self.rows) * math.prod(sides(how.size)))
        return model

    def _make_data(self, model: nn.Module, targets: np.ndarray) -> None:
        settings = self.settings.train
        draw = epoch_sampler(self.settings, self.rows, self.pixels, self.labels, self.seed)
        n = len(draw(0) if draw else self.rows)
        self.batches = EpochBatches(n, settings.batch_size, self.seed, draw)
        self.epoch_steps = math.ceil(len(self.batches) / settings.accumulate)
        self.steps = settings.epochs * self.epoch_steps
        self.mixer = Mixer(self.settings.mix, len(self.classes), settings.epochs)
        size, mode = self.preprocessing["size"], self.preprocessing["interpolation"]
        augment = Augment(self.settings.augment, size, mode, self.settings.own("transform"))
        augment.try_on(self.pixels[self.rows[0]])
        pictures = Pictures(self.pixels, self.rows, targets, augment)
        train_mode(model, self.settings.model.batchnorm)
        own = distributed.RankSampler(self.batches, self.accelerator, fewest_images(model))
        self.loader = load_batches(pictures, own, self.settings.runtime, self.accelerator.device)

    def _make_optimizer(self, model: nn.Module) -> None:
        settings = self.settings.train
        # before freezing: the groups hold also what is unfrozen later
        groups = optim.parameter_groups(model, settings)
        optimizer = optim.make_optimizer(groups, settings, self.settings.own("optimizer"))
        self.schedule = optim.make_schedule(optimizer, settings, self.steps)
        # before DDP, which then leaves frozen parameters out; but it takes on none later
        if not self.unfreezes:
            freeze(model, self.settings.model)
        # before `prepare`, which wraps `forward`: the average is a copy of the bare model
        self.ema = optim.make_ema(model, settings, self.steps)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.unfreezes:
            freeze(model, self.settings.model)

    def run(self, last: Path, deadline: Deadline) -> None:
        """Train the epochs that are left; after each, `last` holds everything to go on from.

        It ends before one that may end after the deadline; the first one here is always made.
        """
        if self.epoch == 0:
            if fits_features(self.settings):
                start_head(self)
            checkpoint.save_log(self, last)
        epochs = self.settings.train.epochs
        while self.epoch < epochs:
            started = time.monotonic()
            loss, rate = self.train_epoch()
            if self.epoch + 1 == epochs:
                self.graph.release()
                end_head(self)
            trained = time.monotonic()
            prob = self.validate(f"{self.label()} valid")
            validation = time.monotonic() - trained
            self.check_finite(float(prob.sum()), "the sum of held-out probabilities")
            self.epoch += 1
            self.log.append(make_row(self, prob, started, loss, rate))  # saved with the state
            checkpoint.save(self, last)
            tell(self)
            self.watch(self.epoch == epochs)  # the last?
            coming = time.monotonic() - started
            coming += 2 * (trained - started) * (self.epoch == self.unfreezes)  # at most
            if self.epoch + 1 == epochs and math.isfinite(deadline.seconds):
                coming += seconds_of_end(self, coming, validation)
            # one rank's answer for all: clocks differ, and ranks that disagree wait for ever
            if not distributed.broadcast_from_main(deadline.fits(coming)):
                return

    def train_epoch(self) -> tuple[float, float]:
        """One pass; returns the mean loss and images/s. Raises UserError for a loss of NaN."""
        seed = distributed.rank_seed(derive_seed(self.seed, "epoch", self.epoch), self.accelerator)
        torch.manual_seed(seed)  # dropout, drop path
        np.random.seed(seed)  # mixing
        self.batches.epoch = self.mixer.epoch = self.epoch
        self.set_mode()
        each = self.settings.train.accumulate
        # this rank's batches of a step, and their sizes over all ranks
        groups = zip(grouped(self.loader, each), grouped(self.batches.sizes, each), strict=True)
        total = torch.zeros((), device=self.accelerator.device)
        started, images = time.monotonic(), 0
        with Progress(self.label(), self.batches.n, "images") as progress:
            for step, (group, sizes) in enumerate(groups, self.epoch * self.epoch_steps):
                self.set_rate(step)
                size = sum(sizes)  # of all ranks; the epoch's last group may be smaller
                total += self.step(group, size) * size  # no .item(): no waiting for the GPU
                if self.ema:
                    self.ema.update(self.model, step=step)  # without a step it does not warm up
                images += size
                progress.advance(size)
        distributed.sync_model(self.model, self.ema)  # BatchNorm's statistics differ by rank
        loss = self.accelerator.reduce(total, "sum").item() / images
        self.check_finite(loss, "the loss")
        return loss, images / (time.monotonic() - started)

    def step(self, group: list[Batch], size: int) -> torch.Tensor:
        """One step down the mean loss of all ranks' `size` images; returns this rank's share."""
        largest = max(len(pixels) for pixels, _ in group)
        total = self.parts.until_it_fits(partial(self.backward, group, size), largest, self.label())
        # once alone: a try without memory has moved some weights and half made their moments
        if self.settings.train.clip_grad:  # Accelerate undoes the scaling first
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.train.clip_grad)
        self.optimizer.step()  # skipped where fp16 overflowed
        return total

    def backward(self, group: list[Batch], size: int) -> torch.Tensor:
        """The gradients of a step; returns its loss."""
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.accelerator.device)
        n = self.parts.of(size // (len(group) * self.accelerator.num_processes))  # a rank's least
        for pixels, target in group:
            images = self.normalise(pixels)  # uint8 until here: a quarter of the bytes
            target = target.to(images.device, non_blocking=True)
            images, target = self.mixer(images, target)
            for part, wanted in zip(images.tensor_split(n), target.tensor_split(n), strict=True):
                logits = self.graph(part)  # in autocast
                # by its share, not the mean of means: the last batch of a group may be smaller
                loss = self.loss(logits, wanted) * (len(part) / size)
                # DDP averages gradients over ranks; ours are parts of one mean. Scales for fp16
                self.accelerator.backward(loss * self.accelerator.num_processes)
                total += loss.detach()
        return total

    def validate(self, label: str, untrained: bool = False) -> np.ndarray:
        """Plain probabilities of the held-out images with the weights that would be saved."""
        predictor, views = self.predictor(self.final_model()), VIEWS["none"]

        def predict(rows: np.ndarray) -> np.ndarray:
            if untrained and fits_features(self.settings):  # they are kept: no second pass
                return FrozenFeatures(predictor, self.settings).probabilities("train", rows, views)
            return predictor.probabilities(self.pixels, rows, views, label=label)

        rows = self.valid.row.to_numpy()
        if not len(rows):  # folds: all
            return np.empty((0, len(self.classes)))
        return distributed.gather_predictions(predict, rows, len(self.classes), self.accelerator)

    def set_rate(self, step: int) -> None:
        self.schedule.step_update(step)
        if self.unfreezes and self.epoch >= self.unfreezes:
            since = step - self.unfreezes * self.epoch_steps
            optim.warm_up_unfrozen(self.optimizer, self.settings.train, self.steps, since)

    def set_mode(self) -> None:
        """Training mode, with layers unfrozen when their time has come."""
        model = self.bare_model
        if self.unfreezes and self.epoch >= self.unfreezes:
            unfreeze(model, self.settings.model)
        train_mode(model, self.settings.model.batchnorm)
        self.parts.begin_epoch(model)
        self.graph.record()
        compile_anew(self)

    def check_finite(self, value: float, name: str) -> None:
        """Raise UserError for weights that are lost: the last epoch's lie in the file still."""
        if not math.isfinite(value):
            remedy = "lower train.lr, or set train.clip_grad or runtime.precision: no"
            raise UserError(f"{self.label()}: {name} is {value}: {remedy}")

    def final_model(self) -> nn.Module:
        """With the weights that are saved."""
        return self.ema.module if self.ema else self.bare_model

    def predictor(self, model: nn.Module) -> Predictor:
        runtime = self.settings.runtime
        return Predictor(model, self.preprocessing, self.accelerator, runtime, self.answer)

    @property
    def bare_model(self) -> nn.Module:
        """Without what DDP puts around it."""
        return self.accelerator.unwrap_model(self.model)

    def label(self) -> str:
        epochs = self.settings.train.epochs
        return f"fold {self.fold}  epoch {min(self.epoch + 1, epochs)}/{epochs}"
