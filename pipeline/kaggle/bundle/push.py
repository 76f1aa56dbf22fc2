"""A bundle's way to Kaggle: datasets, notebook, a run there, and the submission of that run."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.base import records
from pipeline.base.cli import UserError, say
from pipeline.base.config import root
from pipeline.base.locks import LOCK, locked
from pipeline.base.runs import finished, how_far
from pipeline.kaggle.api import ledger
from pipeline.kaggle.api.client import accepted, ask, unless_absent
from pipeline.kaggle.api.datasets import folder_digest, push_datasets
from pipeline.kaggle.api.upload import find_or_start, scores, submit_once
from pipeline.kaggle.notebook.guard import ALARM

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

POLL, RUN_POLLS = 15, 3600  # seconds between two questions for a run, and how many: 15 hours
ENDS = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "ABSENT")  # of a run
SETTLED = 8  # polls
SCORE_POLLS = 3600  # of 10 s: the hidden test takes as long as it may


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
    version = done["version"]
    try:
        await_run(api, ref, version)
        if raised_alarm(api, ref, version):
            raise FailedRunError(f"{ref} version {version} ran, but without models: see its log")
    except FailedRunError:
        records.write_json(state, done | {"kernel": None})  # the same command runs it anew
        raise
    submit_version(api, bundle.parent.name, slug, ref, version)


def push_training(api: KaggleApi, bundle: Path) -> None:
    """Upload what changed, then train on Kaggle, session after session, until all folds are here.

    Raises UserError for all that Kaggle refuses, and for a session that failed, had trouble or
    brought no fold further.
    """
    folds = records.load(bundle)["key"]["job"]["folds"]
    while len(finished(bundle.parent, folds)) < len(folds):
        before = how_far_all(bundle.parent, folds)
        ref = push_session(api, bundle)
        if how_far_all(bundle.parent, folds) == before:
            raise UserError(f"{ref} brought no fold an epoch further: see its log")
        say("bundle", f"trained and here: folds {finished(bundle.parent, folds)} of {folds}")
    say("bundle", f"folds {folds} are trained and here")


def how_far_all(run: Path, folds: list[int]) -> list[tuple[bool, int]]:
    return [how_far(run / f"fold{fold}") for fold in folds]


def push_session(api: KaggleApi, bundle: Path) -> str:
    """Train for one session on Kaggle, from the output of the last, and bring its output home.

    Each step that is done is kept in train-pushed.json: a command that was stopped goes on
    waiting. Returns the notebook's and its version's name. Raises UserError as `push_training`.
    """
    state, ref = bundle.with_name("train-pushed.json"), notebook_ref(bundle)
    done = push_datasets(api, bundle, state)
    if not done.get("running"):
        attach(bundle / "notebook", [ref] if done.get("output") else [])
        version = push_notebook(api, bundle / "notebook", ref)
        records.write_json(state, done := done | {"version": version, "running": True})
    version = done["version"]
    try:
        await_run(api, ref, version)
    except FailedRunError:
        records.write_json(state, done | {"running": False})
        raise
    bring_home(api, ref, version, bundle.parent)
    records.write_json(state, done | {"running": False, "output": True})
    if raised_alarm(api, ref, version):
        raise UserError(f"{ref} version {version} had trouble: see its log")
    return f"{ref} version {version}"


def attach(folder: Path, notebooks: list[str]) -> None:
    """Make the output of notebooks an input of the one in `folder`."""
    path = folder / "kernel-metadata.json"
    records.write_json(path, {**json.loads(path.read_text()), "kernel_sources": notebooks})


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
    return json.loads((bundle / "notebook" / "kernel-metadata.json").read_text())["id"]


def push_notebook(api: KaggleApi, folder: Path, ref: str) -> int:
    """Send the notebook, which starts it; returns its version's number."""
    about = json.loads((folder / "kernel-metadata.json").read_text())
    before = ask("notebook", ref, lambda: notebook_version(api, ref))

    def push() -> int:
        answer = api.kernels_push(str(folder), timeout=about["session_timeout_seconds"])
        return accepted(answer, f"notebook {ref}").version_number

    def pushed() -> int | None:
        now = notebook_version(api, ref)
        return now if now > before else None

    version = ask("notebook", ref, push, pushed)
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


def await_run(api: KaggleApi, ref: str, version: int) -> None:
    """Wait for the run of this version. Raises FailedRunError when that failed.

    Straight after a push Kaggle may still tell how the version before ended: an end counts once
    this one was seen at work, or when it has been told SETTLED times.
    """
    ends, one = 0, f"{ref}/{version}"  # an older client asks for the latest version all the same
    for _ in range(RUN_POLLS):
        answer = ask("notebook", ref, lambda: unless_absent(lambda: api.kernels_status(one)))
        status = answer.status.name if answer else "ABSENT"
        ends = ends + 1 if status in ENDS else SETTLED
        if ends > SETTLED:
            if status == "COMPLETE":
                return
            why = (answer and answer.failure_message) or status.lower()
            words = f"{ref} version {version} failed on Kaggle: {why}; its page has a log"
            raise FailedRunError(words)
        time.sleep(POLL)
    raise UserError(f"{ref} version {version} still runs; the same command later goes on")


def raised_alarm(api: KaggleApi, ref: str, version: int) -> bool:
    """Whether the run of a version had to do without something that it needs."""
    return ALARM in ask("notebook", ref, lambda: api.kernels_logs(f"{ref}/{version}"))


def submit_version(api: KaggleApi, name: str, slug: str, ref: str, version: int) -> None:
    """Submit a version of the notebook once; its score goes into the ledger beside ours."""
    what = f"{ref} version {version}"
    sha256 = hashlib.sha256(what.encode()).hexdigest()
    row = find_or_start(root("submissions") / f"{name}.csv", slug, sha256)

    def submit(text: str) -> Any:
        return api.competition_submit_code("submission.csv", text, slug, ref, version, True)

    if row["status"] == "pending":
        submit_once(api, row, what, submit, SCORE_POLLS)
    say("bundle", f"{name}: {scores(row)}; {ledger.ledger_path()}")
