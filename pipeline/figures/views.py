"""What training sees: one picture augmented again and again, and mixed batches."""

import numpy as np
import pandas as pd

from pipeline.base.cli import UserError, did_you_mean
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment
from pipeline.base.forms import as_array
from pipeline.data.images import Pixels
from pipeline.data.prepared import Prepared
from pipeline.figures.pictures import Label, Strip

NAMED = 4  # labels under a picture
METHODS = {
    "mixup": ("mix-up", "one picture shines through another, labels by strength"),
    "cutmix": ("CutMix", "a rectangle of another picture, labels by area"),
}


def training_views(
    settings: Experiment, prepared: Prepared, rows: int, columns: int, image: str | None, seed: int
) -> list[Strip]:
    """`rows` × `columns` views of a picture, then a batch of `columns` for each mixing method.

    Raises UserError for an `image` that the competition does not have.
    """
    table = prepared.rows
    order = np.random.default_rng(seed).permutation(np.flatnonzero(table.split == "train"))
    row = order[0] if image is None else find_row(table, image)
    form = load_competition(settings.competition).form
    classes = form.classes(table.label[order])
    views = Views(settings, prepared.pixels, classes, seed)
    original = f"framed: the original, {readable(table.label[row])} ({table.id[row]})"
    steps = " · ".join(name for step in settings.augment for name in step)
    pictures = views.augmented([row] * (rows * columns - 1), "views")
    pictures = [views.original(prepared.pixels[row]), *pictures]
    strips = [Strip("Augmentation", f"{steps or 'none'}; {original}", pictures, marked=True)]
    others = np.resize(order[1:], (len(METHODS), columns))
    for method, batch in zip(methods(settings) or [None], others, strict=False):
        target = as_array(form.targets(table.label[batch], classes))
        strips.append(views.batch(batch, target, form.kind, method))
    return strips


class Views:
    """Rows of the packed pixels as training's own code hands them to the model; seeded."""

    def __init__(self, settings: Experiment, pixels: Pixels, classes: list[str], seed: int):
        import timm  # late: torch

        from pipeline.data.augment import Augment
        from pipeline.data.mix import Mixer
        from pipeline.data.resize import Resize

        size = settings.model.size
        mode = timm.get_pretrained_cfg(settings.model.backbone).interpolation
        self.original = Resize(size, mode)  # as validation sees a picture
        self.augment = Augment(settings.augment, size, mode, settings.own("transform"))
        self.mixer = Mixer(settings.mix, len(classes), settings.train.epochs)
        self.pixels, self.classes, self.seed = pixels, classes, seed

    def augmented(self, rows: list[int] | np.ndarray, stream: str) -> np.ndarray:
        """One batch of the training's loader; each `stream` has random numbers of its own."""
        from pipeline.data.loader import BatchSpec, Pictures, derive_seed

        pictures = Pictures(self.pixels, np.asarray(rows), np.zeros(len(rows)), self.augment)
        batch = BatchSpec(derive_seed(self.seed, stream), list(range(len(rows))))
        return pictures[batch][0].numpy()

    def batch(self, rows: np.ndarray, target: np.ndarray, kind: str, method: str | None) -> Strip:
        """A training batch and what it is taught; plain where `method` is None."""
        shares = np.eye(len(self.classes))[target] if kind == "shares" else target.astype(float)
        title, caption = METHODS.get(method, ("A batch", "nothing is mixed: each has its label"))
        pictures = self.augmented(rows, method or "batch")
        if method:
            pictures, shares = self.mixed(pictures, shares, method)
        labels = [label_shares(row, self.classes, kind) for row in shares]
        return Strip(title[0].upper() + title[1:], caption, list(pictures), labels)

    def mixed(
        self, pictures: np.ndarray, shares: np.ndarray, method: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mixing is linear: bytes serve as well as the normalised numbers of training."""
        import torch

        from pipeline.data.loader import derive_seed

        np.random.seed(derive_seed(self.seed, "mix", method))
        images = torch.from_numpy(pictures).float().permute(0, 3, 1, 2)
        images, rows = self.mixer.methods[method](images, torch.from_numpy(shares).float())
        return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy(), rows.numpy()


def label_shares(shares: np.ndarray, classes: list[str], kind: str = "shares") -> Label:
    """The largest `shares` [classes] as ("quercus alba", "38 %"); what rounds to 0 is left out.

    Numbers are one text.
    """
    if kind == "numbers":
        names = [f"{readable(name)} " if len(classes) > 1 else "" for name in classes]
        return [(", ".join(f"{name}{x:.4g}" for name, x in zip(names, shares, strict=True)), "")]
    largest = np.argsort(-shares, kind="stable")[:NAMED]
    percents = [(readable(classes[i]), round(100 * float(shares[i]))) for i in largest]
    return [(label, f"{percent} %") for label, percent in percents if percent]


def readable(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


def methods(settings: Experiment) -> list[str]:
    """Names of what mixes in at least one epoch."""
    if settings.mix.off_epochs >= settings.train.epochs:
        return []
    return [name for name in METHODS if getattr(settings.mix, name)]


def mixing(settings: Experiment) -> str:
    """What is mixed how often, in words."""
    names = [METHODS[name][0] for name in methods(settings)]
    if not names:
        return "nothing is mixed"
    either = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    mix, epochs = settings.mix, settings.train.epochs
    when = f", epochs 1-{epochs - mix.off_epochs} of {epochs}" if mix.off_epochs else ""
    return f"{either} in {100 * mix.prob:.0f} % of the batches{when}"


def find_row(table: pd.DataFrame, image: str) -> int:
    """Row of an image id, of the training part if it is in both."""
    found = table.index[table.id == image]
    if not len(found):
        near = did_you_mean(image, table.id)
        raise UserError(f"--image: the competition has no {image!r}{near}")
    return found[0]
