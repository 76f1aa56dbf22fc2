"""Mixed batches on the device: mix-up (Zhang et al. 2018), CutMix (Yun et al. 2019), mosaic.

All random numbers come from NumPy's global generator, which the training seeds every epoch.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup

from pipeline.base.config import Mix

Mixed = tuple[torch.Tensor, torch.Tensor]
MIDDLE = (0.25, 0.75)  # where four pictures meet, as in YOLO: each keeps 1/16 of the area or more


class Mixer:
    """Mixes a share of the batches by one of the methods that are on, drawn at random.

    Nothing is smoothed here: the loss does that. `epoch` is told by the training: in the last
    `off_epochs` every batch stays as it is.
    """

    def __init__(self, settings: Mix, classes: int, epochs: int):
        self.classes, self.prob = classes, settings.prob
        self.epoch, self.mixed_epochs = 0, epochs - settings.off_epochs
        self.methods: dict[str, Callable[[torch.Tensor, torch.Tensor], Mixed]] = {}
        if settings.mixup:
            self.methods["mixup"] = partial(in_pairs, Mixup(settings.mixup, 0.0))
        if settings.cutmix:
            self.methods["cutmix"] = partial(in_pairs, Mixup(0.0, settings.cutmix))
        if settings.mosaic:
            self.methods["mosaic"] = in_mosaics

    def __call__(self, images: torch.Tensor, target: torch.Tensor) -> Mixed:
        """Mix [batch, 3, h, w], in place or not, and int targets [batch] or rows [batch, classes].

        Returns them as they are, or pictures of equal shape and soft rows [batch, classes] that
        add up as the targets' rows did.
        """
        off = not self.methods or self.epoch >= self.mixed_epochs
        if off or np.random.rand() >= self.prob:
            return images, target
        name = list(self.methods)[np.random.randint(len(self.methods))]
        return self.methods[name](images, as_rows(target, self.classes))


def in_pairs(mixup: Mixup, images: torch.Tensor, rows: torch.Tensor) -> Mixed:
    """timm's methods, which want pairs: the last picture of an odd batch stays plain."""
    even = len(images) // 2 * 2
    if not even:
        return images, rows
    # timm mixes labels only: told each image's number as its label, it answers with shares
    mixup.num_classes, mixup.label_smoothing = even, 0.0
    mixed, shares = mixup(images[:even], torch.arange(even, device=images.device))
    own, pair = shares.diagonal().unsqueeze(1), rows[:even]
    soft = pair * own + pair.flip(0) * (1 - own)
    return torch.cat([mixed, images[even:]]), torch.cat([soft, rows[even:]])


def in_mosaics(images: torch.Tensor, rows: torch.Tensor) -> Mixed:
    size = np.array(images.shape[2:])
    low, high = (np.rint(share * size).astype(int) for share in MIDDLE)
    centres = np.random.randint(low, high + 1, (len(images), 2))
    pictures, shares = mosaic(images, torch.from_numpy(centres).to(images.device))
    return pictures, sum(shares[:, k, None] * rows.roll(k, 0) for k in range(4))


def mosaic(images: torch.Tensor, centres: torch.Tensor) -> Mixed:
    """Four pictures [batch, 3, h, w] meet in each of the `centres` [batch, 2] (y, x in px).

    Row i shows rows i, i-1, i-2 and i-3 of the (shuffled) batch, around its end: four different
    ones in any batch of four, the same one again in a smaller. Each rectangle is cut out of the
    middle of its picture: there the subject stands (a corner may be the paper below a leaf), and
    it keeps the scale and proportions it has in validation, which resizing would halve.
    Returns the pictures and the four shares of the area [batch, 4], whose rows sum to 1.
    """
    batch, _, height, width = images.shape
    above, from_row = _halves(centres[:, 0], height)
    left, from_column = _halves(centres[:, 1], width)
    quarter = 2 * ~above[:, :, None] + ~left[:, None, :]
    source = (torch.arange(batch, device=images.device)[:, None, None] - quarter) % batch
    in_memory = images.permute(0, 2, 3, 1)  # they are channels-last, and stay so
    pictures = in_memory[source, from_row[:, :, None], from_column[:, None, :]]
    y, x = centres[:, 0] / height, centres[:, 1] / width
    shares = torch.stack([y * x, y * (1 - x), (1 - y) * x, (1 - y) * (1 - x)], 1)
    return pictures.permute(0, 3, 1, 2), shares


def _halves(centre: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each place [batch, length]: is it before the centre, and the place it is cut from."""
    place, centre = torch.arange(length, device=centre.device), centre[:, None]
    before = place < centre
    shift = torch.where(before, (length - centre) // 2, centre // 2 - centre)
    return before, place + shift


def as_rows(target: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Labels int64 [batch], or rows already, as float32 rows [batch, classes] that sum to 1.

    `smoothing` moves that share of each row to all classes alike (Szegedy et al. 2016).
    """
    rows = F.one_hot(target, classes).float() if target.ndim == 1 else target
    return rows * (1 - smoothing) + smoothing / classes if smoothing else rows
