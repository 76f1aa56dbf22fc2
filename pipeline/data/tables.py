"""The competition's CSV files, read as text and checked before anything is computed.

Everything is read as text: a label `01`, `NA` or `None` stays what it is.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.base.cli import UserError, short, shown
from pipeline.base.competition import Competition
from pipeline.base.config import root
from pipeline.base.csv_files import read_csv, read_lines, refuse_rows
from pipeline.base.forms import OneClass, joined
from pipeline.data.guessing import FRACTION, separator_of
from pipeline.data.studies import answered

OF_CHANCES = ("auc", "average_precision", "log_loss", "balanced_log_loss")  # metrics


def data_folder(competition: Competition, override: Path | None = None) -> Path:
    """Where the competition's files lie: --data, else DATA_DIR/NAME, else data/NAME."""
    name, train = competition.name, competition.train
    folder = override or root("data") / name
    if not (folder / train).exists():
        ways = [f"run python -m pipeline.fetch {name}"] if competition.slug else []
        if there := sorted(path.name for path in folder.glob("*.csv")):
            ways = [f"let `train:` in {name}.yaml name the right one of {shown(there)}"]
        ways.append(f"point with --data FOLDER or DATA_DIR (the folder that holds {name}/)")
        raise UserError(f"{folder / train}: no such file; {', or '.join(ways)}")
    return folder


def read_rows(competition: Competition, folder: Path) -> pd.DataFrame:
    """All images of a competition, one row each: split, id, label, group, path.

    Where an id has several pictures, `study` is that, and `id` names a picture of it.

    `label` and `group` are empty for test rows. Raises UserError naming each bad row.
    """
    train = read_split(competition, folder, "train")
    if competition.test == competition.sample:
        read_sample(folder / competition.sample, competition)
    test = read_split(competition, folder, "test")
    for rows, file in ((train, competition.train), (test, competition.test)):
        if rows.empty:
            raise UserError(f"{folder / file}: no rows below the column names")
    both = test.path[test.path.isin(train.path)]
    if len(both):  # equal ids may mean train/1.png and test/1.png
        text = f"{len(both):,} pictures stand in train and test, first {short(both.iloc[0])}"
        raise UserError(f"{folder}: {text}")
    return pd.concat([train, test], ignore_index=True)


def read_split(
    competition: Competition, folder: Path, split: Literal["train", "test"]
) -> pd.DataFrame:
    """The images of one CSV, as `read_rows` has them; of the test's only the id is asked for."""
    train = split == "train"
    file = folder / (competition.train if train else competition.test)
    group = [competition.group] if train and competition.group else []
    labels = competition.label_columns if train else []
    several = [competition.picture] if competition.picture else []
    table, lines = read_lines(file, [competition.id, *several, *labels, *group])
    template = competition.image if train else competition.test_image or competition.image
    rows = pd.DataFrame(
        {
            "split": split,
            "id": joined(table, [competition.id, *several], "/"),
            "label": competition.form.labels(table) if train else "",
            "group": table[group[0]] if group else "",
            "path": image_paths(file, table, template),
        }
    )
    refuse_rows(file, lines, _problems(competition, rows, lines, train))
    if several:
        rows["study"] = table[competition.id]
        told = rows.groupby("study").label.transform("first")
        text = "label {}, and {} of another picture of this id; the id has one".format
        pairs = zip(rows.label, told, strict=True)
        odd = [(i, text(shown(a), shown(b))) for i, (a, b) in enumerate(pairs) if a != b]
        refuse_rows(file, lines, odd)
    return rows


def image_paths(file: Path, table: pd.DataFrame, template: str) -> list[str]:
    """Each row's picture, relative to the data. Raises UserError for a column it lacks."""
    names = re.findall(r"\{([^{}]+)\}", template)
    if not names:
        text = f"names no column; try '{{{table.columns[0]}}}'"
        raise UserError(f"image path template {template!r} {text}")
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
        if train and competition.group and not rows.group[i].strip():
            problems.append((i, f"empty {competition.group}; give a group of its own, or drop it"))
        if path.startswith("/") or ".." in path.split("/"):
            problems.append((i, f"path {shown(path)} leads outside the competition's folder"))
    return sorted(problems)


def _label_problems(
    competition: Competition, labels: list[str], lines: list[int]
) -> list[tuple[int, str]]:
    faults = {label: competition.form.fault(label) for label in set(labels)}
    problems = [(i, faults[label]) for i, label in enumerate(labels) if faults[label]]
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
    """Raises UserError for labels that teach nothing, and for a sample that nothing could fill.

    No sample at all is no error here: it may come later.
    """
    form = competition.form
    labels = rows.label[rows.split == "train"]
    classes = form.classes(labels)
    if problem := form.futile(classes, labels) or unjoined(form, labels):
        raise UserError(f"{folder / competition.train}: {problem}")
    path = folder / competition.sample
    if not path.exists():
        return
    sample = read_sample(path, competition)
    refuse_columns(competition, classes, sample, path)
    ids = sample[competition.id]
    if twice := ids[ids.duplicated()].tolist():
        raise UserError(f"{path}: id {shown(twice[0])} stands twice")
    wanted, have = set(ids), set(answered(rows)[rows.split == "test"])
    if differ := sorted(wanted ^ have):
        where = "the sample" if differ[0] in wanted else competition.test
        text = f"{len(differ):,} ids differ from those of {competition.test}"
        raise UserError(f"{path}: {text}, first {shown(differ[0])}, which only {where} has")


def read_sample(path: Path, competition: Competition) -> pd.DataFrame:
    """The sample submission. Raises UserError where it names pictures by another column."""
    sample = read_csv(path, [])
    if competition.id not in sample and len(sample.columns) > 1:
        text = f"no column {competition.id!r}, it has {shown(list(sample))}, which Kaggle wants"
        others = " and ".join(sorted({competition.train, competition.test} - {competition.sample}))
        way = f"rename the column of ids in {others} to the sample's, and set id: to that"
        raise UserError(f"{path}: {text}; {way}")
    return sample if competition.id in sample else read_csv(path, [competition.id])


def unjoined(form: OneClass, labels: pd.Series) -> str:
    """Why `separator:` is another, where it stands nowhere and another mark between labels."""
    if form.kind != "chances" or not isinstance(form.rules.label, str):
        return ""
    if any(len(form.parts(label)) > 1 for label in labels):
        return ""
    mark = separator_of(labels)
    return f"no two labels are joined by {form.joint!r}; set separator: {mark!r}" * bool(mark)


def refuse_columns(
    competition: Competition, classes: list[str], sample: pd.DataFrame, path: Path
) -> None:
    """Raises UserError for a sample submission with other columns than those we answer."""
    expected = competition.form.columns(classes)
    asked = [column for column in sample if column != competition.id]
    if expected is None and len(asked) != 1:
        text = f"asks for {shown(asked)}, and task: {competition.task} answers one column"
        raise UserError(f"{path}: {text}; let `label:` name the columns, or take another task")
    if expected and len(expected) == len(asked) == 1:
        values = [part for value in sample[asked[0]] for part in (value, *value.split())]
        told = {part for value in values for part in competition.form.parts(value)}
        expected = asked if told & set(classes) else expected  # train.csv may call it otherwise
    if expected is not None and set(asked) != set(expected):
        text = f"asks for {shown(asked)} beside {competition.id!r}, and {shown(expected)} is what"
        way = "write a sample with these columns, let `sample:` in the competition's YAML name it,"
        way += " give the submission Kaggle's columns by hand and upload it on the website, as"
        way += " --upload and bundle go by your sample"
        two = competition.task == "classes" and len(classes) == 2
        way += "; or is it task: binary?" * (two and len(asked) == 1)
        raise UserError(f"{path}: {text} can be answered; {way}")
    if competition.form.kind == "numbers" or competition.submission == "probability":
        return
    values = sample[asked[0]]
    if values.str.fullmatch(FRACTION).any() and not set(values) & set(classes):
        text = f"asks for numbers in {asked[0]!r}, and submission: label answers names"
        way = "task: binary and submission: probability give a probability, regression a number"
        raise UserError(f"{path}: {text}; {way}")
    if competition.task != "classes" and competition.metric in OF_CHANCES:
        text = f"metric: {competition.metric} is of probabilities, and submission: label gives none"
        raise UserError(f"{path}: {text}; set submission: probability, or another metric")
