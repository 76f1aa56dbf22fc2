"""A folder as a dataset on Kaggle, which is sent as a new version."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base import records
from pipeline.base.cli import UserError, say, took
from pipeline.kaggle.api.client import ask, new_version, unless_absent

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

POLL, READY_POLLS = 15, 120  # seconds between two questions, and how many: half an hour


def folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return records.digest([(str(p.relative_to(folder)), records.file_digest(p)) for p in files])


def push_dataset(api: KaggleApi, folder: Path, notes: str) -> None:
    """Create a private dataset, or a new version of it; returns when it can be mounted."""
    started = time.monotonic()
    ref = json.loads((folder / "dataset-metadata.json").read_text())["id"]
    say("bundle", f"uploading {folder} to {ref}")

    def create(before: int) -> Any:
        options = {"quiet": True, "dir_mode": "zip"}
        if before:
            return api.dataset_create_version(str(folder), notes, **options)
        return api.dataset_create_new(str(folder), **options)

    version = new_version("dataset", ref, lambda: dataset_version(api, ref)[0], create)
    for _ in range(READY_POLLS):
        number, ready = ask("dataset", ref, lambda: dataset_version(api, ref))
        if ready and number >= version:
            return say("bundle", f"{ref} is ready, {took(started)}")
        time.sleep(POLL)
    raise UserError(f"dataset {ref} is not ready yet; the same command later goes on")


def dataset_version(api: KaggleApi, ref: str) -> tuple[int, bool]:
    """Number of the dataset's version, 0 where there is none, and whether it can be mounted."""
    found = unless_absent(lambda: json.loads(api.dataset_status(ref, format="json")))
    return (found["current_version_number"], found["status"] == "ready") if found else (0, False)
