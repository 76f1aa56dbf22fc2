"""A competition's YAML proposed from its files: what they show, and what they leave open."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import yaml

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.csv_files import read_csv
from pipeline.data.tables import image_paths, read_rows, refuse_futile

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".ppm"}
SEEN = 500  # rows, evenly spaced, on which a path template is tried
SHOWN = ("id", "label")  # even where the default says the same
MANY = 0.5  # share of distinct values above which a number is no class


def propose(folder: Path) -> str:
    """YAML text for pipeline/configs/competitions/, its doubts as comments at the end.

    Raises UserError where there is no folder, or no CSV in it that could hold the labels.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = Inspection(folder)
    settings: dict[str, Any] = {"slug": found.slug, "id": found.id, **found.answer()}
    settings |= {**found.files(), **found.templates()}
    shown = {key: value for key, value in settings.items() if key in SHOWN or differs(key, value)}
    found.check(settings)
    head = f"# proposed from {folder}: mend it as pipeline/configs/competitions/NAME.yaml\n"
    doubts = "".join(f"# unsure: {doubt}\n" for doubt in found.doubts)
    return head + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True) + doubts


def differs(name: str, value: Any) -> bool:
    return value != Competition.model_fields[name].default


@dataclass
class Inspection:
    """The files of `folder`, and what of them is doubtful so far."""

    folder: Path
    doubts: list[str] = field(default_factory=list)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All that can be read: others may be no part of the competition."""
        found = {}
        for path in sorted(self.folder.glob("*.csv")):
            try:
                found[path.name] = read_csv(path, [])
            except UserError as error:
                self.doubts.append(str(error).splitlines()[0])
        return found

    @cached_property
    def pictures(self) -> "Pictures":
        return Pictures(self.folder)

    @property
    def slug(self) -> str | None:
        record = records.load(self.folder)  # of fetch
        return record["key"]["slug"] if record else None

    @cached_property
    def sample(self) -> str | None:
        if not (named := self._named("sample", "submission")):
            self.doubts.append("no sample submission: sample, id and submission are guesses")
        return named[0] if named else None

    @cached_property
    def train(self) -> str:
        named = [name for name in self._named("train", "label") if name != self.sample]
        if not named:
            raise UserError(
                f"{self.folder}: no CSV named like train or labels, only {list(self.tables)}; "
                "write one with a row per training picture"
            )
        named.sort(key=lambda name: -len(self.tables[name]))
        if named[1:]:
            self.doubts.append(f"train: {named[0]} has the most rows, but there is {named[1:]}")
        return named[0]

    @cached_property
    def test(self) -> str:
        named = [name for name in self._named("test") if name not in (self.sample, self.train)]
        return named[0] if named else self.sample or self.train

    def _named(self, *words: str) -> list[str]:
        return [name for name in self.tables if any(word in name.lower() for word in words)]

    def files(self) -> dict[str, Any]:
        sample = {"sample": self.sample} if self.sample else {}
        return {"train": self.train, "test": self.test, **sample}

    @cached_property
    def id(self) -> str:
        """The column that sample and train share, each value once."""
        asked, train = self.tables[self.sample or self.test], self.tables[self.train]
        shared = [name for name in asked if name in train]
        fits = [name for name in shared if asked[name].is_unique and train[name].is_unique]
        if fits:
            return fits[0]
        self.doubts.append(f"id: {self.train} has no column of distinct values that the test has")
        return asked.columns[0]

    def answer(self) -> dict[str, Any]:
        """label, submission and metric, from what the sample asks for beside the id."""
        asked = self.tables[self.sample].drop(columns=self.id) if self.sample else pd.DataFrame()
        train = self.tables[self.train]
        if asked.shape[1] > 1:
            self.doubts.append("metric: log_loss or auc? the competition's Evaluation page says")
            label = self._classes_in_columns(list(asked), train)
            return {"label": label, "submission": "probability", "metric": "log_loss"}
        self.doubts.append("metric: accuracy or another? the competition's Evaluation page says")
        others = [name for name in train if name != self.id]
        label = next((name for name in asked if name in train), others[0] if others else "label")
        if label not in asked:
            self.doubts.append(f"label: the sample names no column of {self.train}: {others}")
        if asked.shape[1] and asked.iloc[:, 0].str.fullmatch(r"0?\.\d*[1-9]\d*").all():
            self.doubts.append("submission: the sample holds fractions, which one label is not")
        numbers = pd.to_numeric(train.get(label, pd.Series(dtype=str)), errors="coerce")
        if len(numbers) and numbers.notna().all() and numbers.nunique() > MANY * len(numbers):
            self.doubts.append(f"label: {label} has {numbers.nunique()} values, is it a class?")
        return {"label": label}

    def _classes_in_columns(self, classes: list[str], train: pd.DataFrame) -> str | list[str]:
        """Where train holds the classes that are the sample's columns: one-hot, or as values."""
        if set(classes) <= set(train):
            several = (train[classes].apply(pd.to_numeric, errors="coerce").sum(axis=1) != 1).sum()
            if several:
                self.doubts.append(f"label: {several} rows of {self.train} have not one class")
            return classes
        shared = {name: len(set(train[name]) & set(classes)) for name in train if name != self.id}
        best = max(shared, key=shared.get, default="label")
        if shared.get(best) != len(classes):
            hits = shared.get(best, 0)
            self.doubts.append(f"label: {best} holds {hits} of the sample's {len(classes)} columns")
        return best

    def templates(self) -> dict[str, Any]:
        image = self._template(self.train, "train", "test")
        test_image = self._template(self.test, "test", "train")
        return {"image": image, "test_image": None if test_image == image else test_image}

    def _template(self, file: str, word: str, other: str) -> str:
        """The path template that finds most pictures; of equals by the id, then with `word`."""
        table, there = self.tables[file], self.pictures.paths
        rows = table.iloc[:: max(1, len(table) // SEEN)]
        shares = {
            template: sum(path in there for path in image_paths(Path(file), rows, template))
            for template in self.pictures.templates(rows.head(20).to_dict("records"))
        }
        if not shares:
            self.doubts.append(f"image: no picture is named like a value of {file}")
            return "{" + self.id + "}"

        def rank(template: str) -> tuple[int, bool, int, int]:
            named = (word in template.lower()) - (other in template.lower())
            return shares[template], f"{{{self.id}}}" in template, named, -len(template)

        best = max(shares, key=rank)
        if shares[best] < len(rows):
            self.doubts.append(f"image: {best} finds {shares[best]} of {len(rows)} rows of {file}")
        return best

    def check(self, settings: dict[str, Any]) -> None:
        """What `prepare` would say to the proposal, as a doubt."""
        try:
            competition = Competition(name=self.folder.name, **settings)
            refuse_futile(competition, self.folder, read_rows(competition, self.folder))
        except (UserError, ValueError) as error:
            self.doubts.append(f"as it stands: {str(error).splitlines()[0]}")


class Pictures:
    """All picture files of a folder by their paths relative to it."""

    def __init__(self, folder: Path) -> None:
        self.paths: set[str] = set()
        self.named: dict[str, list[str]] = defaultdict(list)  # name with and without suffix
        for path in _files(folder):
            if path.suffix.lower() in PICTURES:
                relative = path.relative_to(folder).as_posix()
                self.paths.add(relative)
                self.named[path.name].append(relative)
                self.named[path.stem].append(relative)

    def templates(self, rows: list[dict[str, str]]) -> set[str]:
        """Path templates by which a value of a row names a picture.

        A folder that is called like another value of the row is taken for that: `{label}/{id}.jpg`.
        """
        return {
            _template(path, column, row)
            for row in rows
            for column, value in row.items()
            for path in self.named.get(PurePosixPath(value).name, [])
            if f"/{path}".removesuffix(PurePosixPath(path).suffix).endswith(f"/{value}")
            or f"/{path}".endswith(f"/{value}")
        }


def _files(folder: Path) -> Iterator[Path]:
    """All files below `folder`, linked folders too, each folder once: links may run in circles."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(f"{here}/{name}"), name))  # noqa: PTH114
        yield from (Path(here, name) for name in names)


def _template(path: str, column: str, row: dict[str, str]) -> str:
    before, _, after = path.rpartition(row[column])
    others = {value: name for name, value in row.items() if name != column and value}
    folders = [f"{{{others[part]}}}" if part in others else part for part in before.split("/")]
    return "/".join(folders) + f"{{{column}}}" + after
