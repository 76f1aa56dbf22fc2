"""What a training notebook needs of home, as one dataset: package, settings, split, weights.

It is this project in small: every file lies where the same commands look for it here.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from pipeline.base import records
from pipeline.base.cli import UserError, say, took
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import Experiment, load_experiment, root
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import chosen_folds, folds_path, load_folds
from pipeline.kaggle.bundle.notebook_file import (
    PACKAGE,
    code_digests,
    slug_of,
    write_code,
    write_metadata,
    write_train_notebook,
)
from pipeline.kaggle.notebook.train_session import Job
from pipeline.training.keys import first_weights, train_key

VERSION = 2


def current_training(
    name: str, owner: str, folds: list[int] | None, hours: float
) -> tuple[Path, Competition]:
    """Make the training bundle of an experiment unless it is current; returns its folder.

    Raises UserError before `prepare` and `folds`, and for files named by paths of this machine.
    """
    started, settings = time.monotonic(), load_experiment(name)
    competition = load_competition(settings.competition)
    prepared, table = load_prepared(settings), load_folds(settings)
    chosen = chosen_folds(settings, folds)
    where = competition.slug or competition.name
    job = Job(
        experiment=settings.name,
        competition=where,
        train=competition.train,
        folds=chosen,
        hours=hours,
        kernel=f"{owner}/{slug_of(where, settings.name, 'train')}",
        pixels=prepared.record["digests"]["train"],
    )
    key = {
        "version": VERSION,
        "job": job.model_dump(),
        "settings": settings.model_dump(mode="json"),
        "competition": competition.model_dump(mode="json"),
        "folds": {fold: train_key(settings, fold, prepared, table) for fold in chosen},
        "code": code_digests(),
    }
    out = root("runs") / settings.name / "train-bundle"
    made = records.make(out, key, lambda: write_training(out, job, settings, competition))
    told = f"folds {chosen}, {job.hours:g} h a session, {records.load(out)['mb']:,.1f} MB"
    say("bundle", f"{out}: {told}, {took(started) if made else 'up to date'}")
    return out, competition


def write_training(
    out: Path, job: Job, settings: Experiment, competition: Competition
) -> dict[str, Any]:
    """Write the folders beside `out` and put them in its place; returns facts for its record."""
    tmp, (owner, slug) = out.with_name(".train-bundle.tmp"), job.kernel.split("/")
    dataset = slug_of(job.competition, settings.name, "train-files")
    shutil.rmtree(tmp, ignore_errors=True)
    project = tmp / "code" / "project"
    write_code(project)
    write_settings(project / PACKAGE.name, settings, competition)
    for path in files_of_home(settings, job.folds):
        copy = project / place_of(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    write_first_weights(settings, project)
    about = (
        f"# {settings.name} on {job.competition}: training of folds {job.folds}\n\nMade by "
        f"`python -m pipeline.bundle {settings.name} --train`: change things there, not here."
    )
    write_train_notebook(tmp, about, job, dataset)
    write_metadata(tmp, owner, slug, competition, job.hours, {"code": dataset})
    records.put_folder(tmp, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"mb": round(size / 1e6, 1)}


def write_settings(package: Path, settings: Experiment, competition: Competition) -> None:
    """The experiment and the competition by name, wherever their YAML lies here."""
    values = settings.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    values["competition"] = competition.name
    write_yaml(package / "configs" / "experiments" / f"{settings.name}.yaml", values)
    values = competition.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    write_yaml(package / "configs" / "competitions" / f"{competition.name}.yaml", values)


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def files_of_home(settings: Experiment, folds: list[int]) -> list[Path]:
    """The split and what folds start from, with their records."""
    files = {folds_path(settings)}
    for fold in folds:
        files |= {path for path in [first_weights(settings, fold)] if path}
    return sorted(files | {path for path in map(records.record_path, files) if path.is_file()})


def place_of(path: Path) -> Path:
    """Where it lies below the project. Raises UserError for a file outside of that."""
    for name in ("runs", "folds"):
        if path.is_relative_to(root(name)):
            return Path(name) / path.relative_to(root(name))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{path}: name it relative to the project, or Kaggle will not find it")
    return path


def write_first_weights(settings: Experiment, project: Path) -> None:
    """Those of a hub or package, which Kaggle does not reach; UserError if they cannot be had."""
    if settings.model.weights in ("hub", "pypi"):
        from pipeline.model.backbone import build_backbone, kept_weights  # late: torch
        from pipeline.model.build import save_weights

        (project / "weights").mkdir(exist_ok=True)
        native = settings.model.model_copy(update={"size": None})  # other sizes are made of it
        name = kept_weights(settings.model).name
        save_weights(build_backbone(native, 0), project / "weights" / name)
