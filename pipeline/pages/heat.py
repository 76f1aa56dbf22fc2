"""Where the models look: an overlay for each picture, in the picture's own shape."""

import cv2
import numpy as np

from pipeline.analysis.evidence import Evidence
from pipeline.base.cli import UserError, warn
from pipeline.pages.album import Album
from pipeline.pages.page import data_uri

SIDE = 64  # px of an overlay, which is smooth


def overlays(evidence: Evidence, album: Album, rows: np.ndarray) -> dict[int, str]:
    """The `src` of what speaks for the answer to each of `rows`, by the first member's model that
    has not seen it; nothing for a backbone without a map of places, or ids of several pictures.

    Of several labels it is what speaks for the one that is most wrong, of numbers for a larger one.
    """
    from pipeline.pages.spotlight import Spotlight  # late: torch

    if evidence.rules.picture:
        return {}
    asked, found = evidence.answer[rows], dict[int, str]()
    if evidence.kind != "shares":
        asked = np.abs(evidence.prob[rows] - evidence.target[rows]).argmax(1)
    packed, folds = (evidence.table[name].to_numpy()[rows] for name in ("row", "fold"))
    for fold in np.unique(folds):
        own = folds == fold
        try:  # of one model at a time
            heats = Spotlight(evidence).maps(packed[own], int(fold), asked[own])
        except UserError as error:
            warn("report", f"not shown where the model looks: {error}")
            return {}
        for row, place, heat in zip(rows[own], packed[own], heats, strict=True):
            shape = album.best(int(place)).shape[:2]
            found[int(row)] = overlay(heat, shape, evidence.settings.model.resize)
    return found


def overlay(heat: np.ndarray, shape: tuple[int, int], fit: str) -> str:
    """A map, float [h, w], as a see-through picture of `shape` (height, width)."""
    import matplotlib  # late

    if fit == "pad":  # which is cut off again
        (high, wide), share = heat.shape, min(np.array(heat.shape) / shape)
        top, left = (round((a - b * share) / 2) for a, b in zip(heat.shape, shape, strict=True))
        heat = heat[top : high - top, left : wide - left]
    high, wide = (max(1, round(side * SIDE / max(shape))) for side in shape)
    heat = np.clip(cv2.resize(heat, (wide, high), interpolation=cv2.INTER_AREA), 0, 1)
    colours = matplotlib.colormaps["turbo"](0.25 + 0.75 * heat)
    colours[..., 3] = np.sqrt(heat)
    return data_uri((255 * colours).astype(np.uint8))
