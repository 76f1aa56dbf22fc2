"""What training sessions leave on Kaggle: whether the next goes on from it, and its way home."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.base.cli import say
from pipeline.base.locks import LOCK, locked
from pipeline.base.runs import fold_folders, how_far
from pipeline.kaggle.api.client import ask
from pipeline.training.keys import key_changes, made_otherwise

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

Keys = dict[str, dict[str, Any]]  # of models, by the numbers of their folds


def fitting(output: Keys | bool | None, keys: Keys) -> Keys:
    """What the last output holds; nothing where other settings made a fold that is asked for.

    Nor where no keys of it are known: True is what earlier versions of this command noted.
    """
    known = output if isinstance(output, dict) else {}
    return {} if any(key_changes(known[k], keys[k]) for k in keys.keys() & known) else known


def bring_home(api: KaggleApi, version: str, run: Path, keys: Keys) -> None:
    """Move the folds of a version's output into the run's folder, if they got further there.

    Those of `keys` that other settings made stay away.
    """
    with TemporaryDirectory(dir=run) as folder:
        ask("notebook", version, lambda: api.kernels_output(version, folder, force=True))
        for k, fold in fold_folders(Path(folder) / "runs" / run.name).items():
            here, key = run / fold.name, keys.get(str(k))
            if key and made_otherwise(fold / "model.safetensors", key):
                say("bundle", f"{version}: {fold.name} is of other settings and stays there")
                continue
            with locked(here):  # it may be training here too
                if how_far(fold) > how_far(here):
                    replace_files(here, fold)


def replace_files(here: Path, new: Path) -> None:
    """Move files in the place of those in `here`; the records, which say it is done, come last."""
    for kept in (path for path in here.iterdir() if path.name != LOCK):
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()  # W&B's is a folder
    for path in sorted(new.iterdir(), key=lambda path: path.suffix == ".json"):
        if path.name != LOCK:
            shutil.move(path, here)
