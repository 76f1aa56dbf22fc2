"""What a training notebook needs of home, as one dataset: package, settings, split, weights.

It is this project in small: every file lies where the same commands look for it here.
"""

import shutil
from pathlib import Path

import yaml

from pipeline.base import records
from pipeline.base.cli import UserError, warn
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import Experiment, load_experiment, root
from pipeline.base.runs import fold_paths, load_blend, model_path
from pipeline.data.decisions import decisions_path
from pipeline.data.extra import read_extra
from pipeline.data.prepared import COLUMNS, Prepared, load_prepared
from pipeline.data.splits import chosen_folds, folds_path, load_folds
from pipeline.data.tables import read_rows
from pipeline.kaggle.bundle.notebook_file import (
    PACKAGE,
    make_bundle,
    slug_of,
    write_code,
    write_metadata,
    write_train_notebook,
)
from pipeline.kaggle.notebook.train_session import DATA, Job
from pipeline.training.keys import first_weights, is_trained, train_key

PROJECT = "code/project"  # in a bundle


def current_training(
    name: str, owner: str, folds: list[int] | None, hours: float
) -> tuple[Path, Competition]:
    """Make the training bundle of an experiment unless it is current; returns its folder.

    Raises UserError before `prepare` and `folds`, for CSVs that changed after `prepare`, for files
    named by paths of this machine, and for a fold that is trained with other settings.
    """
    settings = load_experiment(name)
    competition = load_competition(settings.competition)
    prepared, table = load_prepared(settings), load_folds(settings)
    chosen = chosen_folds(settings, folds)
    where = competition.slug or competition.name
    job = Job(
        experiment=settings.name,
        competition=where,
        picture=prepared.rows.path[prepared.rows.split == "train"].iloc[0],
        folds=chosen,
        hours=hours,
        kernel=f"{owner}/{slug_of(where, settings.name, 'train')}",
        pixels=prepared.record["digests"]["train"],
    )
    keys = {fold: train_key(settings, fold, prepared, table) for fold in chosen}
    for fold, own in keys.items():
        is_trained(model_path(settings.name, fold), own)
    tables = tables_of_home(competition, prepared)
    key = {
        "job": job.model_dump(),
        "settings": settings.model_dump(mode="json"),
        "competition": competition.key(),
        "folds": keys,
        "tables": {name: records.file_digest(path) for name, path in tables.items()},
    }

    def write(folder: Path) -> None:
        write_training(folder, job, settings, competition)
        for name, path in tables.items():
            copy_file(path, folder / PROJECT / DATA / name)

    out = root("runs") / settings.name / "train-bundle"
    told = f"folds {chosen}, {job.hours:g} h a session"
    make_bundle(out, key, write, told)
    return out, competition


def tables_of_home(competition: Competition, prepared: Prepared) -> dict[str, Path]:
    """The competition's CSVs that lie here, by name: they may have been made or mended here.

    Raises UserError where they are not those that `prepare` has read.
    """
    data, names = prepared.data, [competition.train, competition.test, competition.sample]
    found = {name: data / name for name in names if (data / name).is_file()}
    if competition.train not in found:
        warn("bundle", f"{data / competition.train} is gone: Kaggle's own is read there")
    elif competition.test in found:
        now, then = read_rows(competition, data), prepared.rows
        if now[COLUMNS].to_numpy().tolist() != then[COLUMNS].to_numpy().tolist():
            raise UserError(f"{data}: the CSVs changed after `prepare`: run that stage again")
    return found


def write_training(out: Path, job: Job, settings: Experiment, competition: Competition) -> None:
    owner, slug = job.kernel.split("/")
    dataset = slug_of(job.competition, settings.name, "train-files")
    project = out / PROJECT
    write_code(project)
    write_settings(project / PACKAGE.name, settings, competition)
    for path in files_of_home(settings, competition, job.folds):
        copy_file(path, project / place_of(path))
    write_first_weights(settings, project)
    about = f"# {settings.name} on {job.competition}: training of folds {job.folds}"
    made = f"Made by `python -m pipeline.bundle {settings.asked} --train`: change things there"
    write_train_notebook(out, f"{about}\n\n{made}, not here.", job, dataset)
    write_metadata(out, owner, slug, competition, job.hours, {"code": dataset})


def copy_file(path: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)


def write_settings(package: Path, settings: Experiment, competition: Competition) -> None:
    """The experiment and the competition by their files' names, wherever these lie here.

    The split and the decisions about labels go by the competition's file, whatever its `name:`.
    """
    rules_name = settings.competition_name
    away = {"name": True, "runtime": {"tracker"}}  # of which a session has neither network nor key
    values = settings.model_dump(mode="json", exclude_defaults=True, exclude=away)
    # whole, or a recipe there would change what is a default of the code here
    values |= settings.model_dump(mode="json", include={"model", "mix", "train"})
    values["competition"] = rules_name
    same = {"name"} if competition.name == rules_name else set()
    rules = competition.model_dump(mode="json", exclude_defaults=True, exclude=same)
    rules["metric"] = competition.metric  # its default is the task's
    files = {f"experiments/{settings.name}": values, f"competitions/{rules_name}": rules}
    for name, found in files.items():
        text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
        (package / "configs" / f"{name}.yaml").write_text(text, encoding="utf-8")


def files_of_home(settings: Experiment, rules: Competition, folds: list[int]) -> list[Path]:
    """The split, decisions about labels, a teacher's predictions and what folds start from, with
    their records."""
    labels = decisions_path(settings.competition_name)
    files = {folds_path(settings)} | ({labels} if labels.exists() else set())
    files |= {Path(plugins) for plugins in (settings.plugins, rules.plugins) if plugins}
    if settings.extra:
        rows, folder = read_extra(settings.extra, rules)
        files |= {Path(settings.extra.csv), *(folder / path for path in rows.path)}
    if settings.pseudo:
        blend, record = load_blend(settings.pseudo.run)
        files |= {blend, *(path for fold in folds for path in fold_paths(record, fold).values())}
    files |= {first_weights(settings, fold) for fold in folds} - {None}
    return sorted(files | {path for path in map(records.record_path, files) if path.is_file()})


def place_of(path: Path) -> Path:
    """Where it lies below the project. Raises UserError for a file outside of that."""
    for name in ("runs", "folds", "labels"):
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
