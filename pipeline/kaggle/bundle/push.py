"""A bundle's way to Kaggle: datasets, notebook, a run there, and the submission of that run."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.base import records
from pipeline.base.cli import UserError, say
from pipeline.base.config import root
from pipeline.base.locks import LOCK, locked
from pipeline.base.runs import finished, how_far
from pipeline.kaggle.api.client import ask, new_version, unless_absent
from pipeline.kaggle.api.datasets import folder_digest, push_datasets
from pipeline.kaggle.api.upload import submit_once
from pipeline.kaggle.notebook.guard import ALERT

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

POLL = 15  # seconds between two questions for a run, which ends by its time limit
ENDS = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "ABSENT")  # of a run
SETTLED = 8  # polls
SCORE_POLLS = 3600  # of 10 s: the hidden test takes as long as it may


def push_submission(api: KaggleApi, bundle: Path, slug: str) -> None:
    """Upload what changed, run the notebook on Kaggle, submit that run, await its score.

    Each step that is done is kept in runs/NAME/pushed.json: the same command goes on after it.
    Raises UserError for all that Kaggle refuses, and for a run that failed or had no weights.
    """
    state, ref = bundle.with_name("pushed.json"), notebook_ref(bundle)
    done = push_datasets(api, bundle, state)
    digest = folder_digest(bundle / "notebook")
    if done.get("kernel") != digest:
        done |= {"kernel": digest, "version": push_notebook(api, bundle)}
        records.write_json(state, done)
    version = done["version"]
    problem = failure(api, ref, version)
    if not problem and has_alert(api, ref, version):
        problem = "ran, but without models: see its log"
    if problem:
        records.write_json(state, done | {"kernel": None})  # the same command runs it anew
        raise UserError(f"{ref} version {version} {problem}")
    submit_version(root("submissions") / f"{bundle.parent.name}.csv", slug, ref, version)


def push_training(api: KaggleApi, bundle: Path) -> None:
    """Upload what changed, then train on Kaggle, session after session, until all folds are here.

    Each step that is done is kept in train-pushed.json: a command that was stopped goes on
    waiting. Raises UserError for all that Kaggle refuses, and for a session that failed, had
    trouble or brought no fold further.
    """
    run, state, ref = bundle.parent, bundle.with_name("train-pushed.json"), notebook_ref(bundle)
    folds = records.load(bundle)["key"]["job"]["folds"]
    while len(finished(run, folds)) < len(folds):
        before = [how_far(run / f"fold{fold}") for fold in folds]
        done = push_datasets(api, bundle, state)
        if not done.get("running"):
            version = push_notebook(api, bundle, [ref] if done.get("output") else [])
            done |= {"running": True, "version": version}
            records.write_json(state, done)
        version = done["version"]
        if not (problem := failure(api, ref, version)):
            bring_home(api, ref, version, run)
            done |= {"output": True}
        records.write_json(state, done | {"running": False})
        if not problem and has_alert(api, ref, version):
            problem = "had trouble: see its log"
        if not problem and before == [how_far(run / f"fold{fold}") for fold in folds]:
            problem = "brought no fold an epoch further: see its log"
        if problem:
            raise UserError(f"{ref} version {version} {problem}")
        say("bundle", f"trained and here: folds {finished(run, folds)} of {folds}")
    say("bundle", f"folds {folds} are trained and here")


def bring_home(api: KaggleApi, ref: str, version: int, run: Path) -> None:
    """Move the folds of a version's output into the run's folder, if they got further there."""
    with TemporaryDirectory(dir=run) as folder:
        one = f"{ref}/{version}"
        ask("notebook", ref, lambda: api.kernels_output(one, folder, force=True))
        for fold in Path(folder).glob(f"runs/{run.name}/fold*"):
            here = run / fold.name
            with locked(here):  # it may be training here too
                if how_far(fold) > how_far(here):
                    replace_files(here, fold)


def replace_files(here: Path, new: Path) -> None:
    """Move files in the place of those in `here`; the records, which say it is done, come last."""
    for kept in (path for path in here.iterdir() if path.name != LOCK):
        kept.unlink()
    for path in sorted(new.iterdir(), key=lambda path: path.suffix == ".json"):
        if path.name != LOCK:
            shutil.move(path, here)


def notebook_ref(bundle: Path) -> str:
    """OWNER/SLUG of a bundle's notebook."""
    return records.read_json(bundle / "notebook" / "kernel-metadata.json")["id"]


def push_notebook(api: KaggleApi, bundle: Path, outputs: Sequence[str] = ()) -> int:
    """Send the notebook, which starts it; returns its version's number.

    The last output of the notebooks `outputs` becomes an input of it.
    """
    folder, ref = bundle / "notebook", notebook_ref(bundle)
    about = {**records.read_json(folder / "kernel-metadata.json"), "kernel_sources": [*outputs]}
    records.write_json(folder / "kernel-metadata.json", about)

    def push(_: int) -> Any:
        return api.kernels_push(str(folder), timeout=about["session_timeout_seconds"])

    version = new_version("notebook", ref, partial(notebook_version, api, ref), push)
    begun = f"https://www.kaggle.com/code/{ref}: version {version} starts, its end is awaited"
    say("bundle", f"{begun}; stopped, the same command goes on waiting")
    return version


def notebook_version(api: KaggleApi, ref: str) -> int:
    """Number of the notebook's latest version, 0 where there is none."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = ref.split("/")
    with api.build_kaggle_client() as kaggle:
        found = unless_absent(lambda: kaggle.kernels.kernels_api_client.get_kernel(request))
    return (found.metadata.current_version_number or 0) if found else 0


def failure(api: KaggleApi, ref: str, version: int) -> str:
    """Wait for the run of this version; returns how it failed, or nothing.

    Straight after a push Kaggle may still tell how the version before ended: an end counts once
    this one was seen at work, or when it has been told SETTLED times.
    """
    ends, one = 0, f"{ref}/{version}"  # an older client asks for the latest version all the same
    while True:
        answer = ask("notebook", ref, lambda: unless_absent(lambda: api.kernels_status(one)))
        status = answer.status.name if answer else "ABSENT"
        ends = ends + 1 if status in ENDS else SETTLED
        if ends > SETTLED:
            why = (answer and answer.failure_message) or status.lower()
            return "" if status == "COMPLETE" else f"failed on Kaggle: {why}; its page has a log"
        time.sleep(POLL)


def has_alert(api: KaggleApi, ref: str, version: int) -> bool:
    """Whether the run of a version had to do without something that it needs."""
    return ALERT in ask("notebook", ref, lambda: api.kernels_logs(f"{ref}/{version}"))


def submit_version(csv: Path, slug: str, ref: str, version: int) -> None:
    """Submit a version of the notebook once; its score goes into the ledger beside ours."""

    def submit(api: KaggleApi, text: str) -> Any:
        return api.competition_submit_code("submission.csv", text, slug, ref, version, True)

    sha256 = hashlib.sha256(f"{ref} version {version}".encode()).hexdigest()
    submit_once(csv, slug, sha256, submit, SCORE_POLLS)
