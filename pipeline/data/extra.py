"""External data: pictures and labels of one's own, which every fold is trained on and none scores.

A picture that the competition has as well is left out: of a training picture, its fold would be
scored on what it was taught; of a test picture, the leaderboard would be. So is one that only looks
the same, saved again in another size or quality. One in a hundred that is left out by mistake
(measured on leaves-small) costs less than one leak.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, shown
from pipeline.base.competition import Competition
from pipeline.base.config import Experiment
from pipeline.base.forms import OneClass
from pipeline.base.schema import Extra
from pipeline.data.images import Pixels
from pipeline.data.prepared import Prepared, load_folder, load_prepared
from pipeline.data.sampler import ClassSampler, ShareSampler
from pipeline.data.tables import read_split

SIDE = 16  # px of the thumbnails that are compared
ALIKE = 0.98  # correlation: copies at 60 % of the size and JPEG 70 have .981 at least (160 px)
CHUNK = 1024


def read_extra(extra: Extra, rules: Competition) -> tuple[pd.DataFrame, Path]:
    """Its rows, as `read_rows` has those of the competition, and the folder of its pictures."""
    path = Path(extra.csv)
    own = {"train": path.name, "image": extra.image or rules.image, "group": None}
    return read_split(rules.model_copy(update=own), path.parent, "train"), path.parent


def extra_folder(settings: Experiment) -> Path:
    """Beside the competition's own pictures of that size: they are compared with each other."""
    name = records.digest(settings.extra.model_dump(exclude={"share"}))
    return load_prepared(settings).folder / f"extra-{name}"


def left_out(extra: Prepared, prepared: Prepared, form: OneClass) -> dict[str, str]:
    """Why a picture of the external data is not trained on, by its id.

    Its label is none of the competition's, or a picture in train or test equals it or looks alike.
    """
    rows, theirs = extra.rows, prepared.rows
    strange = strangers(rows, prepared, form)
    equal = theirs.drop_duplicates("hash").set_index("hash").split
    own, others = (thumbnails(one.pixels, len(one.rows)) for one in (extra, prepared))
    found = {}
    for start in range(0, len(rows), CHUNK):
        part, alike = rows[start : start + CHUNK], own[start : start + CHUNK] @ others.T
        for row, best, how in zip(part.itertuples(), alike.argmax(1), alike.max(1), strict=True):
            same = equal.get(row.hash) or (how >= ALIKE and theirs.split[best])
            if strange[row.Index]:
                found[row.id] = "of another class"
            elif same:
                found[row.id] = f"as in {same}"
    return found


def strangers(rows: pd.DataFrame, prepared: Prepared, form: OneClass) -> np.ndarray:
    """bool [n], which of the external rows have a label that is none of train.csv's."""
    theirs = prepared.rows
    return form.strangers(rows.label, theirs.label[theirs.split == "train"])


def thumbnails(pixels: Pixels, n: int) -> np.ndarray:
    """float32 [n, 3 * SIDE²], whose products are correlations."""
    small = np.empty((n, SIDE, SIDE, 3), np.float32)
    for i in range(n):
        small[i] = cv2.resize(np.asarray(pixels[i]), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    flat = small.reshape(n, -1)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def load_extra(settings: Experiment) -> tuple[Prepared, pd.DataFrame]:
    """What `prepare` made of the external data, and its rows that are trained on."""
    found = load_folder(extra_folder(settings), settings.asked)
    return found, found.rows[~found.rows.id.isin(found.record["left_out"])]


def extra_key(settings: Experiment) -> dict[str, Any]:
    """For a fold's key: nothing without external data."""
    if settings.extra is None:
        return {}
    used, share = load_extra(settings)[1], settings.extra.share
    found = {"extra": records.digest(used[["id", "label", "hash"]].to_numpy().tolist())}
    return found | ({"extra_share": share} if share else {})


def epoch_sampler(
    settings: Experiment, rows: np.ndarray, pixels: Pixels, target: np.ndarray, seed: int
) -> ClassSampler | ShareSampler | None:
    """None: every image once an epoch. `rows` are those of `pixels` that a fold is taught as
    `target`, int [n]: soft rows have no class to count."""
    if settings.extra and settings.extra.share:
        return ShareSampler(rows >= pixels.n, settings.extra.share, seed)
    kind = settings.train.sampler
    return None if kind == "none" else ClassSampler(target, kind, seed)


@dataclass(frozen=True)
class Joined:
    """Pixels of two sets, in which rows from `n` on are those of the second."""

    first: Pixels
    n: int
    second: Pixels

    def __getitem__(self, row: int) -> np.ndarray:
        return self.first[row] if row < self.n else self.second[row - self.n]


def with_extra(
    settings: Experiment,
    prepared: Prepared,
    train: pd.DataFrame,
    classes: list[str],
    form: OneClass,
) -> tuple[pd.DataFrame, Pixels]:
    """The training part of a fold with the external pictures at its end, and the pixels of all.

    Raises UserError where train.csv has lost one of their labels since they were compared.
    """
    if settings.extra is None:
        return train, prepared.pixels
    extra, rows = load_extra(settings)
    if len(gone := rows.label[strangers(rows, prepared, form)]):
        text = f"label {shown(gone.iloc[0])} is none of the competition's by now"
        way = f"run python -m pipeline.prepare {settings.asked}"
        raise UserError(f"{settings.extra.csv}: {text}; {way}")
    n = len(prepared.rows)
    target = form.targets(rows.label, classes)
    names = {"image": rows.id, "row": rows.index + n, "hash": rows.hash, "target": target}
    more = pd.DataFrame(names).assign(fold=-1)  # never scored
    return pd.concat([train, more], ignore_index=True), Joined(prepared.pixels, n, extra.pixels)
