"""What of a fold lies on the disk: its log, the last finished epoch, and the finished model."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from pipeline.base import records
from pipeline.base.cli import UserError, explain, short, shown, warn
from pipeline.base.csv_files import write_csv
from pipeline.base.device import peak_memory_gb
from pipeline.base.runs import own_file
from pipeline.model.backbone import layout
from pipeline.model.build import save_weights
from pipeline.training.discriminant import Fitted
from pipeline.training.log import COLUMNS

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

# a score of a metric of the user's own, in the log of files of before
NUMPY = [np._core.multiarray.scalar, np.dtype, np.dtypes.Float64DType]


def save(trainer: "Trainer", last: Path) -> None:
    """All that the next epoch depends on: its random numbers follow from its number."""
    if trainer.accelerator.is_main_process:
        scaler = trainer.accelerator.scaler
        state = {
            "epoch": trainer.epoch,
            "classes": trainer.classes,
            "spent": time.monotonic() - trainer.started,
            "log": trainer.log,
            "scored": "id",  # once the pictures, of which an id may have several
            "fitted": trainer.fitted and tuple(trainer.fitted),
            "preprocessing": trainer.preprocessing,  # the size, once the head is fitted to another
            "model": trainer.bare_model.state_dict(),
            "ema": trainer.ema.module.state_dict() if trainer.ema else None,
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
        }
        with records.writing(last) as tmp, tmp.open("wb") as file:
            torch.save(state, file)  # to a name, a full disk is a RuntimeError
    save_log(trainer, last)


def save_log(trainer: "Trainer", last: Path) -> None:
    if trainer.accelerator.is_main_process:
        write_csv(pd.DataFrame(trainer.log, columns=COLUMNS), last.with_name("log.csv"))


def begin(trainer: "Trainer", out: Path, key: dict[str, Any]) -> None:
    """Note what a fold is trained with, and keep the plugins without which nobody could build it:
    the file may be edited before the model is done.

    Raises UserError where they are those of the key no more.
    """
    plugins, own = trainer.settings.plugins, own_file(out)
    own.unlink(missing_ok=True)  # of what was trained here before
    if trainer.settings.model.classifier != "linear":
        with records.writing(own) as tmp:
            shutil.copyfile(plugins, tmp)
    if plugins and records.file_digest(Path(plugins)) != key["plugins"]:
        raise UserError(f"{plugins} was edited just now; give the same command again")
    records.write_json(out.with_name("started.json"), key)


def resume(trainer: "Trainer", last: Path) -> None:
    """Go on from the last finished epoch. Raises UserError for a file that holds none."""
    try:
        with torch.serialization.safe_globals(NUMPY):
            state = torch.load(last, map_location="cpu", weights_only=True)
        trainer.epoch, trainer.log = state["epoch"], state["log"]
        trainer.started -= state.get("spent", 0.0)  # the fold's seconds, not this process's alone
        trainer.fitted = Fitted(*found) if (found := state.get("fitted")) else None
        trainer.preprocessing = state.get("preprocessing", trainer.preprocessing)
        trainer.bare_model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.ema:
            trainer.ema.module.load_state_dict(state["ema"])
        if trainer.accelerator.scaler and state["scaler"]:  # bench may have changed the precision
            trainer.accelerator.scaler.load_state_dict(state["scaler"])
    except Exception as error:  # torch, pickle and zip raise dozens of kinds
        if explain(error):  # memory, a disk: the file is well
            raise
        raise UserError(
            f"{last}: damaged ({short(error, 120)}); delete it to train the fold from its beginning"
        ) from None
    if (begun := state.get("classes", trainer.classes)) != trainer.classes:  # as by `positive:`
        text = f"{last}: begun with the classes {shown(begun)}, which are {shown(trainer.classes)}"
        raise UserError(f"{text} now; undo that, or delete it to train the fold from its beginning")
    if "study" in trainer.valid and "scored" not in state:
        warn("train", f"{last}: its log may score single pictures; from here on it scores ids")


def finish(trainer: "Trainer", out: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Write the model, and remove what a killed run would go on from; returns its record."""
    save_weights(trainer.final_model(), out)
    settings, accelerator, log = trainer.settings, trainer.accelerator, trainer.log
    # a copy that was changed since will not be run
    own = {} if settings.model.classifier == "linear" else {"plugins": key["plugins"]}
    records.commit(
        out,
        key,
        trainer.started,
        classes=trainer.classes,
        model=settings.model.model_dump(mode="json", by_alias=True),
        competition=settings.competition,
        peak=peak_memory_gb(),
        runtime=settings.runtime.model_dump(mode="json"),
        preprocessing=trainer.preprocessing,
        metric=trainer.metric,
        start=log[0]["valid_score"] if log[0]["epoch"] == 0 else None,
        scores=log[-1],
        images={"train": len(trainer.rows), "valid": len(trainer.valid)},
        ids=trainer.valid.get("study", trainer.valid.row).nunique(),  # that were scored
        precision=accelerator.mixed_precision,
        ranks=accelerator.num_processes,
        taps=getattr(trainer.bare_model, "taps", None),
        arguments=layout(settings.model).arguments,
        **trainer.answer.fact,
        **own,
    )
    out.with_name("last.pt").unlink(missing_ok=True)
    out.with_name("started.json").unlink()
    return records.load(out)
