"""What a finished run was trained with: its settings and folds, whatever its YAML says by now."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from pipeline.base import records
from pipeline.base.cli import UserError, short
from pipeline.base.config import Experiment, Mix, Model, Predict, Train, read_experiment, root
from pipeline.base.runs import folds_of, model_path, own_file
from pipeline.data.splits import folds_digest, load_folds


def trained_settings(record: dict[str, Any], run: str = "") -> Experiment:
    """Settings of a blend's run, or the first of them, whatever its YAML says by now."""
    run = run or next(iter(record["key"]["members"]))
    about = record["key"]["members"][run]
    model = model_path(run, folds_of(record)[0])
    trained = records.load(model)
    if trained is None:
        raise UserError(f"{model}: no trained model; run python -m pipeline.train {run}")
    parts = {part: trained["key"][part] for part in ("model", "augment", "mix", "train")}
    for part, cls in {"model": Model, "mix": Mix, "train": Train}.items():  # on or off, it is past
        parts[part] = {name: v for name, v in parts[part].items() if name not in cls.RETIRED}
    split = {"n": record["key"].get("of", len(folds_of(record)))}
    try:
        return Experiment(
            name=run,
            competition=record["key"]["competition"],
            predict=Predict.named(about["tta"]),
            folds=split,
            plugins=plugins_of_then(model, trained["key"].get("plugins")),
            **parts,
        )
    except ValidationError as error:
        text = f"settings of another version ({short(error, 120)})"
        raise UserError(f"{model}.json: {text}; train it under a new name") from None


def plugins_of_then(model: Path, digest: str | None) -> str | None:
    """The file of that digest, beside a run's model or where its YAML names it; None if it is gone,
    or another by now."""
    if digest is None:
        return None
    found = [own_file(model)]
    with suppress(UserError):  # of a YAML that is gone, or unlike what it was
        found.append(Path(read_experiment(model.parent.parent.name).plugins or ""))
    same = (path for path in found if path.is_file() and records.file_digest(path) == digest)
    return next(map(str, same), None)


def find_folds(settings: Experiment, digest: str) -> tuple[Experiment, pd.DataFrame]:
    """The folds file of a digest, which may have any name. Raises UserError where it is gone."""
    own = settings.competition_name  # whose files are named so, if nobody named them otherwise
    paths = sorted(root("folds").glob("*.csv"), key=lambda p: (not p.stem.startswith(own), p))
    for path in paths:
        split = settings.folds.model_copy(update={"name": path.stem})
        named = settings.model_copy(update={"folds": split})
        try:
            table = load_folds(named)
        except UserError:  # of other folds, or none at all
            continue
        if folds_digest(table) == digest:
            return named, table
    text = f"no file holds the folds that {settings.name} was trained on"
    raise UserError(f"{root('folds')}: {text}; bring it back, or train under a new name")
