"""A competition's YAML proposed from its files: what they show, and what they leave open."""

import csv
import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pandas as pd
import yaml

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.csv_files import read_csv
from pipeline.data.class_folders import in_words, sample_of, write_tables
from pipeline.data.guessing import Settings, guess_column, guess_columns, guess_group
from pipeline.data.tables import image_paths, read_rows, refuse_futile

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".ppm"}
ALWAYS = ("id", "label")  # shown even where the default says the same
TRIED = 500  # rows, evenly spaced, on which a path template is tried


def propose(folder: Path, from_folders: bool = False) -> str:
    """YAML text for pipeline/configs/competitions/, its doubts as comments at the end.

    `from_folders` first writes the CSV files of pictures in class folders. Raises UserError where
    there is no folder, no picture below it, or no CSV in it that could hold the labels.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (paths := image_files(folder)):
        text = "no picture (.jpg, .png, .tif ...) below it: are they in an archive, in DICOM, or"
        raise UserError(f"{folder}: {text} numbers in a CSV? save each as a PNG")
    made = f"# {write_tables(folder, paths)}\n" if from_folders else ""
    doubts = ["metric: as guessed? the competition's Evaluation page says"]
    record = records.load(folder)  # of fetch
    settings: Settings = {"slug": record["key"].get("slug") if record else None}
    settings |= (files := files_of(folder, paths, doubts))
    tables = {use: read_csv(folder / name, []) for use, name in files.items()}
    train, test, sample = tables["train"], tables["test"], tables.get("sample")
    settings |= columns_of(train, test, sample, doubts)
    image_id = settings["id"]
    image = best_template(paths, train, image_id, ("train", "test"), doubts)
    test_image = best_template(paths, test, image_id, ("test", "train"), doubts)
    settings |= {"image": image, "test_image": None if test_image == image else test_image}
    try:  # what `prepare` would say to it
        competition = Competition(name=folder.name, **settings)
        refuse_futile(competition, folder, read_rows(competition, folder))
    except (UserError, ValueError) as error:
        doubts.append(f"as it stands: {str(error).splitlines()[0]}")
    default = {name: field.default for name, field in Competition.model_fields.items()}
    shown = {k: value for k, value in settings.items() if k in ALWAYS or value != default[k]}
    head = f"# proposed from {folder}: mend it as pipeline/configs/competitions/NAME.yaml\n"
    tail = "".join(f"# unsure: {doubt}\n" for doubt in doubts)
    return head + made + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True) + tail


def files_of(folder: Path, paths: set[str], doubts: list[str]) -> dict[str, str]:
    """train, test and sample, by their names; where there is no test.csv, the sample is it.

    Where none is named like train, it is the one that names most pictures.
    """
    names = sorted(path.name for path in folder.glob("*.csv") if path.is_file())

    def named(*words: str) -> list[str]:
        return [name for name in names if any(word in name.lower() for word in words)]

    sample = sample_of(folder)
    train = [name for name in named("train", "label") if name != sample]
    if not train:
        words, way = in_words(paths), "write a row per training picture"
        way = f"--from-folders writes them ({words})" if words else way
        others = [name for name in names if name not in (sample, *named("test"))]
        if not (train := by_pictures(folder, others, paths)):
            raise UserError(f"{folder}: no CSV named like train or labels, only {names}; {way}")
        doubts.append(f"train: {train[0]}? No CSV is named so; it names most pictures; else {way}")
    asked = header(folder / sample) if sample else []

    def rank(name: str) -> tuple[bool, bool, int]:
        lacks = not set(asked) <= set(header(folder / name))
        return lacks, name.lower() != "train.csv", -(folder / name).stat().st_size

    train.sort(key=rank)
    if train[1:]:
        doubts.append(f"train: {train[0]}, by its columns, name and size, but there is {train[1:]}")
    test = [name for name in named("test") if name not in (sample, train[0])]
    if asked:  # one without the sample's id is of something else, as boxes
        test = [name for name in test if set(asked) & set(header(folder / name))]
    found = {"train": train[0], "test": [*test, sample or train[0]][0]}
    if sample:
        return found | {"sample": sample}
    doubts.append("no sample submission: sample, id and submission are guesses")
    return found


def header(path: Path) -> list[str]:
    """The column names of a CSV, as far as they can be read: its errors come where it is needed."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader([file.readline(1 << 16)]), [])


def by_pictures(folder: Path, names: list[str], paths: set[str]) -> list[str]:
    """The CSV that names most pictures, with or without a suffix; none where none does."""
    pictures = {PurePosixPath(path) for path in paths}
    known = {path.name for path in pictures} | {path.stem for path in pictures}
    hits = {}
    for name in names:  # as far as they can be read
        cells = re.split(r'[,"\r\n]', (folder / name).read_text("utf-8", errors="replace"))
        hits[name] = len(known & {PurePosixPath(cell).name for cell in cells})
    return [name for name in names if 0 < hits[name] == max(hits.values())][:1]


def columns_of(
    train: pd.DataFrame, test: pd.DataFrame, sample: pd.DataFrame | None, doubts: list[str]
) -> Settings:
    """id, group and what follows from the task; the id is what sample and train share."""
    asked = test if sample is None else sample
    shared = [name for name in asked if name in train]
    fits = [name for name in shared if asked[name].is_unique and train[name].is_unique]
    first = next(iter(asked))
    # else the others of a sample are its answers
    named = sample is None or first in train or not asked[first].is_unique
    image_id = fits[0] if fits and named else first
    if image_id not in train:
        text = f"train has no column {first!r}, by which rows to answer are named: rename its"
        doubts.append(f"id: {text} column of ids so, in test as well, and inspect again")
    answers = [] if sample is None else [name for name in sample if name != image_id]
    found: Settings = {"id": image_id}
    if image_id in train and not train[image_id].is_unique:
        unique = [name for name in train if name in test and train[name].is_unique]
        if unique:
            found["picture"] = unique[0]
            doubts.append(f"picture: has a {image_id} several, each named by {unique[0]}?")
    others = [name for name in train if name not in found.values()]
    if len(answers) > 1:
        found |= guess_columns(answers, train.drop(columns=image_id, errors="ignore"), doubts)
    else:
        told = {part for row in asked[answers].to_numpy().flat for part in (row, *row.split())}
        hits = {name: len(told.intersection(train[name])) for name in others}
        best = max(hits, key=hits.__getitem__, default="label")
        label = next((name for name in answers if name in train), best)
        found["label"] = label
        if label in train:
            none = pd.Series(dtype=str)
            asked = none if sample is None else sample.get(label, sample.iloc[:, -1])
            found |= guess_column(label, train[label], asked.astype(str), doubts)
    left = [name for name in others if name not in (found["label"], *answers)]
    if group := guess_group(train, test, left, doubts):
        found["group"] = group
    return found


def image_files(folder: Path) -> set[str]:
    """All pictures below `folder`, linked folders too, relative to it."""
    found = {
        Path(here, name).relative_to(folder).as_posix()
        for here, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in IMAGES
    }
    return {path for path in found if "/." not in f"/{path}"}  # a Mac leaves ._1.jpg beside 1.jpg


def best_template(
    paths: set[str], table: pd.DataFrame, image_id: str, words: tuple[str, str], doubts: list[str]
) -> str:
    """The one that finds most pictures; of equals by the id, then with the first of `words`."""
    rows = table.iloc[:: max(1, len(table) // TRIED)]
    found = {
        template: sum(path in paths for path in image_paths(Path(), rows, template))
        for template in templates(paths, rows.head(20).to_dict("records"))
    }

    def rank(template: str) -> tuple[int, bool, int, int]:
        named = (words[0] in template.lower()) - (words[1] in template.lower())
        return found[template], f"{{{image_id}}}" in template, named, -len(template)

    best = max(found, key=rank, default="{" + image_id + "}")
    if (hits := found.get(best, 0)) < len(rows):
        doubts.append(f"image: {best} finds the pictures of {hits} of {len(rows)} rows")
    return best


def templates(paths: set[str], rows: list[dict[str, str]]) -> set[str]:
    """Path templates by which a value of a row, with or without a suffix, names a picture.

    A folder that is called like another value of the row is taken for that: `{label}/{id}.jpg`.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for name in {PurePosixPath(path).name, PurePosixPath(path).stem}:
            by_name[name].append(path)
    found = set()
    for row in rows:
        for column, value in row.items():
            for path in by_name.get(PurePosixPath(value).name, []):
                before, _, after = f"/{path}".rpartition(f"/{value}")
                if after in ("", PurePosixPath(path).suffix):
                    others = {text: name for name, text in row.items() if name != column and text}
                    folders = [f"{{{others[x]}}}" if x in others else x for x in before.split("/")]
                    found.add("/".join([*folders, f"{{{column}}}{after}"]).lstrip("/"))
    return found
