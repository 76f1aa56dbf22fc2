"""Where the models look: an overlay for each picture, in the picture's own shape."""

import cv2
import numpy as np

from pipeline.analysis.evidence import Evidence
from pipeline.base import records
from pipeline.base.cli import UserError, warn
from pipeline.base.runs import model_path
from pipeline.pages.album import Album
from pipeline.pages.page import data_uri

SIDE = 64  # px of an overlay, which is smooth


def overlays(evidence: Evidence, album: Album, rows: np.ndarray) -> dict[int, str]:
    """The `src` of what speaks for the answer to each of `rows`, by the first member's model that
    has not seen it; nothing for a backbone without a map of places, or ids of several pictures.

    Of several labels it is what speaks for the one that is most wrong, of numbers for a larger one.
    """
    found: dict[int, str] = {}
    if evidence.rules.picture:
        return found
    for fold in sorted(set(evidence.table.fold.iloc[rows])):
        held_out = rows[(evidence.table.fold.iloc[rows] == fold).to_numpy()]
        try:
            heats = looked_at(evidence, held_out, int(fold))
        except UserError as error:
            warn("report", f"not shown where the model looks: {error}")
            return {}
        for row, heat in zip(held_out, heats, strict=True):
            shape = album.best(int(evidence.table.row.iloc[row])).shape[:2]
            found[int(row)] = overlay(heat, shape, evidence.settings.model.resize)
    return found


def looked_at(evidence: Evidence, rows: np.ndarray, fold: int) -> np.ndarray:
    """Maps float32 [len(rows), h, w] of 0..1 of what was asked, by a fold's model."""
    from pipeline.base.device import tuned  # late: torch
    from pipeline.inference.attention import attention
    from pipeline.inference.predictor import Predictor

    settings = evidence.settings
    path = model_path(settings.name, fold)
    predictor = Predictor.load(path, tuned(settings).runtime)
    own = records.load(path).get("classes", evidence.classes)
    if evidence.kind == "shares":
        asked = evidence.answer[rows]
    else:
        asked = np.abs(evidence.prob[rows] - evidence.target[rows]).argmax(1)
    targets = [own.index(evidence.classes[i]) for i in asked]
    pixels, size = evidence.prepared.pixels, predictor.preprocessing["size"]
    found = []
    for images in predictor.batches(pixels, evidence.table.row.to_numpy()[rows], size, "attention"):
        here, targets = targets[: len(images)], targets[len(images) :]
        found.append(attention(predictor, images, here))
    return np.concatenate(found)


def overlay(heat: np.ndarray, shape: tuple[int, int], fit: str) -> str:
    """A map, float [h, w], as a see-through picture of `shape` (height, width)."""
    import matplotlib  # late

    height, width = shape
    scale = SIDE / max(height, width)
    if fit == "pad":  # which is cut off again
        (high, wide), share = heat.shape, min(np.array(heat.shape) / shape)
        top, left = round((high - height * share) / 2), round((wide - width * share) / 2)
        heat = heat[top : high - top, left : wide - left]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    heat = np.clip(cv2.resize(heat, size, interpolation=cv2.INTER_AREA), 0, 1)
    colours = matplotlib.colormaps["turbo"](0.25 + 0.75 * heat)
    colours[..., 3] = np.sqrt(heat)
    return data_uri((255 * colours).astype(np.uint8))
