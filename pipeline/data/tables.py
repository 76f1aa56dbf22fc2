"""The competition's CSV files, read as text and checked before anything is computed.

Everything is read as text: a label `01`, `NA` or `None` stays what it is.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline.base.cli import UserError, short, shown
from pipeline.base.competition import Competition
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv, read_lines, refuse_rows


def data_folder(competition: Competition, override: Path | None = None) -> Path:
    """Where the competition's files lie: --data, else DATA_DIR/NAME, else data/NAME."""
    folder = override or root("data") / competition.name
    if not (folder / competition.train).exists():
        get = f"run python -m pipeline.fetch {competition.name}, " if competition.slug else ""
        raise UserError(
            f"{folder / competition.train}: no such file; {get}or point with --data FOLDER or "
            f"DATA_DIR (the folder that holds {competition.name}/)"
        )
    return folder


def read_rows(competition: Competition, folder: Path) -> pd.DataFrame:
    """All images of a competition, one row each: split, id, label, group, path.

    `label` and `group` are empty for test rows. Raises UserError naming each bad row.
    """
    train, test = _rows(competition, folder, "train"), read_test(competition, folder)
    for rows, file in ((train, competition.train), (test, competition.test)):
        if rows.empty:
            raise UserError(f"{folder / file}: no rows below the column names")
    both = test.path[test.path.isin(train.path)]
    if len(both):  # equal ids may mean train/1.png and test/1.png
        text = f"{len(both):,} pictures stand in train and test, first {short(both.iloc[0])}"
        raise UserError(f"{folder}: {text}")
    return pd.concat([train, test], ignore_index=True)


def read_test(competition: Competition, folder: Path) -> pd.DataFrame:
    """The test images alone, as `read_rows` has them."""
    return _rows(competition, folder, "test")


def _rows(competition: Competition, folder: Path, split: str) -> pd.DataFrame:
    """The checked rows of a CSV; of the test's only the id is asked for."""
    train = split == "train"
    file = folder / (competition.train if train else competition.test)
    group = [competition.group] if train and competition.group else []
    labels = competition.label_columns if train else []
    table, lines = read_lines(file, [competition.id, *labels, *group])
    template = competition.image if train else competition.test_image or competition.image
    rows = pd.DataFrame(
        {
            "split": split,
            "id": table[competition.id],
            "label": labels_of(competition, table) if train else "",
            "group": table[group[0]] if group else "",
            "path": image_paths(file, table, template),
        }
    )
    refuse_rows(file, lines, _problems(competition, rows, lines, train))
    return rows


def labels_of(competition: Competition, table: pd.DataFrame) -> pd.Series:
    """The label of each row: a column, or the name of the one-hot column that holds its 1.

    It is empty where no column or several hold a 1.
    """
    if isinstance(competition.label, str):
        return table[competition.label]
    marks = table[competition.label].apply(pd.to_numeric, errors="coerce")
    good = marks.isin([0, 1]).all(axis=1) & (marks.sum(axis=1) == 1)
    return marks.fillna(0).idxmax(axis=1).where(good, "")


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


def _problems(
    competition: Competition, rows: pd.DataFrame, lines: list[int], train: bool
) -> list[tuple[int, str]]:
    """What is wrong with each row, by its number."""
    problems = _label_problems(competition, list(rows.label), lines) if train else []
    for i, (id_, path, same) in enumerate(zip(rows.id, rows.path, _firsts(rows.id), strict=True)):
        if not id_.strip():
            problems.append((i, "empty id"))
        elif same != i:
            problems.append((i, f"id {shown(id_)} stands already in line {lines[same]}"))
        if path.startswith("/") or ".." in path.split("/"):
            problems.append((i, f"path {shown(path)} leads outside the competition's folder"))
    return sorted(problems)


def _label_problems(
    competition: Competition, labels: list[str], lines: list[int]
) -> list[tuple[int, str]]:
    empty = "empty label; give one or drop the row"
    if not isinstance(competition.label, str):
        empty = f"expected a 1 and else 0 among {short(', '.join(competition.label))}"
    problems = [(i, empty) for i, label in enumerate(labels) if not label.strip()]
    for i, same in enumerate(_firsts(map(look, labels))):
        if labels[same] != labels[i]:
            text = f"label {shown(labels[i])} looks like {shown(labels[same])} of line"
            problems.append((i, f"{text} {lines[same]} and is another; spell them alike"))
    return problems


def _firsts(values: Iterable[str]) -> list[int]:
    """For each value the number of the row where it stands first."""
    seen: dict[str, int] = {}
    return [seen.setdefault(value, i) for i, value in enumerate(values)]


def look(label: str) -> str:
    """Equal for labels that no reader can tell apart: other spaces, other codes of é."""
    return " ".join(unicodedata.normalize("NFC", label).split())


def refuse_futile(competition: Competition, folder: Path, rows: pd.DataFrame) -> None:
    """Raises UserError for a single class, and for a sample submission that nothing could fill.

    No sample at all is no error here: it may come later.
    """
    classes = class_order(set(rows.label[rows.split == "train"]))
    if len(classes) == 1:
        text = f"all rows are of class {shown(classes[0])}: there is nothing to tell apart"
        raise UserError(f"{folder / competition.train}: {text}")
    path = folder / competition.sample
    if not path.exists():
        return
    sample = read_csv(path, [competition.id])
    asked = [column for column in sample if column != competition.id]
    expected = classes if competition.submission == "probability" else [competition.label]
    if set(asked) != set(expected):
        raise UserError(
            f"{path}: asks for {shown(asked)} beside {competition.id!r}, and {shown(expected)} is "
            "what can be answered; write a sample with these columns, let `sample:` in the "
            "competition's YAML name it, and rename or drop columns of the submission by hand"
        )
    ids = sample[competition.id]
    if ids.duplicated().any():
        raise UserError(f"{path}: id {shown(ids[ids.duplicated()].iloc[0])} stands twice")
    wanted, have = set(ids), set(rows.id[rows.split == "test"])
    if differ := sorted(wanted ^ have):
        where = "the sample" if differ[0] in wanted else competition.test
        text = f"{len(differ):,} ids differ from those of {competition.test}"
        raise UserError(f"{path}: {text}, first {shown(differ[0])}, which only {where} has")


def class_order(labels: set[str]) -> list[str]:
    """Class names in the order of the probability columns: numbers by value, then by text."""
    numeric = all(re.fullmatch(r"-?\d+", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numeric else sorted(labels)
