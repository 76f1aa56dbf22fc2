"""The models behind an ensemble: found, compared with what it was made of, copied for Kaggle."""

import shutil
from pathlib import Path
from typing import Any

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Predict
from pipeline.base.runs import model_path, prediction_path
from pipeline.kaggle.notebook.manifest import BundledModel


def find_models(ensemble: dict[str, Any]) -> list[BundledModel]:
    """Every fold of every run in an ensemble's record.

    Raises UserError where a model or its predictions are not those the ensemble was made of.
    """
    return [
        find_model(ensemble, run, fold)
        for run, about in ensemble["key"]["members"].items()
        for fold in range(sum(name.startswith("test") for name in about))
    ]


def find_model(ensemble: dict[str, Any], run: str, fold: int) -> BundledModel:
    about, model = ensemble["key"]["members"][run], model_path(run, fold)
    test = prediction_path(run, fold, "test", about["tta"])
    trained, made = records.load(model), records.load(test)
    again = f"run python -m pipeline.predict {run}, then pipeline.ensemble, again"
    if trained is None or made is None:
        raise UserError(f"{model if trained is None else test}: gone; {again}")
    same = made["key"]["model"] == trained["digest"] and records.is_intact(model, trained)
    if not same or records.file_digest(test) != about[f"test{fold}"]:
        raise UserError(f"{model}: not the model behind the ensemble's predictions; {again}")
    return BundledModel(
        file=f"{run}-fold{fold}.safetensors",
        run=run,
        fold=fold,
        weight=ensemble["key"]["weights"][run],
        predict=Predict.named(about["tta"]),
        pixels=made["key"]["size"],
        fit=trained["preprocessing"]["fit"],
    )


def record_of(model: BundledModel) -> dict[str, Any]:
    """What training said of the model."""
    return records.load(model_path(model.run, model.fold))


def copy_model(model: BundledModel, folder: Path) -> None:
    """Copy a model's weights and its record, which tells whether the copy is whole."""
    source, target = model_path(model.run, model.fold), folder / model.file
    shutil.copyfile(source, target)
    record = record_of(model)
    if "taps" not in record:  # trained before they were written down
        from pipeline.model.build import load_model  # late: torch

        record["taps"] = getattr(load_model(source)[0], "taps", None)
    records.write_json(records.record_path(target), record)
