"""What a submission's notebook needs of home: the package, and the models behind an ensemble.

They are compared with what the ensemble was made of, and copied with their records.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import Predict
from pipeline.base.forms import as_array
from pipeline.base.runs import (
    GIVEN,
    cv_of,
    cv_words,
    folds_of,
    load_blend,
    model_path,
    own_file,
    prediction_path,
)
from pipeline.data.prepared import load_folder, prepared_folder
from pipeline.inference.blending import Mean
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.bundle.notebook_file import (
    make_bundle,
    slug_of,
    write_code,
    write_metadata,
    write_submit_notebook,
)
from pipeline.kaggle.notebook.manifest import FILE, BundledModel, Job, Manifest


def current_submission(name: str, owner: str) -> tuple[Path, Competition]:
    """Make the bundle of an ensemble unless it is current; returns its folder."""
    blend, record = load_blend(name)
    competition = load_competition(record["key"]["competition"])
    runs, mean = record["key"]["members"], record["key"].get("mean", Mean.PROBABILITIES)
    models = [find_model(record, run, fold) for run in runs for fold in folds_of(record)]
    where = competition.slug or competition.name
    code, weights, kernel = (slug_of(where, name, end) for end in ("code", "weights", "submit"))
    decision = {"decision": record["decision"]} if "decision" in record else {}
    key = {
        **decision,
        "owner": owner,
        "competition": competition.key(),
        "models": {model.file: record_of(model)["digest"] for model in models},
        "blend": records.file_digest(blend),
    }

    def write(out: Path) -> None:
        write_weights(out / "weights", competition, blend, models, mean, record.get("decision"))
        write_code(out / "code")
        # no score is computed there: a metric of the user's is not asked for
        plain = {"plugins": None, "metric": competition.form.metrics[0]}
        rules = competition.model_copy(update=plain if competition.plugins else {})
        job = Job(competition=rules, weights=weights)
        write_submit_notebook(out, heading(name, where, record), job, competition, code)
        datasets = {"code": code, "weights": weights}
        write_metadata(out, owner, kernel, competition, competition.limit_hours, datasets)

    make_bundle(out := blend.with_name("bundle"), key, write, f"{len(models)} models")
    return out, competition


def write_weights(
    folder: Path,
    competition: Competition,
    blend: Path,
    models: list[BundledModel],
    mean: Mean,
    decision: dict[str, Any] | None,
) -> None:
    """The models, their records and the manifest, whose classes stand in the order of the blend."""
    folder.mkdir(parents=True)
    first, classes = models[0], Predictions.load(blend).classes
    own = Path(record_of(first)["competition"]).stem
    rows = load_folder(prepared_folder(own, first.pixels, first.fit), first.run).rows
    targets = as_array(competition.form.targets(rows.label[rows.split == "train"], classes))
    counted = targets.ndim == 1
    sums = np.bincount(targets, minlength=len(classes)) if counted else targets.sum(0)
    prior = (sums / len(targets)).tolist()
    for model in models:
        copy_model(model, folder)
    manifest = Manifest(classes=classes, prior=prior, models=models, mean=mean, decision=decision)
    records.write_json(folder / FILE, manifest.model_dump(mode="json"))


def heading(name: str, competition: str, record: dict[str, Any]) -> str:
    cv, git = cv_of(record), record["git"] or "unknown"
    runs = ", ".join(f"{run} × {weight:.2g}" for run, weight in record["key"]["weights"].items())
    told = f"{record['metric']} {cv_words(cv)}; runs: {runs}; git {git}."
    made = f"Made by `python -m pipeline.bundle {name}`: change things there, not here."
    return f"# {name} on {competition}\n\n{told}\n\n{made}"


def find_model(ensemble: dict[str, Any], run: str, fold: int) -> BundledModel:
    """A fold of a run in an ensemble's record.

    Raises UserError where it or its predictions are not those the ensemble was made of.
    """
    about, model = ensemble["key"]["members"][run], model_path(run, fold)
    if about["tta"] == GIVEN:
        raise UserError(f"{run}: answers of others, which a notebook cannot make: blend without")
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
    if "plugins" in record:
        shutil.copyfile(own_file(source), own_file(target))
    records.write_json(records.record_path(target), record)
