"""Class folders (`train/cat/1.jpg`), as torchvision's ImageFolder reads them, as CSV files."""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.base.cli import UserError, shown
from pipeline.base.csv_files import read_csv, write_csv

TRAIN, TEST = {"train", "training", "val", "valid", "validation"}, {"test", "testing"}
Parts = tuple[str, ...]  # of a path
FILES = ("train.csv", "test.csv", "sample_submission.csv")


def class_folders(paths: set[str]) -> tuple[dict[str, str], list[str]]:
    """The label of each training picture, which a folder names, and the test pictures.

    Folders around all classes, and those called like a split, are no part of a label.
    """
    parents = {path: PurePosixPath(path).parent.parts for path in sorted(paths)}
    train, test = split_folders(set(parents.values()))
    above = {path: [parts[:i] for i in range(1, len(parts) + 1)] for path, parts in parents.items()}
    tests = [path for path, folders in above.items() if not test.isdisjoint(folders)]
    found = {
        path: [folder[-1] for folder in folders if folder not in train]
        for path, folders in above.items()
        if test.isdisjoint(folders)
    }
    while len({tuple(parts[:1]) for parts in found.values()} - {()}) == 1:
        found = {path: parts[1:] for path, parts in found.items()}
    return {path: parts[0] for path, parts in found.items() if parts}, tests


def split_folders(held: set[Parts]) -> tuple[set[Parts], set[Parts]]:
    """Which folders are called like a split, train and test, of those that hold pictures.

    A name with more words, seg_train or test_stg1, is a split's where no class could be: of a
    folder of folders, and for a test where a train folder stands beside it.
    """
    folders = {parts[:i] for parts in held for i in range(1, len(parts) + 1)}

    def called(names: set[str], parts: Parts) -> bool:
        return not names.isdisjoint(re.split(r"[\W\d_]+", parts[-1].lower()))

    train = {f for f in folders if f[-1].lower() in TRAIN or (f not in held and called(TRAIN, f))}
    beside = {folder[:-1] for folder in train}
    test = {f for f in folders - train if f[:-1] in beside and called(TEST, f)}
    return train, test | {f for f in folders if f[-1].lower() in TEST}


def in_words(paths: set[str]) -> str:
    """What class folders hold; nothing where there are none."""
    labels, tests = class_folders(paths)
    if len(classes := sorted(set(labels.values()))) < 2:
        return ""
    left = len(paths) - len(labels) - len(tests)
    more = f", {len(tests):,} below test/" + f", {left:,} pictures of neither" * bool(left)
    return f"{len(labels):,} pictures in {len(classes)} class folders {shown(classes)}{more}"


def write_tables(folder: Path, paths: set[str]) -> str:
    """Write FILES of class folders, without a test the first alone; returns what was found.

    Beside a sample submission it is the first alone, too, with the sample's names of columns: the
    sample's ids are the test then. Raises UserError where there are no class folders, where a file
    is there already, and for names that no CSV can hold.
    """
    if not (words := in_words(paths)):
        raise UserError(f"{folder}: no two folders of pictures, by which they could be labelled")
    labels, tests = class_folders(paths)
    sample = sample_of(folder)
    files = FILES[: 3 if tests and not sample else 1]
    if there := [name for name in files if (folder / name).exists()]:
        raise UserError(f"{folder / there[0]}: is there already; move it away")
    if odd := [path for path in paths if path.encode(errors="replace").decode() != path]:
        raise UserError(f"{folder}: the name {shown(min(odd))} is not in UTF-8; rename it")
    image, *answers = read_csv(folder / sample, []) if sample else ("image", "label")
    label = answers[0] if len(answers) == 1 else "label"
    train = pd.DataFrame({image: list(labels), label: list(labels.values())})
    test = pd.DataFrame({image: tests})
    tables = train, test, test.assign(**{label: min(labels.values())})
    for name, table in zip(files, tables, strict=False):
        write_csv(table, folder / name)
    return f"wrote {', '.join(files)}: {words}"


def sample_of(folder: Path) -> str:
    """The name of the sample submission; nothing where there is none."""
    names = sorted(path.name for path in folder.glob("*.csv") if path.is_file())
    return next((name for name in names if re.search("sample|submission", name.lower())), "")
