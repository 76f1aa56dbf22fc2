"""What people decided about labels: a log of their clicks, and what it makes of the labels.

`labels/COMPETITION.csv` is only ever appended to, a line a click, and on disk before the click is
answered. Its lines hold for a picture of that id *and* those pixels. The split stays as it is: a
picture with another label keeps its fold, one that is left out is neither trained on nor scored.
"""

import csv
import errno
import getpass
import io
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, did_you_mean, shown
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, root
from pipeline.base.csv_files import read_lines, refuse_rows
from pipeline.base.forms import ONE_CLASS, OneClass
from pipeline.base.locks import locked
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import check_folds, fold_of_one_class, parted

# click: a name for one press of a key, so that one that is sent again counts once
COLUMNS = ["click", "when", "who", "action", "id", "pixel_hash", "old", "new", "note"]
LEFT_OUT = ("drop", "twin")  # twin: its note names the picture that it repeats
ACTIONS = ("label", "keep", *LEFT_OUT, "undo")  # undo: its note names the click it takes back
DROPPED = -2  # the fold of a picture that is left out


def decisions_path(competition: str) -> Path:
    return root("labels") / f"{competition}.csv"


def new_line(click: str, action: str, picture: pd.Series, old: str, **rest: str) -> dict[str, str]:
    """A line about a row of `prepare`'s table: now, by whoever runs this."""
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        who = ""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    known = {"click": click, "when": when, "who": who, "action": action, "old": old}
    known |= {"id": picture.id, "pixel_hash": picture.hash, **rest}
    return dict.fromkeys(COLUMNS, "") | known


def append(path: Path, lines: Iterable[dict[str, str]]) -> int:
    """Append those lines whose click is not there yet, and return how many once they are on disk.

    All or none: raises OSError for a full disk and leaves the file as it was.
    """
    with locked(path.parent):  # two pages, two people, one file
        there = set(read_log(path).click)
        fresh = [line for line in lines if line["click"] not in there]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if not (path.exists() and path.stat().st_size):
            text.write(",".join(COLUMNS) + "\n")
        writer.writerows(fresh)
        if fresh:
            _write_through(path, text.getvalue().encode())
    return len(fresh)


def _write_through(path: Path, data: bytes) -> None:
    """One write at the end of the file, synced; a part of it is taken back."""
    new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":  # an editor left it so
            data = b"\n" + data
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def read_log(path: Path) -> pd.DataFrame:
    """Every line as text, a click once; none where there is no file. Raises UserError."""
    if not (path.exists() and path.stat().st_size):  # the first click may just come
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    log, lines = read_lines(path, COLUMNS)
    known = f"expected {', '.join(ACTIONS)}"
    problems = [
        (i, f"action {shown(action)}{did_you_mean(action, ACTIONS)}; {known}")
        for i, action in enumerate(log.action)
        if action not in ACTIONS
    ]
    empty = [(i, f"no {name}") for name in ("click", "id") for i in log.index[log[name] == ""]]
    unnamed = log.index[(log.action == "label") & (log.new == "")]
    refuse_rows(path, lines, sorted(problems + empty + [(i, "no new label") for i in unnamed]))
    return log[COLUMNS].drop_duplicates("click", ignore_index=True)


def standing(log: pd.DataFrame) -> pd.DataFrame:
    """The decisions that hold, at most one a picture: the last that no later line takes back."""
    back = set(log.note[log.action == "undo"])
    holds = log[(log.action != "undo") & ~log.click.isin(back)]
    return holds.drop_duplicates(["id", "pixel_hash"], keep="last", ignore_index=True)


@dataclass(frozen=True)
class Changes:
    """What the decisions do to the labels of `prepare`'s pictures."""

    path: Path
    label: dict[str, str] = field(default_factory=dict)  # by id, only those that differ
    dropped: frozenset[str] = frozenset()  # ids
    confirmed: int = 0  # looked at, and the label stays
    foreign: int = 0  # for an id that is not there, or that has other pixels now
    form: OneClass = ONE_CLASS

    def __bool__(self) -> bool:
        return bool(self.label or self.dropped)

    def __str__(self) -> str:
        text = f"{len(self.label):,} labels changed, {len(self.dropped):,} pictures left out"
        return f"{text}, {self.confirmed:,} confirmed"

    def key(self) -> dict[str, str]:
        """For the key of what is trained or scored with them; empty where nothing changes."""
        if not self:
            return {}
        found = records.digest([sorted(self.label.items()), sorted(self.dropped)])
        return {"labels": f"{len(self.label)} changed, {len(self.dropped)} left out ({found})"}

    def applied(self, table: pd.DataFrame) -> pd.DataFrame:
        """A whole folds table with the labels as decided, fold DROPPED for what is left out.

        `touched` marks both. Without changes it is `table`. Raises UserError where no picture
        of a class would be left to train on, or a fold of two classes would hold out one.
        """
        if not self:
            return table
        dropped = table.image.isin(self.dropped)
        pairs = zip(table.image, table.label, strict=True)
        label = pd.Series([self.label.get(*pair) for pair in pairs], table.index)
        fold = table.fold.mask(dropped, DROPPED)
        mended = table.assign(label=label, fold=fold, touched=dropped | (label != table.label))
        left = mended[~dropped]
        before, after = (set(parted(one, self.form).label) for one in (table, left))
        if gone := sorted(before - after):
            raise UserError(f"{self.path}: leaves no picture of class {shown(gone[0])}; undo one")
        check_folds(left, table.fold.max() + 1, self.path, self.form)
        lacking = fold_of_one_class(left, self.form)
        if lacking and not fold_of_one_class(table, self.form):
            text = f"leaves no {shown(lacking[1])} in fold {lacking[0]}, whose score would be none"
            raise UserError(f"{self.path}: {text}; undo one")
        return mended


def load_changes(settings: Experiment, prepared: Prepared | None = None) -> Changes:
    """Those of an experiment's competition. Raises UserError for a class that it does not have.

    Where nobody decided anything, nothing else is read.
    """
    path = decisions_path(settings.competition_name)
    if not path.exists():
        return Changes(path)
    rows = (prepared or load_prepared(settings)).rows
    form = load_competition(settings.competition).form
    return changes_of(standing(read_log(path)), rows[rows.split == "train"], path, form)


def changes_of(
    decisions: pd.DataFrame, train: pd.DataFrame, path: Path, form: OneClass = ONE_CLASS
) -> Changes:
    """What `standing` decisions change in the training rows of `prepare`.

    What is decided of one picture of an id holds for all of them.
    """
    for one in decisions[decisions.action == "label"].drop_duplicates("new").itertuples():
        if problem := no_label(one.new, train.label, form):
            raise UserError(f"{path}: id {shown(one.id)}: {problem}")
    decisions = decisions.assign(new=decisions.new.map(form.canonical))
    ours = decisions.merge(train, left_on=["id", "pixel_hash"], right_on=["id", "hash"])
    foreign = len(decisions) - len(ours)
    if "study" in train:
        ours = ours.drop(columns="id").merge(train[["study", "id"]], on="study")
    left_out = ours.action.isin(LEFT_OUT)
    differs = (ours.action == "label") & (ours.new != ours.label)
    return Changes(
        path,
        dict(zip(ours.id[differs], ours.new[differs], strict=True)),
        frozenset(ours.id[left_out]),
        confirmed=int((~left_out & ~differs).sum()),
        foreign=foreign,
        form=form,
    )


def no_label(new: str, labels: pd.Series, form: OneClass) -> str:
    """Why a label that a person gave is none of the competition's `labels`, or nothing."""
    if problem := form.fault(form.canonical(new)):
        return problem
    if not form.strangers(pd.Series([new]), labels)[0]:
        return ""
    known = set(form.classes(labels))
    unknown = next((part for part in form.parts(new) if part not in known), new)  # new: a level
    what = "level" if form.kind == "numbers" else "class"
    return f"the competition has no {what} {shown(unknown)}{did_you_mean(unknown, known)}"
