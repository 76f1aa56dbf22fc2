"""Pictures as the training sees them: augmented, and mixed with the shares of their labels."""

import numpy as np
import torch

from pipeline.base.config import Experiment
from pipeline.data.augment import Augment, Resize
from pipeline.data.images import Pixels
from pipeline.data.loader import BatchSpec, Pictures, derive_seed, make_loader
from pipeline.data.mix import Mixer, as_rows
from pipeline.model.backbone import build_backbone
from pipeline.model.build import preprocessing


class Views:
    """Views of rows of the packed pixels, uint8 [n, size, size, 3], equal for an equal seed."""

    def __init__(self, settings: Experiment, pixels: Pixels, classes: int, seed: int):
        bare = settings.model.model_copy(update={"weights": "none"})  # only its config is read
        config = preprocessing(build_backbone(bare, fold=0), bare)
        size, mode = config["size"], config["interpolation"]
        self.resize, self.augment = Resize(size, mode), Augment(settings.augment, size, mode)
        self.mixer = Mixer(settings.mix, classes, settings.train.epochs)
        self.pixels, self.classes, self.seed = pixels, classes, seed

    def original(self, row: int) -> np.ndarray:
        """The picture [size, size, 3] as validation sees it."""
        return self.resize(self.pixels[row])

    def augmented(self, rows: np.ndarray, stream: str) -> np.ndarray:
        """One batch of the training's loader; each `stream` has random numbers of its own."""
        pictures = Pictures(self.pixels, rows, np.zeros(len(rows)), self.augment)
        batch = BatchSpec(derive_seed(self.seed, stream), list(range(len(rows))))
        ((images, _),) = make_loader(pictures, [batch], workers=0, pin=False)
        return images.numpy()

    def mixed(
        self, rows: np.ndarray, targets: np.ndarray, method: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """A batch mixed by one of the mixer's methods, and its label shares [n, classes].

        Mixing is linear: bytes serve as well as the normalised numbers of training.
        """
        images = torch.from_numpy(self.augmented(rows, method)).float().permute(0, 3, 1, 2)
        np.random.seed(derive_seed(self.seed, "mix", method))
        labels = as_rows(torch.from_numpy(targets), self.classes)
        images, shares = self.mixer.methods[method](images, labels)
        pixels = images.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        return pixels.numpy(), shares.numpy()
