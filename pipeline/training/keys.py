"""What the weights of a fold depend on, and whether they are those of today's settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, Mix, Model, Train
from pipeline.base.locks import locked
from pipeline.base.runs import model_path, own_file
from pipeline.data.decisions import load_changes
from pipeline.data.extra import extra_key
from pipeline.data.prepared import Prepared
from pipeline.data.splits import folds_digest
from pipeline.training.pseudo import pseudo_key

TRAINING = 1  # version of what is done to weights
RETIRED = ("teacher", "names")  # digests of files of settings that are retired


def train_key(
    settings: Experiment, fold: int, prepared: Prepared, table: pd.DataFrame
) -> dict[str, Any]:
    """All a fold's weights depend on."""
    folds = folds_digest(table)
    return {
        "version": TRAINING,
        **settings.key(),
        "fold": fold,
        "folds": folds,
        "pixels": prepared.record["digests"]["train"],
        "first_weights": first_weights_digest(settings, fold, folds),
        **load_changes(settings, prepared).key(),
        **pseudo_key(settings, fold, prepared, folds),
        **task_key(settings),
        **extra_key(settings),
        **({"plugins": records.file_digest(Path(settings.plugins))} if settings.plugins else {}),
    }


def task_key(settings: Experiment) -> dict[str, str]:
    """For the key of what is not of one class a picture; labels alone do not tell it."""
    rules = load_competition(settings.competition)
    found = {} if rules.form.kind == "shares" else {"task": rules.task}
    return found | ({} if rules.transform == "none" else {"transform": rules.transform})


def is_trained(model: Path, key: dict[str, Any], force: bool = False) -> bool:
    """Whether a fold is done; `force` forgets what must not go on.

    Raises UserError for that otherwise: what other settings made or began, and damaged weights.
    """
    record, problem = records.load(model), ""
    again = "delete its folder (train, ablate: --force) to train the fold again"
    if changes := made_otherwise(model, key):
        problem = f"{model.parent} was trained with other settings: {records.in_words(changes)}"
        problem += f"; take a new name, or {again}"
    elif record and not records.is_intact(model, record):
        problem = f"{model}: not the weights that its record describes: a damaged copy? Restore"
        problem += f" the file, or {again}"
    if problem and not force:
        raise UserError(problem)
    if problem:
        with locked(model.parent):  # not while another process trains it
            names = ("model.safetensors.json", model.name, "last.pt", "started.json")
            for name in (*names, own_file(model).name):
                model.with_name(name).unlink(missing_ok=True)
    return record is not None and not problem


def refuse_edited(run: str, launched: dict[str, Any], keys: Iterable[dict[str, Any]]) -> None:
    """Raise UserError for keys that are not the one a fold's process was `launched` with.

    Whoever edits an experiment while its folds train would mix two of them in one CV.
    """
    for key in keys:
        if changes := key_changes(launched, key):
            text = f"{run} was edited while its folds train: {records.in_words(changes)}"
            raise UserError(f"{text}; undo that and the same command goes on, or take a new name")


def made_otherwise(model: Path, key: dict[str, Any]) -> list[str]:
    """How the settings of a fold that is done or begun differ from `key`."""
    last, started = model.with_name("last.pt"), model.with_name("started.json")
    if record := records.load(model):
        return key_changes(record["key"], key)
    if not last.exists():
        return []
    if not started.exists():
        return [f"{started.name}, which tells them, is missing"]
    return key_changes(records.read_json(started), key)


def key_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """How a fold's key differs from an `old` one, which may be of an earlier version."""
    return records.differences(in_todays_terms(old), records.plain(new))


def in_todays_terms(old: dict[str, Any]) -> dict[str, Any]:
    """A fold's key of any version, as it would be written today.

    A setting that the old key lacks had not been thought of: it is taken to have had its default,
    whose meaning for a setting that comes later must be "as before". One that is retired must have
    been off, else it stays.
    """
    before = {name: value for name, value in old.items() if value or name not in RETIRED}
    for section, cls in {"model": Model, "mix": Mix, "train": Train}.items():
        if isinstance(old.get(section), dict):
            known = {**cls().model_dump(mode="json", by_alias=True), **old[section]}
            off = cls.RETIRED.items()
            before[section] = {name: v for name, v in known.items() if (name, v) not in off}
    return before


def first_weights(settings: Experiment, fold: int) -> Path | None:
    """The file that training starts from; None where a name (hub, pypi, none) says it all.

    `run:NAME` means the same fold of that run: any other has seen this fold's held-out images.
    """
    source = settings.model.weights
    if source in ("hub", "pypi", "none"):
        return None
    if not source.startswith("run:"):
        return Path(source)
    path = model_path(source.removeprefix("run:"), fold)
    if records.load(path) is None:
        raise UserError(f"model.weights: {source} has no finished fold {fold} ({path})")
    return path


def first_weights_digest(settings: Experiment, fold: int, folds: str) -> str | None:
    """Digest of `first_weights` for the key; `folds` is the digest of this run's split.

    Raises UserError for a missing file, or for a run of this competition on other folds.
    """
    path = first_weights(settings, fold)
    if path is None:
        return None
    if not path.is_file():
        raise UserError(f"model.weights: no file {str(path)!r}; or: hub, pypi, none, run:NAME")
    record = records.load(path)
    # by name, since a run that was trained on Kaggle knows no paths of this machine
    same = record and Path(record["competition"]).stem == settings.competition_name
    if same and record["key"]["folds"] != folds:
        raise UserError(f"model.weights: {path} was trained on other folds: it would leak")
    if same and record["key"]["fold"] != fold:
        text = f"model.weights: {path} has seen what fold {fold} holds out: it would leak"
        raise UserError(f"{text}; run:NAME takes the same fold of a run")
    return records.file_digest(path)
