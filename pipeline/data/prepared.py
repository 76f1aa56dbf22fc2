"""What `prepare` made: a table of all images with their facts, and their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Experiment, root
from pipeline.base.csv_files import read_csv
from pipeline.base.settings import size_name
from pipeline.data.images import FilePixels, Pixels

COLUMNS = ["split", "id", "label", "group", "path"]  # from the CSVs; the others from the pictures


@dataclass(frozen=True)
class Prepared:
    """`rows`: split, id, label, group, path, width, height, hash, note; one row per picture."""

    folder: Path
    record: dict[str, Any]

    @cached_property
    def rows(self) -> pd.DataFrame:
        return read_csv(self.folder / "images.csv", [*COLUMNS, "hash", "note"])

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 [n, h, w, 3], row i belongs to row i of `rows`. Raises UserError."""
        if problem := self.problem():
            raise UserError(f"{problem}; python -m pipeline.prepare makes it anew")
        if self.record["packed"]:
            return np.load(self.folder / "pixels.npy", mmap_mode="r")
        key = self.record["key"]
        if list_digest(self.rows, self.data) != key["files"]:
            raise UserError(f"{self.data}: files changed after `prepare`: run that stage again")
        paths = [self.data / path for path in self.rows.path]
        return FilePixels(paths, key["size"], key["fit"], list(self.rows.note))

    def problem(self) -> str:
        """What is wrong with the packed pixels, or nothing."""
        path = self.folder / "pixels.npy"
        if not self.record["packed"]:
            return ""
        if not path.exists():
            return f"{path} is lost"
        whole = records.is_intact(path, self.record.get("pixels", {}))
        return "" if whole else f"{path} is damaged: not what prepare wrote"

    @property
    def data(self) -> Path:
        """The competition's own folder, as `prepare` was told."""
        return Path(self.record["data"])


def list_digest(rows: pd.DataFrame, folder: Path) -> str:
    """Digest of rows, file sizes and times: a replaced picture is noticed without reading it."""
    stats = [records.stat_of(f"{folder}/{path}") for path in rows.path]
    known = rows[COLUMNS + ["study"] * ("study" in rows)]
    return records.digest([known.to_dict("split")["data"], stats])


def prepared_folder(competition: str, size: int | Sequence[int], fit: str) -> Path:
    return root("runs") / "_data" / competition / f"{size_name(size)}-{fit}"


def load_prepared(experiment: Experiment) -> Prepared:
    """Raises UserError before `prepare` was run."""
    size, fit = experiment.cache_size, experiment.model.resize
    return load_folder(prepared_folder(experiment.competition_name, size, fit), experiment.asked)


def load_folder(folder: Path, run: str) -> Prepared:
    """What `prepare` left there for a `run`. Raises UserError."""
    record = records.load(folder / "images.csv")
    if record is None:
        raise UserError(f"{folder}: no pictures; run python -m pipeline.prepare {run}")
    if not records.is_intact(folder / "images.csv", record):
        text = f"python -m pipeline.prepare {run} makes it anew"
        raise UserError(f"{folder}/images.csv is damaged; {text}")
    return Prepared(folder, record)


def prepared_data(competition: str) -> Path:
    """The folder of a competition, named as experiments do, as the last `prepare` was told."""
    name = Path(competition).stem
    kept = (root("runs") / "_data" / name).glob("*/images.csv.json")
    for path in sorted(kept, key=lambda path: path.stat().st_mtime, reverse=True):
        if record := records.load(path.with_suffix("")):
            return Path(record["data"])
    raise UserError(f"{name}: no pictures; run python -m pipeline.prepare")
