"""The folds file: reading it, and what must hold before anything trains on it."""

from pathlib import Path

import pandas as pd

from pipeline.parts import records
from pipeline.parts.cli import UserError
from pipeline.parts.config import Experiment, root
from pipeline.parts.tables import class_order, read_csv


def folds_path(experiment: Experiment) -> Path:
    split = experiment.folds
    name = split.name or f"{experiment.competition_name}-{split.n}-seed{split.seed}"
    return root("folds") / f"{name}.csv"


def load_folds(experiment: Experiment) -> pd.DataFrame:
    """Columns image, label, group, fold (int). Raises UserError for a split that leaks."""
    path = folds_path(experiment)
    if not path.is_file():
        raise UserError(f"{path}: no folds; run python -m pipeline.folds {experiment.name}")
    table = read_csv(path, ["image", "label", "group", "fold"])
    table["fold"] = pd.to_numeric(table.fold, errors="coerce")
    if table.fold.isna().any():
        raise UserError(f"{path} line {table.fold.isna().idxmax() + 2}: fold is not a number")
    table["fold"] = table.fold.astype(int)
    try:
        check_folds(table, experiment.folds.n)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return table


def check_folds(table: pd.DataFrame, n: int) -> None:
    """Each image once, no group in two folds, no fold empty, each class in each training part."""
    if table.image.duplicated().any():
        raise UserError(f"image {table.image[table.image.duplicated()].iloc[0]!r} stands twice")
    spread = table.groupby("group").fold.nunique()
    if (spread > 1).any():
        raise UserError(f"group {spread.idxmax()!r} straddles {spread.max()} folds: it would leak")
    if (found := set(table.fold) - {-1}) != set(range(n)):
        raise UserError(f"folds {sorted(found)}, expected 0 to {n - 1}")
    folds_per_class = table.groupby("label").fold.agg(["nunique", "first"])
    alone = folds_per_class[(folds_per_class["nunique"] == 1) & (folds_per_class["first"] >= 0)]
    if len(alone):
        label, fold = alone.index[0], alone["first"].iloc[0]
        raise UserError(
            f"class {label!r} has all its images in fold {fold}: the model of that fold would "
            "never see it; move some to another fold, or mark them -1 (always trained on)"
        )


def classes_of(table: pd.DataFrame) -> list[str]:
    return class_order(set(table.label))


def folds_digest(table: pd.DataFrame) -> str:
    """Digest of the split itself: order of rows and line endings do not matter."""
    rows = table.sort_values("image")[["image", "label", "group", "fold"]]
    return records.digest(rows.to_numpy().tolist())


def split_rows(
    rows: pd.DataFrame, table: pd.DataFrame, classes: list[str], fold: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out images of a fold: image, row (in the pixels), target, hash, fold."""
    position = {name: i for i, name in enumerate(rows.id) if rows.split[i] == "train"}
    if set(position) != set(table.image):
        gone = sorted(set(position) ^ set(table.image))
        raise UserError(f"{len(gone)} images differ between folds and pixels, first {gone[0]!r}")
    frame = pd.DataFrame(
        {
            "image": table.image,
            "row": table.image.map(position),
            "target": table.label.map({label: i for i, label in enumerate(classes)}),
            "fold": table.fold,
        }
    )
    frame["hash"] = rows.hash.to_numpy()[frame.row]
    return frame[table.fold != fold], frame[table.fold == fold]
