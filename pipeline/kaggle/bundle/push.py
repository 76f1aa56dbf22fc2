"""A bundle's way to Kaggle: datasets, notebook, a run there, and the submission of that run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base import records
from pipeline.base.cli import UserError, say, took
from pipeline.base.config import root
from pipeline.base.runs import finished, how_far, submission_of
from pipeline.kaggle.api.client import ask, new_version, unless_absent
from pipeline.kaggle.api.upload import submit_once
from pipeline.kaggle.bundle.notebook_file import folder_digest
from pipeline.kaggle.bundle.sessions import Keys, bring_home, fitting
from pipeline.kaggle.notebook.guard import ALERT

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

POLL = 15  # seconds between two questions for a run, which ends by its time limit, or a dataset
READY_POLLS = 120  # of a dataset: half an hour
ENDS = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "ABSENT")  # of a run
SETTLED = 8  # polls
SCORE_POLLS = 3600  # of 10 s: the hidden test takes as long as it may


def push_submission(api: KaggleApi, bundle: Path, slug: str) -> None:
    """Upload what changed, run the notebook on Kaggle, submit that run, await its score.

    Raises UserError for all that Kaggle refuses, for a run that failed or lacked models or
    pictures, and before anything is sent where `submit` has not written what the ledger shall say.
    """
    require_submission(bundle.parent.name)
    pushed = PushedBundle(api, bundle, "pushed.json")
    pushed.push_datasets()
    if pushed.done.get("kernel") != folder_digest(bundle / "notebook"):
        pushed.push_notebook()
    again: dict[str, None] = {"kernel": None}  # what the same command does anew
    if not (problem := pushed.failure()) and pushed.has_alert():
        problem = "ran, but without all models or pictures: see its log"
        again["weights"] = None  # some may have been lost on the way
    if problem:
        pushed.note(**again)
        raise UserError(f"{pushed.run} {problem}")
    pushed.submit(slug)


def require_submission(name: str) -> None:
    """Raises UserError unless the local submission is of the blend as it is now."""
    if submission_of(name) is None:
        text = "its scores go into the ledger, and it is not of the blend as it is now"
        csv = root("submissions") / f"{name}.csv"
        way = f"run python -m pipeline.submit {name}, after deleting a file that you edited"
        raise UserError(f"{csv}: {text}; {way}")


def push_training(api: KaggleApi, bundle: Path) -> None:
    """Upload what changed, then train on Kaggle, session after session, until all folds are here.

    Raises UserError for all that Kaggle refuses, and for a session that failed, had trouble or
    brought no fold further. One that was begun for other folds or settings is awaited first.
    """
    pushed, run = PushedBundle(api, bundle, "train-pushed.json"), bundle.parent
    keys: Keys = records.load(bundle)["key"]["folds"]
    folds = [int(fold) for fold in keys]
    while len(finished(run, folds)) < len(folds):
        before = [how_far(run / f"fold{fold}") for fold in folds]
        if not pushed.done.get("kernel"):
            pushed.push_datasets()
            held = fitting(pushed.done.get("output"), keys)
            pushed.note(session={**held, **keys})
            pushed.push_notebook([pushed.ref] if held else [])
        session = pushed.done.get("session", {})
        if not (problem := pushed.failure()):
            bring_home(api, pushed.version_ref, run, keys)
            pushed.note(output=session)
        pushed.note(kernel=None)  # its end is met: the next session is a new version
        if not problem and pushed.has_alert():
            problem = "had trouble: see its log"
        own = keys.items() <= session.items()
        if own and not problem and before == [how_far(run / f"fold{fold}") for fold in folds]:
            problem = "brought no fold an epoch further: see its log"
        if problem:
            raise UserError(f"{pushed.run} {problem}")
        say("bundle", f"trained and here: folds {finished(run, folds)} of {folds}")
    say("bundle", f"folds {folds} are trained and here")


class PushedBundle:
    """A bundle on Kaggle: its datasets and the version of its notebook that runs or ran there.

    Each step that is done is kept in a file of runs/NAME: a command that was stopped goes on.
    """

    def __init__(self, api: KaggleApi, bundle: Path, state: str) -> None:
        self.api, self.bundle, self.state = api, bundle, bundle.with_name(state)
        self.done: dict[str, Any] = records.read_json(self.state) if self.state.is_file() else {}
        self.about = records.read_json(bundle / "notebook" / "kernel-metadata.json")
        self.ref = self.about["id"]  # OWNER/SLUG of the notebook

    @property
    def version_ref(self) -> str:
        return f"{self.ref}/{self.done['version']}"

    @property
    def run(self) -> str:
        return f"{self.ref} version {self.done['version']}"

    def note(self, **facts: Any) -> None:
        self.done |= facts
        records.write_json(self.state, self.done)

    def push_datasets(self) -> None:
        """Upload the datasets that changed."""
        notes = f"{self.bundle.parent.name}, git {records.load(self.bundle)['git'] or 'unknown'}"
        for part in ("code", "weights"):
            folder = self.bundle / part
            if folder.is_dir() and self.done.get(part) != (digest := folder_digest(folder)):
                push_dataset(self.api, folder, notes)
                self.note(**{part: digest, "kernel": None})  # a notebook reads those of its day

    def push_notebook(self, outputs: Sequence[str] = ()) -> None:
        """Send the notebook, which starts it; the last output of `outputs` becomes its input."""
        folder = self.bundle / "notebook"
        about = self.about | {"kernel_sources": [*outputs]}
        records.write_json(folder / "kernel-metadata.json", about)
        limit = about["session_timeout_seconds"]

        def push(_: int) -> Any:
            return self.api.kernels_push(str(folder), timeout=limit)

        version = new_version("notebook", self.ref, self.latest_version, push)
        self.note(kernel=folder_digest(folder), version=version)
        begun = f"https://www.kaggle.com/code/{self.ref}: version {version} starts, its end is"
        say("bundle", f"{begun} awaited; stopped, the same command goes on waiting")

    def latest_version(self) -> int:
        """0 where there is none."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = self.ref.split("/")
        with self.api.build_kaggle_client() as kaggle:
            found = unless_absent(lambda: kaggle.kernels.kernels_api_client.get_kernel(request))
        return (found.metadata.current_version_number or 0) if found else 0

    def failure(self) -> str:
        """Wait for the run of the pushed version; returns how it failed, or nothing.

        Straight after a push Kaggle may still tell how the version before ended: an end counts
        once this one was seen at work, or when it has been told SETTLED times.
        """
        # an older client asks for the latest version all the same
        ends, told = 0, partial(self.api.kernels_status, self.version_ref)
        while True:
            answer = ask("notebook", self.ref, partial(unless_absent, told))
            status = answer.status.name if answer else "ABSENT"
            ends = ends + 1 if status in ENDS else SETTLED
            if ends > SETTLED:
                why = (answer and answer.failure_message) or status.lower()
                done = status == "COMPLETE"
                return "" if done else f"failed on Kaggle: {why}; its page has a log"
            time.sleep(POLL)

    def has_alert(self) -> bool:
        """Whether the run had to do without something that it needs."""
        return ALERT in ask("notebook", self.ref, lambda: self.api.kernels_logs(self.version_ref))

    def submit(self, slug: str) -> None:
        """Submit the version once; its score goes into the ledger beside ours."""
        csv = root("submissions") / f"{self.bundle.parent.name}.csv"
        version = self.done["version"]

        def submit(api: KaggleApi, text: str) -> Any:
            to_kaggle = api.competition_submit_code
            return to_kaggle("submission.csv", text, slug, self.ref, version, True)

        submit_once(csv, slug, hashlib.sha256(self.run.encode()).hexdigest(), submit, SCORE_POLLS)


def push_dataset(api: KaggleApi, folder: Path, notes: str) -> None:
    """Create a private dataset, or a new version of it; returns when it can be mounted."""
    started = time.monotonic()
    ref = records.read_json(folder / "dataset-metadata.json")["id"]
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
