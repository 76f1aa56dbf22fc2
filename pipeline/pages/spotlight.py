"""Where a model looks: each fold's model is loaded once, when it is first asked."""

import threading
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import torch

from pipeline.analysis.evidence import Evidence
from pipeline.base import records
from pipeline.base.device import tuned
from pipeline.base.runs import model_path
from pipeline.data.resize import Resize
from pipeline.inference.attention import attention
from pipeline.inference.predictor import Predictor, as_saved


class Spotlight:
    """The models of a blend's first run."""

    def __init__(self, evidence: Evidence):
        self.evidence, self.busy = evidence, threading.Lock()
        self.model = cache(self.load)

    def on(self, row: int, fold: int, target: int) -> np.ndarray:
        """The packed picture of a row, dark where nothing speaks for a class to a fold's model."""
        pixels = self.evidence.prepared.pixels[row]
        (found,) = self.maps([row], fold, [target])
        light = cv2.resize(found, pixels.shape[1::-1])[..., None]
        return (pixels * (0.2 + 0.8 * light)).astype(np.uint8)

    def maps(self, rows: Sequence[int], fold: int, targets: Sequence[int]) -> np.ndarray:
        """What speaks for a class (one a picture) to a fold's model: float32 [n, h, w] of 0..1.

        `rows` are those of the packed pixels. Raises UserError for a backbone without a map of
        places.
        """
        with self.busy:
            predictor, classes = self.model(fold)
            asked = torch.tensor([classes.index(self.evidence.classes[i]) for i in targets])
            how, most = predictor.preprocessing, predictor.runtime.predict_batch
            resize = Resize(how["size"], how["interpolation"])
            seen = np.stack([resize(self.evidence.prepared.pixels[row]) for row in rows])
            batches = zip(torch.from_numpy(seen).split(most), asked.split(most), strict=True)
            with as_saved(predictor.model):
                found = [attention(predictor, predictor.normalise(x), own) for x, own in batches]
        return np.concatenate(found)

    def load(self, fold: int) -> tuple[Predictor, list[str]]:
        """A fold's model and the names of its answers."""
        settings = tuned(self.evidence.settings)
        path = model_path(settings.name, fold)
        classes = records.load(path).get("classes", self.evidence.classes)
        return Predictor.load(path, settings.runtime), classes
