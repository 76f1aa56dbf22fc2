"""Where a run keeps its models and predictions, and how far it is."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.base import records
from pipeline.base.cli import UserError, did_you_mean, mean_std, warn_once
from pipeline.base.config import root
from pipeline.base.settings import checked_name

Split = Literal["oof", "test"]
GIVEN = "given"  # views of answers that other people gave
BLEND_VERSION = 2  # 2: balanced accuracy, binary AUC and first cuts of levels as they should be


def model_path(run: str, fold: int) -> Path:
    """`run` is an experiment's name or a run folder anywhere (a Kaggle input)."""
    folder = Path(run) if "/" in run else root("runs") / run
    return folder / f"fold{fold}" / "model.safetensors"


def own_file(model: Path) -> Path:
    """Where the plugins of a model's own head lie."""
    return model.with_suffix(".plugins.py")


def prediction_path(run: str, fold: int, split: Split, tta: str) -> Path:
    """`tta` is the name of an experiment's predict settings: `d4`, `d4-128-160`."""
    return root("runs") / run / f"fold{fold}" / f"{split}.{tta}.npz"


def fold_folders(run: Path) -> dict[int, Path]:
    """The folders of a run's folds, by number; a copy beside them (fold0.bak) is none."""
    found = [path for path in run.glob("fold*") if re.fullmatch(r"fold\d+", path.name)]
    return dict(sorted((int(path.name[4:]), path) for path in found))


def how_far(fold: Path) -> tuple[bool, int]:
    """Whether the folder of a fold holds its finished model, and the epochs behind it."""
    epochs = [int(row["epoch"]) for row in log_of(fold)]
    return records.load(fold / "model.safetensors") is not None, max(epochs, default=0)


def log_of(fold: Path) -> list[dict[str, str]]:
    """The epochs behind it; none without a log."""
    if not (log := fold / "log.csv").is_file():
        return []
    with log.open(newline="") as file:
        return list(csv.DictReader(file))


def first_epoch_seconds(experiment: str, fold: int) -> float:
    """What a fold's log says of its head's start and first epoch; nothing without a log."""
    rows = log_of(model_path(Path(experiment).stem, fold).parent)
    return sum(float(row["seconds"]) for row in rows if int(row["epoch"]) < 2)


def finished(run: Path, folds: Sequence[int]) -> list[int]:
    """Those of `folds` whose models are done in a run's folder."""
    return [fold for fold in folds if how_far(run / f"fold{fold}")[0]]


def load_blend(name: str, asked: str = "") -> tuple[Path, dict[str, Any]]:
    """The test predictions that `ensemble` made, and their record. Raises UserError without.

    One of another version is of use, with a warning: it may have other scores, or another decision.
    """
    path = root("runs") / checked_name(name, "NAME") / "test.npz"
    record = records.load(path)
    if record is None:
        near = did_you_mean(name, [found.parent.name for found in root("runs").glob("*/test.npz")])
        way = f"run python -m pipeline.ensemble {asked or name}"  # asked: by a path
        raise UserError(f"{path}: no predictions{near}; {way}")
    if record["key"].get("version", BLEND_VERSION) != BLEND_VERSION:
        text = "scored by another version; the same python -m pipeline.ensemble scores it anew"
        warn_once("ensemble", f"{path}: {text}")
    return path, record


def submission_of(name: str) -> records.Record | None:
    """The record of a blend's submission; None where that is not of the blend as it is now."""
    made, (path, blend) = records.load(root("submissions") / f"{name}.csv"), load_blend(name)
    same = made and made["key"]["predictions"] == records.file_digest(path)
    known = same and (made["metric"], made["cv"]) == (blend["metric"], cv_of(blend))
    return made if known else None


def fold_paths(blend: dict[str, Any], fold: int) -> dict[str, Path]:
    """Where the members of a blend, by its record, have a fold's answers to the test."""
    members = blend["key"]["members"].items()
    return {run: prediction_path(run, fold, "test", about["tta"]) for run, about in members}


def folds_of(blend: dict[str, Any]) -> list[int]:
    """The folds that a blend holds of each member, by its record."""
    member = next(iter(blend["key"]["members"].values()))
    return sorted(int(name[4:]) for name in member if re.fullmatch(r"test\d+", name))


def is_of_model(answers: records.Record, model: records.Record) -> bool:
    """Whether answers are of a model as it is now, by the records of both."""
    return answers["key"].get("model") in (None, model["digest"])


def is_as_blended(blend: dict[str, Any], run: str) -> bool:
    """Whether a member's answers, and the models that gave them, are those of then, by the blend's
    record. What is gone is passed over."""
    about = blend["key"]["members"][run]
    for fold in folds_of(blend):
        split = "oof" if f"oof{fold}" in about else "test"  # folds: all
        made = records.load(prediction_path(run, fold, split, about["tta"]))
        model = records.load(model_path(run, fold))
        if made and made.get("digest") not in (None, about[f"{split}{fold}"]):
            return False
        if made and model and not is_of_model(made, model):
            return False
    return True


def has_oof(path: Path, blend: dict[str, Any]) -> bool:
    """Whether the out-of-fold answers beside a blend are those that its record scores."""
    oof = path.with_name("oof.npz")
    return not cv_of(blend)["folds"] or records.is_intact(oof, blend.get("oof", {}))


def cv_words(cv: dict[str, Any]) -> str:
    """A blend's scores in a line."""
    if not cv["folds"]:
        return "no CV: all pictures were trained on"
    return f"CV {mean_std(cv['folds'])}, OOF {cv['all']:.4f}"


def cv_of(record: dict[str, Any]) -> dict[str, Any]:
    """Scores of the blend, which stands last."""
    return list(record["scores"].values())[-1]
