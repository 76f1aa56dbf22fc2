"""Where a model looks, on demand: each fold's model is loaded once, when it is first asked."""

import threading
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch

from pipeline.analysis.evidence import Evidence
from pipeline.base.device import tuned
from pipeline.base.runs import model_path
from pipeline.data.augment import Resize
from pipeline.inference.attention import attention
from pipeline.inference.predictor import Predictor, as_saved


class Spotlight:
    """The models of a blend's first run."""

    def __init__(self, evidence: Evidence):
        self.evidence, self.busy = evidence, threading.Lock()

    def on(self, row: int, fold: int, target: int) -> np.ndarray:
        """The packed picture of a row, dark where nothing speaks for a class to a fold's model.

        Raises UserError for a backbone without a map of places.
        """
        pixels = self.evidence.prepared.pixels[row]
        with self.busy:
            predictor = self.predictor(fold)
            how = predictor.preprocessing
            seen = Resize(how["size"], how["interpolation"])(pixels)
            images = predictor.normalise(torch.from_numpy(np.ascontiguousarray(seen))[None])
            with as_saved(predictor.model):
                found = attention(predictor, images, [target])[0]
        light = cv2.resize(found, pixels.shape[1::-1])[..., None]
        return (pixels * (0.2 + 0.8 * light)).astype(np.uint8)

    @cache  # noqa: B019 - there is one
    def predictor(self, fold: int) -> Any:
        settings = tuned(self.evidence.settings)
        return Predictor.load(model_path(settings.name, fold), settings.runtime)
