"""Where a run keeps its things, and what its first weights were."""

from pathlib import Path

from pipeline.parts import records
from pipeline.parts.cli import UserError
from pipeline.parts.config import Experiment, root


def model_path(run: str, fold: int) -> Path:
    """`run` is an experiment's name or a run folder anywhere (a Kaggle input)."""
    folder = Path(run) if "/" in run else root("runs") / run
    return folder / f"fold{fold}" / "model.safetensors"


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
    same = record and record["competition"] == settings.competition
    if same and record["key"]["folds"] != folds:
        raise UserError(f"model.weights: {path} was trained on other folds: it would leak")
    return records.file_digest(path)
