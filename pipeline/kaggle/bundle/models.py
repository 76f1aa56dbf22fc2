"""The models behind an ensemble: found, compared with what it was made of, copied for Kaggle."""

import shutil
from pathlib import Path
from typing import Any

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.runs import model_path, prediction_path
from pipeline.data.prepared import Prepared, load_pictures
from pipeline.kaggle.notebook.manifest import Member, sha256


def find_members(ensemble: dict[str, Any]) -> list[Member]:
    """Every fold of every run in an ensemble's record; the sha256 of their files come later.

    Raises UserError where a model or its predictions are not those the ensemble was made of.
    """
    return [
        find_member(ensemble, run, fold)
        for run, about in ensemble["key"]["members"].items()
        for fold in range(sum(name.startswith("test") for name in about))
    ]


def find_member(ensemble: dict[str, Any], run: str, fold: int) -> Member:
    about, model = ensemble["key"]["members"][run], model_path(run, fold)
    test = prediction_path(run, fold, "test", about["tta"])
    trained, made = records.load(model), records.load(test)
    again = f"run python -m pipeline.predict {run}, then pipeline.ensemble, again"
    if trained is None or made is None:
        raise UserError(f"{model if trained is None else test}: gone; {again}")
    same = made["key"]["model"] == trained["digest"]
    if not same or records.file_digest(test) != about[f"test{fold}"]:
        raise UserError(f"{model}: not the model behind the ensemble's predictions; {again}")
    return Member(
        file=f"{run}-fold{fold}.safetensors",
        sha256={},
        run=run,
        fold=fold,
        weight=ensemble["key"]["weights"][run],
        looks=about["tta"],
        trained=trained["preprocessing"]["size"],
        pixels=made["key"]["size"],
        fit=trained["preprocessing"]["fit"],
    )


def record_of(member: Member) -> dict[str, Any]:
    """What training said of the member's model."""
    return records.load(model_path(member.run, member.fold))


def pictures_of(member: Member, competition: str) -> Prepared:
    """The packed pictures the member was trained on; its name tells its competition's folder."""
    return load_pictures(competition, member.pixels, member.fit, member.run)


def pack_member(member: Member, folder: Path) -> Member:
    """Copy a model and its record; returns the member with the sha256 of both files."""
    source, target = model_path(member.run, member.fold), folder / member.file
    shutil.copyfile(source, target)
    record = {**record_of(member), "digest": records.file_digest(target)}
    if "taps" not in record:  # trained before they were written down
        from pipeline.model.build import load_model  # late: torch

        record["taps"] = getattr(load_model(source)[0], "taps", None)
    records.write_json(records.record_path(target), record)
    files = [target, records.record_path(target)]
    return member.model_copy(update={"sha256": {path.name: sha256(path) for path in files}})
