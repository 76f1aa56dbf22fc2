"""What a training notebook needs of home: package and settings, the split, first weights.

Settings lie in the package's own folders, as its experiments do; everything else is luggage.
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
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import chosen_folds, folds_digest, folds_path, load_folds
from pipeline.kaggle.bundle.notebook_file import (
    PACKAGE,
    code_digests,
    describe_dataset,
    kernel_metadata,
    slug_of,
    train_notebook,
    write_code,
    write_notebook,
)
from pipeline.kaggle.notebook import inputs
from pipeline.kaggle.notebook.train_session import Job
from pipeline.training.keys import first_weights, teacher_files, train_key

VERSION = 1


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
    job = make_job(settings, competition, prepared, owner, chosen, hours)
    key = {
        "version": VERSION,
        "job": job.model_dump(),
        "settings": settings.model_dump(mode="json"),
        "competition": competition.model_dump(mode="json"),
        "folds": {fold: train_key(settings, fold, prepared, table) for fold in chosen},
        "code": code_digests(),
    }
    out = root("runs") / settings.name / "train-bundle"
    split = folds_digest(table)
    made = records.make(out, key, lambda: bundle_training(out, job, settings, competition, split))
    told = f"folds {chosen}, {job.hours:g} h a session, {records.load(out)['mb']:,.1f} MB"
    say("bundle", f"{out}: {told}, {took(started) if made else 'up to date'}")
    return out, competition


def make_job(
    settings: Experiment,
    competition: Competition,
    prepared: Prepared,
    owner: str,
    folds: list[int],
    hours: float,
) -> Job:
    where = competition.slug or competition.name
    parts = ["code"] if settings.model.weights == "none" else ["code", "weights"]
    return Job(
        experiment=settings.name,
        competition=where,
        train=competition.train,
        folds=folds,
        hours=hours,
        datasets=[slug_of(where, settings.name, f"train-{part}") for part in parts],
        kernel=f"{owner}/{slug_of(where, settings.name, 'train')}",
        facts=str((prepared.folder / "images.csv").relative_to(root("runs"))),
        pixels=prepared.record["digests"]["train"],
    )


def bundle_training(
    out: Path, job: Job, settings: Experiment, competition: Competition, split: str
) -> dict[str, Any]:
    """Write the folders beside `out` and put them in its place; returns facts for its record.

    `split` is the digest of the folds.
    """
    tmp, (owner, slug) = out.with_name(".train-bundle.tmp"), job.kernel.split("/")
    shutil.rmtree(tmp, ignore_errors=True)
    write_code(tmp / "code")
    write_settings(tmp / "code" / PACKAGE.name, settings, competition)
    inputs.pack(small_files(settings, job.folds, split), tmp / "code")
    if len(job.datasets) > 1:
        inputs.pack(weight_files(settings, job.folds, tmp / "first"), tmp / "weights")
        shutil.rmtree(tmp / "first", ignore_errors=True)
    for dataset in job.datasets:
        describe_dataset(tmp / dataset.rpartition("-")[2], owner, dataset)
    about = (
        f"# {settings.name} on {job.competition}: training of folds {job.folds}\n\nMade by "
        f"`python -m pipeline.bundle {settings.name} --train`: change things there, not here."
    )
    book = train_notebook(about, job, job.datasets[0])
    metadata = kernel_metadata(owner, slug, competition, job.datasets, job.hours)
    write_notebook(tmp / "notebook", book, metadata)
    records.put_folder(tmp, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    facts = {"kernel": job.kernel, "datasets": job.datasets, "mb": round(size / 1e6, 1)}
    return {**facts, "backbones": [settings.model.backbone]}


def write_settings(package: Path, settings: Experiment, competition: Competition) -> None:
    """The experiment, its teacher and the competition by name, wherever their YAML lies here."""
    experiments = [settings]
    if settings.train.distill:
        experiments.append(load_experiment(settings.train.distill))
    for one in experiments:
        values = one.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        values["competition"] = competition.name
        write_yaml(package / "configs" / "experiments" / f"{one.name}.yaml", values)
    values = competition.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    write_yaml(package / "configs" / "competitions" / f"{competition.name}.yaml", values)


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def small_files(settings: Experiment, folds: list[int], split: str) -> dict[str, Path]:
    """By their places: the split, what the teacher said of it, names of classes."""
    if settings.train.distill and settings.train.distill.endswith((".yaml", ".yml")):
        raise UserError("train.distill: on Kaggle it must be a name, its file in experiments/")
    table = folds_path(settings)
    files = {f"folds/{table.name}": table}
    for fold in folds:
        for path in teacher_files(settings, fold, split).values():
            files[place_of(path)] = path
    files |= {f"{place}.json": records.record_path(path) for place, path in files.items()}
    if settings.model.names:
        files[place_of(settings.model.names)] = Path(settings.model.names)
    return {place: path for place, path in files.items() if path.is_file()}


def weight_files(settings: Experiment, folds: list[int], scratch: Path) -> dict[str, Path]:
    """By their places: the weights that folds start from; made in `scratch` where they have none.

    Raises UserError when the backbone's first weights cannot be had.
    """
    if settings.model.weights in ("hub", "pypi"):
        from pipeline.model.backbone import build_backbone, kept_weights
        from pipeline.model.build import save_weights  # late: torch

        name = kept_weights(settings.model).name
        native = settings.model.model_copy(update={"size": None})  # other sizes are made of it
        save_weights(build_backbone(native, 0), scratch / name)
        return {f"weights/{name}": scratch / name}
    files = {place_of(path): path for fold in folds if (path := first_weights(settings, fold))}
    for place, path in list(files.items()):
        if records.load(path):
            files[f"{place}.json"] = records.record_path(path)
    return files


def place_of(path: Path | str) -> str:
    """Where the notebook looks for a file. Raises UserError for one outside of the project."""
    path = Path(path)
    if path.is_relative_to(root("runs")):
        return str(Path("runs") / path.relative_to(root("runs")))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{path}: name it relative to the project, or Kaggle will not find it")
    return str(path)
