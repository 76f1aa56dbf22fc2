"""What a blend was made from, what it cost, and in which settings it differs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.analysis.leaderboard import sign_of
from pipeline.analysis.past import trained_settings
from pipeline.base import records
from pipeline.base.cli import UserError, duration, mean_std
from pipeline.base.config import Experiment, root
from pipeline.base.runs import cv_of, model_path, prediction_path


@dataclass(frozen=True)
class Cost:
    """Seconds from the records, of all folds and members; `bytes` of all models."""

    train: float
    predict: float
    bytes: int
    ram_gb: float
    precision: str

    def words(self) -> dict[str, str]:
        return {
            "train": duration(self.train),
            "predict": duration(self.predict),
            "models": f"{self.bytes / 1e6:,.0f} MB",
            "memory": f"{self.ram_gb:.1f} GB" if self.ram_gb else "",
            "precision": self.precision,
        }


def cost_of(evidence: Evidence) -> Cost:
    models, predictions, sizes = [], [], 0
    for run, about in evidence.record["key"]["members"].items():
        for fold in evidence.folds:
            model = model_path(run, fold)
            models.append(records.load(model) or {})
            sizes += model.stat().st_size if model.exists() else 0
            paths = [prediction_path(run, fold, split, about["tta"]) for split in ("oof", "test")]
            predictions += [records.load(path) or {} for path in paths]
    return Cost(
        train=sum(found.get("seconds", 0) for found in models),
        predict=sum(found.get("seconds", 0) for found in predictions),
        bytes=sizes,
        ram_gb=max(found.get("peak", {}).get("ram_gb", 0) for found in models),
        precision=models[0].get("precision", ""),
    )


def members_of(evidence: Evidence) -> list[dict[str, str]]:
    """A line for each run of the blend: name, what it is, its weight, its score."""
    key, found = evidence.record["key"], []
    for run, about in key["members"].items():
        trained = (records.load(model_path(run, evidence.folds[0])) or {"key": {}})["key"]
        model, epochs = trained.get("model", {}), trained.get("train", {}).get("epochs")
        how = f"epochs: {epochs}" if epochs else "head in closed form"
        what = f"{model.get('backbone')} at {model.get('size')} px, {how}, views: {about['tta']}"
        scores = evidence.record["scores"].get(f"{run} {about['tta']}", {"folds": [np.nan]})
        weight, cv = f"{key['weights'][run]:.2f}", mean_std(scores["folds"])
        found.append({"name": run, "what": what, "weight": weight, "cv": cv})
    return found


def logs_of(run: str, folds: Sequence[int]) -> list[pd.DataFrame]:
    """The logs of a run's folds that have one."""
    paths = [model_path(run, fold).with_name("log.csv") for fold in folds]
    return [pd.read_csv(path) for path in paths if path.is_file()]


def flat(values: dict[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested settings as (`train.lr`, 0.001)."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


def settings_table(settings: Experiment) -> list[dict[str, Any]]:
    """Every setting of science: name, value, and whether it differs from the default."""
    science = {"model": ..., "augment": ..., "mix": ..., "train": ..., "predict": ...}
    ours = dict(flat(settings.model_dump(include=set(science), mode="json")))
    plain = Experiment(competition=settings.competition, name=settings.name)
    default = dict(flat(plain.model_dump(include=set(science), mode="json")))
    return [
        {"name": name, "value": in_yaml(value), "changed": value != default.get(name)}
        for name, value in ours.items()
    ]


def in_yaml(value: Any) -> str:
    """As a person would write it."""
    if isinstance(value, list):
        return " · ".join(map(in_yaml, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_yaml(item)}".strip() for key, item in value.items())
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def nearest_run(evidence: Evidence) -> dict[str, Any] | None:
    """What a blend is held against. Of several runs: the best of them. Of one: the finished run of
    the same competition, on the same folds if there is one, whose settings differ least, the newest
    of equals.

    Its name, CV, whether its folds are the `same`, and what differs, as `train.lr: 0.001 → 0.0005`
    from it to this one.
    """
    ours, key, found = science(evidence.settings), evidence.record["key"], []
    for path in sorted(root("runs").glob("*/test.npz")):
        name, other = path.parent.name, other_run(path, evidence)
        if other is None or (len(key["weights"]) > 1 and name not in key["weights"]):
            continue
        settings, record = other
        changes, cv = records.differences(science(settings), ours), cv_of(record)["folds"]
        near = (-len(changes), record["date"])
        if len(key["weights"]) > 1:
            near = (float(sign_of(record["metric"]) * np.mean(cv)), record["date"])
            changes = records.differences(record["key"]["weights"], key["weights"])
        found.append((record["key"]["folds"] == key["folds"], near, name, mean_std(cv), changes))
    if not found:
        return None
    same, _, name, cv, changes = max(found)
    return {"name": name, "cv": cv, "changes": changes, "same": same}


def other_run(path: Path, evidence: Evidence) -> tuple[Experiment, dict[str, Any]] | None:
    """Settings and record of a blend of one run of the same competition, else nothing."""
    if path.parent.name == evidence.name:
        return None
    try:
        record = records.load(path)
        same = record and record["key"]["competition"] == evidence.record["key"]["competition"]
        if not same or len(record["key"]["members"]) != 1 or not cv_of(record)["folds"]:
            return None
        return trained_settings(record), record
    except UserError:  # damaged, or without its models
        return None


def science(settings: Experiment) -> dict[str, Any]:
    return settings.model_dump(include={"model", "augment", "mix", "train", "predict"}, mode="json")


def hidden_score(name: str) -> float | None:
    """The score on known answers that `submit` wrote down, if it did."""
    record = records.load(root("submissions") / f"{name}.csv")
    return record.get("hidden") if record else None


def provenance_of(evidence: Evidence) -> list[tuple[str, str]]:
    record = evidence.record
    versions = " · ".join(f"{name} {version}" for name, version in record["versions"].items())
    return [
        ("made", record["date"]),
        ("git", record["git"] or "-"),
        ("folds", f"{evidence.settings.folds.name}.csv, digest {record['key']['folds']}"),
        ("pictures", str(evidence.prepared.folder)),
        ("versions", versions),
    ]
