"""What a blend was made from, what it cost, and in which settings it differs."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.analysis.listing import model_words
from pipeline.analysis.past import trained_settings
from pipeline.base import records
from pipeline.base.cli import UserError, duration, mean_std
from pipeline.base.config import Experiment, root
from pipeline.base.runs import cv_of, model_path, prediction_path
from pipeline.inference.metrics import sign_of
from pipeline.training.keys import in_todays_terms


def cost_of(evidence: Evidence) -> dict[str, str]:
    """In words, from the records of all folds and members: seconds, size of all models, memory."""
    members, splits = evidence.record["key"]["members"].items(), ("oof", "test")
    runs = [(run, about["tta"], fold) for run, about in members for fold in evidence.folds]
    models = [model_path(run, fold) for run, _, fold in runs]
    answers = [
        prediction_path(run, fold, split, tta) for run, tta, fold in runs for split in splits
    ]
    trained, predicted = ([records.load(path) or {} for path in some] for some in (models, answers))
    size = sum(path.stat().st_size for path in models if path.exists())
    precision = trained[0].get("precision", "")
    ram = max(found.get("peak", {}).get("ram_gb", 0) for found in trained)
    return {
        "train": duration(sum(found.get("seconds", 0) for found in trained)),
        "predict": duration(sum(found.get("seconds", 0) for found in predicted)),
        "models": f"{size / 1e6:,.0f} MB",
        "memory": f"{ram:.1f} GB" if ram else "",
        "precision": "fp32" if precision == "no" else precision,  # Accelerate's word
    }


def members_of(evidence: Evidence) -> list[dict[str, str]]:
    """A line for each run of the blend: name, what it is, its weight, its score."""
    key, found = evidence.record["key"], []
    for run, about in key["members"].items():
        model = records.load(model_path(run, evidence.folds[0]))
        what = "answers of others"
        if model:
            what = f"{model_words(in_todays_terms(model['key']))}, views: {about['tta']}"
        scores = evidence.record["scores"].get(f"{run} {about['tta']}", {"folds": [np.nan]})
        weight, cv = f"{key['weights'][run]:.2f}", mean_std(scores["folds"])
        found.append({"name": run, "what": what, "weight": weight, "cv": cv})
    return found


def settings_table(settings: Experiment) -> list[dict[str, Any]]:
    """Every setting of science: name, value, and whether it differs from the default."""
    plain = Experiment(competition=settings.competition, name=settings.name)
    ours, default = (
        pd.json_normalize(science(one)).to_dict("records")[0] for one in (settings, plain)
    )
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
    the same competition and metric, on the same folds if there is one, whose settings differ least,
    the newest of equals.

    Its name, CV, whether its folds are the `same`, and what differs, as `train.lr: 0.001 → 0.0005`
    from it to this one.
    """
    ours, key, found = science(evidence.settings), evidence.record["key"], []
    several = len(key["weights"]) > 1
    for path in sorted(root("runs").glob("*/test.npz")):
        name = path.parent.name
        if name == evidence.name or (several and name not in key["weights"]):
            continue
        try:
            record = records.load(path)
            if not record or not is_one_run(record, evidence.record):
                continue
            changes = records.differences(science(trained_settings(record)), ours)
        except UserError:  # damaged, or without its models
            continue
        cv, near = cv_of(record)["folds"], float(-len(changes))
        if several:
            changes = records.differences(record["key"]["weights"], key["weights"])
            near = float(sign_of(record["metric"]) * np.mean(cv))
        same = record["key"]["folds"] == key["folds"]
        found.append((same, near, record["date"], name, mean_std(cv), changes))
    if not found:
        return None
    same, _, _, name, cv, changes = max(found)
    return {"name": name, "cv": cv, "changes": changes, "same": same}


def is_one_run(blend: dict[str, Any], like: dict[str, Any]) -> bool:
    """Whether a blend is of one run, of the competition and metric of `like`, and has scores."""
    ours, theirs = ((one["key"]["competition"], one["metric"]) for one in (blend, like))
    return ours == theirs and len(blend["key"]["members"]) == 1 and bool(cv_of(blend)["folds"])


def science(settings: Experiment) -> dict[str, Any]:
    return settings.model_dump(include={"model", "augment", "mix", "train", "predict"}, mode="json")


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
