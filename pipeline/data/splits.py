"""The folds file: reading it, and what must hold before anything trains on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import Experiment, root
from pipeline.base.csv_files import read_csv
from pipeline.base.forms import ONE_CLASS, Binary, OneClass

if TYPE_CHECKING:
    from pipeline.data.decisions import Changes


def twin_groups(digests: list[str], groups: list[str], ids: list[str]) -> list[str]:
    """Name the group of each image: images that share pixels or a group value belong together.

    The name is the smallest id of the group, so it does not depend on the order of rows.
    """
    from scipy.sparse import coo_array  # late: the rest needs no SciPy
    from scipy.sparse.csgraph import connected_components

    n, links = len(ids), []  # of each row and the first one that shares a value with it
    for values in (digests, groups):
        first: dict[str, int] = {}
        links += [first.setdefault(value, i) if value else i for i, value in enumerate(values)]
    rows = np.tile(np.arange(n), 2)
    graph = coo_array((np.ones(2 * n), (rows, links)), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    return pd.Series(ids).groupby(group).transform("min").tolist()


def folds_path(experiment: Experiment) -> Path:
    split = experiment.folds
    drawn = f"{split.n}-seed{split.seed}" if split.n > 1 else "all"
    name = split.name or f"{experiment.competition_name}-{drawn}"
    return root("folds") / f"{name}.csv"


def load_folds(experiment: Experiment) -> pd.DataFrame:
    """Columns image, label, group, fold (int). Raises UserError for a split that leaks."""
    path = folds_path(experiment)
    if not path.is_file():
        raise UserError(f"{path}: no folds; run python -m pipeline.folds {experiment.asked}")
    table = read_csv(path, ["image", "label", "group", "fold"])
    table["fold"] = fold_numbers(table, path)
    check_folds(table, experiment.folds.n, path, load_competition(experiment.competition).form)
    return table


def fold_numbers(table: pd.DataFrame, path: Path) -> pd.Series:
    """Raises UserError for one that is no whole number from -1 on."""
    bad = table[~table.fold.str.fullmatch(r"-1|\d{1,6}")]
    if len(bad):
        image, fold = bad.image.iloc[0], bad.fold.iloc[0]
        raise UserError(f"{path}: image {image!r} has fold {fold!r}, expected 0, 1, ... or -1")
    return table.fold.astype(int)


def check_folds(
    table: pd.DataFrame, n: int, where: Path | str = "the split", form: OneClass = ONE_CLASS
) -> None:
    """Each image once, no group in two folds, no fold empty, each class in each training part."""
    if twice := table.image[table.image.duplicated()].tolist():
        raise UserError(f"{where}: image {twice[0]!r} stands twice")
    spread = table.groupby("group").fold.nunique()
    if (spread > 1).any():
        text = f"group {spread.idxmax()!r} straddles {spread.max()} folds: it would leak"
        raise UserError(f"{where}: {text}")
    # of one none is held out: all pictures are trained on
    expected, told = (set(range(n)), f"0 to {n - 1}") if n > 1 else (set(), "-1 alone")
    if (found := set(table.fold) - {-1}) != expected:
        raise UserError(f"{where}: folds {sorted(found)}, expected {told}")
    folds_per_class = parted(table, form).groupby("label").fold.agg(["nunique", "first"])
    alone = folds_per_class[(folds_per_class["nunique"] == 1) & (folds_per_class["first"] >= 0)]
    if len(alone):
        label, fold = alone.index[0], alone["first"].iloc[0]
        text = f"class {label!r} has all its images in fold {fold}: its model would never see it"
        way = "move some to another fold, or mark them -1 (always trained on)"
        raise UserError(f"{where}: {text}; {way}")


def fold_of_one_class(table: pd.DataFrame, form: OneClass) -> tuple[int, str] | None:
    """A fold of task: binary that holds out one class alone, and the label that it lacks."""
    held = (set(table.fold) if isinstance(form, Binary) else set()) - {-1}
    for label in table.groupby("label").group.nunique().sort_values().index:
        if missing := held - set(table.fold[table.label == label]):
            return min(missing), label
    return None


def parted(table: pd.DataFrame, form: OneClass) -> pd.DataFrame:
    """A row for each class that a label names; none of a form whose labels name no classes."""
    if type(form).parts is OneClass.parts:
        return table
    return table.assign(label=table.label.map(form.parts)).explode("label").dropna(subset="label")


def classes_of(table: pd.DataFrame, form: OneClass = ONE_CLASS) -> list[str]:
    """What the numbers of a row of predictions are called."""
    return form.classes(table.label)


def slices(scored: pd.DataFrame, rules: Competition) -> dict[str, np.ndarray]:
    """The sets of held-out rows that are scored, each bool [n].

    Twins are rows with a pixel-identical partner; conflicts are twins whose labels contradict each
    other, so that no model can be right on all of them. Where groups are patients or ids, a split
    does not know twins. Where decisions changed labels, `untouched` are the rows they left alone:
    they compare the runs before and after.
    """
    parts = {"all": np.ones(len(scored), bool)}
    if not (rules.group or rules.picture):
        unequal = scored.groupby("group").label.transform("nunique") > 1
        parts["no_twins"] = ~scored.duplicated("group", keep=False).to_numpy()
        parts["no_conflicts"] = ~unequal.to_numpy()
    return parts | ({"untouched": ~scored.touched.to_numpy()} if "touched" in scored else {})


def folds_digest(table: pd.DataFrame) -> str:
    """Digest of the split itself: order of rows and line endings do not matter."""
    rows = table.sort_values("image")[["image", "label", "group", "fold"]]
    return records.digest(rows.to_numpy().tolist())


def refuse_other_images(table: pd.DataFrame, train: pd.DataFrame, where: Path | str) -> None:
    """Raises UserError for a split of other images or labels than `prepare` has read."""
    label, ours = table.set_index("image").label, train.set_index("id").label
    if gone := sorted(set(label.index) ^ set(ours.index)):
        text = f"{len(gone)} images are not those of train.csv, first {gone[0]!r}"
        raise UserError(f"{where}: {text}")
    differ = label[label != ours.reindex(label.index)]
    if len(differ):
        image, there = differ.index[0], differ.iloc[0]
        text = f"{image!r} is {there!r} there and {ours[image]!r} in train.csv; restore one of the"
        way = "files, or set folds.name to a new name and run python -m pipeline.folds"
        raise UserError(f"{where}: {len(differ)} labels are not those of train.csv: {text} {way}")


def refuse_leaks(table: pd.DataFrame, train: pd.DataFrame, where: Path | str) -> None:
    """Raises UserError for a split that leaks by what `prepare` says today.

    The file's own groups are those of the day it was made.
    """
    fold = train.id.map(table.set_index("image").fold)
    for column, what in {"hash": "pixels", "group": "group", "study": "id"}.items():
        if column not in train:
            continue
        spread = fold.groupby(train[column].mask(train[column] == "")).nunique()
        if (spread > 1).any():
            first = train.id[train[column] == spread.idxmax()].iloc[0]
            text = f"images with the {what} of {first!r} straddle {spread.max()} folds"
            way = "set folds.name to a new name and run python -m pipeline.folds"
            raise UserError(f"{where}: {text}: it would leak; {way}")


def split_rows(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    classes: list[str],
    fold: int,
    changes: "Changes | None" = None,
    form: OneClass = ONE_CLASS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out images of a fold: image, row (in the pixels), target, hash, fold, and
    the study of each, where `rows` have one.

    Labels are those of the decisions, and what they leave out is in neither part.
    """
    train = rows[rows.split == "train"]
    refuse_other_images(table, train, "the folds file")
    refuse_leaks(table, train, "the folds file")
    if changes:
        table = changes.applied(table)
        table = table[table.fold >= -1].reset_index(drop=True)
    known = train.assign(row=train.index).set_index("id").loc[table.image]
    facts = {name: known[name].to_numpy() for name in ("row", "hash", "study") if name in known}
    target = form.targets(table.label, classes)
    frame = pd.DataFrame({"image": table.image, "target": target, "fold": table.fold, **facts})
    return frame[table.fold != fold], frame[table.fold == fold]


def chosen_folds(settings: Experiment, asked: Sequence[int] | None) -> list[int]:
    """Those that were asked for, or all. Raises UserError for one that there is not."""
    every = list(range(settings.folds.n))
    if unknown := set(asked or []) - set(every):
        raise UserError(f"--fold {min(unknown)}: the folds are 0 to {every[-1]}")
    return sorted(set(asked)) if asked else every
