"""A bundle's way to Kaggle: datasets, notebook, a run there, and the submission of that run."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.kaggle import ledger
from pipeline.kaggle.client import accepted, told
from pipeline.kaggle.night import ALARM
from pipeline.kaggle.upload import about, await_score, outcome, scores, submissions_left
from pipeline.parts import records
from pipeline.parts.cli import UserError, say, took
from pipeline.parts.config import root
from pipeline.parts.runs import finished, how_far

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

POLL = 15  # seconds between two questions to Kaggle
READY_POLLS, RUN_POLLS = 120, 2400  # for a dataset (half an hour), for a notebook (10 hours)


class FailedRunError(UserError):
    """A notebook's run that came to no good end."""


def signed(api: KaggleApi) -> str:
    """The name on Kaggle of who signed in."""
    return api.get_config_value(api.CONFIG_NAME_USER)


def push_bundle(api: KaggleApi, bundle: Path, slug: str) -> None:
    """Upload what changed, run the notebook on Kaggle, submit that run, await its score.

    Each step that is done is kept in runs/NAME/pushed.json: the same command goes on after it.
    Raises UserError for all that Kaggle refuses, and for a run that failed or had no weights.
    """
    state, ref = bundle.with_name("pushed.json"), notebook_ref(bundle)
    done = push_datasets(api, bundle, state)
    digest = folder_digest(bundle / "notebook")
    if done.get("kernel") != digest:
        done |= {"kernel": digest, "version": push_notebook(api, bundle / "notebook", ref)}
        records.write_json(state, done)
    await_run(api, ref, done["version"])
    if raised_alarm(api, ref):
        raise UserError(f"{ref} version {done['version']} ran, but without models: see its log")
    submit_version(api, bundle.parent.name, slug, ref, done["version"])


def push_training(api: KaggleApi, bundle: Path) -> None:
    """Upload what changed, train for one session on Kaggle, bring its output into runs/.

    The next session goes on from the output of this one. Each step that is done is kept in
    train-pushed.json: a command that was stopped goes on waiting. Raises UserError for all that
    Kaggle refuses and for a session that failed.
    """
    state, ref = bundle.with_name("train-pushed.json"), notebook_ref(bundle)
    folds = records.load(bundle)["key"]["job"]["folds"]
    if len(finished(bundle.parent, folds)) == len(folds):
        return say("bundle", f"folds {folds} are trained and here")
    done = push_datasets(api, bundle, state)
    if not done.get("running"):
        attach(bundle / "notebook", [ref] if done.get("output") else [])
        version = push_notebook(api, bundle / "notebook", ref)
        records.write_json(state, done := done | {"version": version, "running": True})
    try:
        await_run(api, ref, done["version"])
    except FailedRunError:
        records.write_json(state, done | {"running": False})
        raise
    bring_home(api, ref, bundle.parent)
    records.write_json(state, done | {"running": False, "output": True})
    if raised_alarm(api, ref):
        raise UserError(f"{ref} version {done['version']} had trouble: see its log")
    here = finished(bundle.parent, folds)
    more = "" if len(here) == len(folds) else "; the same command trains on"
    return say("bundle", f"trained and here: folds {here} of {folds}{more}")


def attach(folder: Path, notebooks: list[str]) -> None:
    """Make the output of notebooks an input of the one in `folder`."""
    path = folder / "kernel-metadata.json"
    records.write_json(path, {**json.loads(path.read_text()), "kernel_sources": notebooks})


def bring_home(api: KaggleApi, ref: str, run: Path) -> None:
    """Move the folds of a notebook's output into the run's folder, if they got further there."""
    with TemporaryDirectory(dir=run) as folder:
        with told("notebook", ref):
            api.kernels_output(ref, folder, force=True)
        for fold in Path(folder).glob(f"runs/{run.name}/fold*"):
            here = run / fold.name
            if how_far(fold) > how_far(here):
                shutil.rmtree(here, ignore_errors=True)
                fold.rename(here)


def notebook_ref(bundle: Path) -> str:
    """OWNER/SLUG of a bundle's notebook."""
    return json.loads((bundle / "notebook" / "kernel-metadata.json").read_text())["id"]


def push_datasets(api: KaggleApi, bundle: Path, state: Path) -> dict[str, Any]:
    """Upload the datasets that changed; returns what `state` says is done, that included."""
    done: dict[str, Any] = json.loads(state.read_text()) if state.is_file() else {}
    for part in ("code", "weights"):
        folder = bundle / part
        if folder.is_dir() and done.get(part) != (digest := folder_digest(folder)):
            push_dataset(api, folder)
            done |= {part: digest, "kernel": None}  # a notebook reads the datasets of its day
            records.write_json(state, done)
    return done


def folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return records.digest([(str(p.relative_to(folder)), records.file_digest(p)) for p in files])


def push_dataset(api: KaggleApi, folder: Path) -> None:
    """Create a private dataset, or a new version of it; returns when it can be mounted."""
    started = time.monotonic()
    ref = json.loads((folder / "dataset-metadata.json").read_text())["id"]
    version = dataset_version(api, ref)
    say("bundle", f"uploading {folder} to {ref}")
    with told("dataset", ref):
        if version:
            answer = api.dataset_create_version(str(folder), "", quiet=True, dir_mode="zip")
        else:
            answer = api.dataset_create_new(str(folder), quiet=True, dir_mode="zip")
    accepted(answer, f"dataset {ref}")
    for _ in range(READY_POLLS):
        if dataset_version(api, ref) > version:
            return say("bundle", f"{ref} is ready, {took(started)}")
        time.sleep(POLL)
    raise UserError(f"dataset {ref} is not ready yet; the same command later goes on")


def dataset_version(api: KaggleApi, ref: str) -> int:
    """Number of the dataset's version that can be mounted; 0 where there is none yet."""
    from requests import HTTPError

    with told("dataset", ref):
        try:
            about = json.loads(api.dataset_status(ref, format="json"))
        except HTTPError as error:
            if error.response.status_code not in (403, 404):
                raise
            return 0  # Kaggle does not tell a dataset that is not there from a foreign one
    return about["current_version_number"] if about["status"] == "ready" else 0


def push_notebook(api: KaggleApi, folder: Path, ref: str) -> int:
    """Send the notebook, which starts it; returns its version's number."""
    with told("notebook", ref):
        answer = api.kernels_push(str(folder))
    accepted(answer, f"notebook {ref}")
    begun = f"{answer.url}: version {answer.version_number} starts, its end is awaited"
    say("bundle", f"{begun}; stopped, the same command goes on waiting")
    return answer.version_number


def await_run(api: KaggleApi, ref: str, version: int) -> None:
    """Wait for the run of the latest version. Raises FailedRunError when that failed."""
    for _ in range(RUN_POLLS):
        with told("notebook", ref):
            answer = api.kernels_status(ref)
        if answer.status.name in ("ERROR", "CANCEL_ACKNOWLEDGED"):
            why = answer.failure_message or answer.status.name.lower()
            words = f"{ref} version {version} failed on Kaggle: {why}; its page has a log"
            raise FailedRunError(words)
        if answer.status.name == "COMPLETE":
            return
        time.sleep(POLL)
    raise UserError(f"{ref} version {version} still runs; the same command later goes on")


def raised_alarm(api: KaggleApi, ref: str) -> bool:
    """Whether the last run of a notebook had to do without something that it needs."""
    with told("notebook", ref):
        return ALARM in api.kernels_logs(ref)


def submit_version(api: KaggleApi, name: str, slug: str, ref: str, version: int) -> None:
    """Submit a version of the notebook once; its score goes into the ledger beside ours."""
    mark = hashlib.sha256(f"{ref} version {version}".encode()).hexdigest()
    row = ledger.find(slug, mark)
    if row is None:
        left = submissions_left(api, slug, refuse=True)
        row = about(root("submissions") / f"{name}.csv", slug, mark)
        text = f"{name}: {row['metric']} OOF {row['oof']}, {ref} version {version}"
        say("bundle", f"submitting {ref} version {version} to {slug}{left}")
        with told("competition", slug):
            answer = api.competition_submit_code("submission.csv", text, slug, ref, version, True)
        if not answer.ref:
            raise UserError(f"{slug}: {answer.message}; the same command tries again")
        ledger.put(row := row | {"ref": str(answer.ref)})
    if row["status"] == "pending":
        row |= outcome(await_score(api, slug, row["ref"]))
        ledger.put(row)
    if row["status"] == "error":
        raise UserError(f"{slug}: {ref} version {version} failed on the hidden test: see its page")
    say("bundle", f"{name}: {scores(row)}; {ledger.ledger_path()}")
