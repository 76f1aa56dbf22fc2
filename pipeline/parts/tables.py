"""The competition's CSV files, read as text and checked before anything is computed.

Everything is read as text: a label `01`, `NA` or `None` stays what it is.
"""

import os
import re
from pathlib import Path

import pandas as pd

from pipeline.parts.cli import UserError, did_you_mean
from pipeline.parts.competition import Competition
from pipeline.parts.config import root

SHOWN = 20  # problems named in full before "and N more"


def data_folder(competition: Competition, override: Path | None = None) -> Path:
    """Where the competition's files lie: --data, else DATA_DIR/NAME, else data/NAME."""
    folder = override or root("data") / competition.name
    if not (folder / competition.train).is_file():
        get = f"run python -m pipeline.fetch {competition.name}, " if competition.slug else ""
        raise UserError(
            f"{folder / competition.train}: no such file; {get}or point with --data FOLDER or "
            f"DATA_DIR (the folder that holds {competition.name}/)"
        )
    return folder


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a CSV as text; each of `columns` must be there.

    Raises UserError that names the file, the missing column and the nearest one.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file: {error}") from None
    for column in columns:
        if column not in table:
            near = did_you_mean(column, table)
            raise UserError(f"{path}: no column {column!r}, it has {list(table)}{near}")
    return table


def read_rows(competition: Competition, folder: Path) -> pd.DataFrame:
    """All images of a competition, one row each: split, id, label, group, path.

    `label` and `group` are empty for test rows. Raises UserError naming each bad row.
    """
    extra = [competition.group] if competition.group else []
    train_columns = [competition.id, *competition.label_columns, *extra]
    train = _rows(competition, folder, competition.train, "train", train_columns)
    test = read_test(competition, folder)
    rows = pd.concat([train, test], ignore_index=True)
    both = test.path[test.path.isin(train.path)]  # equal ids may mean train/1.png and test/1.png
    if len(both):
        raise UserError(
            f"{folder}: {len(both)} pictures stand in train and test, first {both.iloc[0]}"
        )
    return rows


def read_test(competition: Competition, folder: Path) -> pd.DataFrame:
    """The test images alone, as `read_rows` has them."""
    return _rows(competition, folder, competition.test, "test", [competition.id])


def _rows(
    competition: Competition, folder: Path, file: str, split: str, columns: list[str]
) -> pd.DataFrame:
    table = read_csv(folder / file, columns)
    train = split == "train"
    template = competition.image if train else competition.test_image or competition.image
    rows = pd.DataFrame(
        {
            "split": split,
            "id": table[competition.id],
            "label": labels_of(competition, table, str(folder / file)) if train else "",
            "group": table[competition.group] if train and competition.group else "",
            "path": image_paths(folder / file, table, template),
        }
    )
    problems = _problems(folder, rows, train)
    if problems:
        raise UserError(listing([f"{folder / file} {text}" for text in problems]))
    return rows


def labels_of(competition: Competition, table: pd.DataFrame, where: str) -> pd.Series:
    """The label of each row: a column, or the name of the one-hot column that holds its 1.

    Raises UserError naming each row with no 1 or several.
    """
    if isinstance(competition.label, str):
        return table[competition.label]
    marks = table[competition.label].apply(pd.to_numeric, errors="coerce")
    bad = marks.index[~(marks.isin([0, 1]).all(axis=1) & (marks.sum(axis=1) == 1))]
    if len(bad):
        names = ", ".join(competition.label)
        problems = [f"{where} line {i + 2}: expected a 1 and else 0 among {names}" for i in bad]
        raise UserError(listing(problems))
    return marks.idxmax(axis=1)


def image_paths(file: Path, table: pd.DataFrame, template: str) -> list[str]:
    """Each row's picture, relative to the data. Raises UserError for a column it lacks."""
    names = re.findall(r"\{([^{}]+)\}", template)
    if not names:
        raise UserError(
            f"image path template {template!r} names no column; try '{{{table.columns[0]}}}'"
        )
    if missing := [name for name in names if name not in table]:
        raise UserError(f"{file}: the image path template {template!r} wants column {missing[0]!r}")
    records = table.to_dict("records")
    return [re.sub(r"\{([^{}]+)\}", lambda m, row=row: row[m[1]], template) for row in records]


def _problems(folder: Path, rows: pd.DataFrame, train: bool) -> list[str]:
    """What is wrong with each row, by its line in the file (the header is line 1)."""
    problems, seen = [], {}
    base = os.path.abspath(folder) + os.sep  # noqa: PTH100 - see below
    for line, row in enumerate(rows.itertuples(), start=2):
        if not row.id:
            problems.append(f"line {line}: empty id")
        elif row.id in seen:
            problems.append(f"line {line}: id {row.id!r} stands already in line {seen[row.id]}")
        if train and not row.label:
            problems.append(f"line {line}: empty label; give one or drop the row")
        # abspath, not resolve: a linked image folder is fine, a climb out of it is not
        if not os.path.abspath(folder / row.path).startswith(base):  # noqa: PTH100
            problems.append(f"line {line}: path {row.path!r} leads outside {folder}")
        seen.setdefault(row.id, line)
    return problems


def listing(problems: list[str]) -> str:
    """All problems, or the first SHOWN and a count, one a line."""
    more = len(problems) - SHOWN
    return "\n".join(problems[:SHOWN] + ([f"... and {more} more"] if more > 0 else []))


def class_order(labels: set[str]) -> list[str]:
    """Class names in the order of the probability columns: numbers by value, then by text."""
    numeric = all(re.fullmatch(r"-?\d+", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numeric else sorted(labels)
