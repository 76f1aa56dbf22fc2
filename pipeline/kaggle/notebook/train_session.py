"""What a training notebook does: goes on from its last output, trains while the time lasts.

All that is worth keeping lies in the notebook's output from the moment it is written: a fold's
`last.pt` after every epoch, its model when it is done. Pixels are packed into a scratch folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import records
from pipeline.base.cli import UserError, say
from pipeline.base.config import Settings
from pipeline.base.deadline import Deadline
from pipeline.base.runs import finished, how_far
from pipeline.kaggle.notebook import inputs
from pipeline.kaggle.notebook.guard import RESERVE, loud, night_proof, tell_versions
from pipeline.kaggle.notebook.mounts import find_input, working_root
from pipeline.launchers.local import PAUSED

OVERTIME = RESERVE * 2 / 3  # seconds after which an epoch that takes too long is given up
PACKAGE = Path(__file__).parents[3]  # the folder that holds it
ROOTS = ("runs", "folds", "weights")


class Job(Settings):
    """What a training notebook is told."""

    experiment: str
    competition: str  # slug
    train: str  # a file of the competition, by which its folder is known
    folds: list[int]
    hours: float  # limit of a session
    datasets: list[str]  # slugs: code, and first weights
    kernel: str  # OWNER/SLUG of the notebook itself
    facts: str  # images.csv of `prepare`, below runs/
    pixels: str  # digest of the training pictures at home

    @property
    def kept(self) -> Path:
        """The run's folder, in the notebook's output."""
        return working_root() / "runs" / self.experiment


@dataclass
class Session:
    """`home` is a scratch folder like the one at home, `data` the mounted competition."""

    job: Job
    home: Path
    data: Path
    deadline: Deadline  # no epoch is begun that may end later

    def run(self, stage: str, *options: str) -> int:
        """A stage in a process of its own, whose words are passed on; returns its exit code.

        It is killed when the time is over: nothing is lost but the epoch at work.
        """
        roots = {f"{name.upper()}_DIR": str(self.home / name) for name in ROOTS}
        process = subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{stage}", self.job.experiment, *options],
            cwd=self.home,
            env={**os.environ, **roots, "PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its folds end with it
        )
        kill = (process.pid, signal.SIGKILL)
        watch = threading.Timer(max(0.0, self.seconds()), os.killpg, kill)
        watch.start()
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
            return process.wait()
        finally:
            watch.cancel()

    def seconds(self) -> float:
        """Until a stage at work is killed."""
        return self.deadline.left() + OVERTIME


@night_proof
def open_session(job: Job) -> Session:
    """Bring the last output into this one, before anything can fail, and the luggage home.

    The clock starts here. Raises UserError for inputs that are missing or damaged.
    """
    deadline = Deadline(3600 * job.hours - RESERVE)
    tell_versions()
    job.kept.mkdir(parents=True, exist_ok=True)
    bring_last_output(job)
    home = Path(tempfile.mkdtemp())
    (home / "runs").mkdir()
    (home / "runs" / job.experiment).symlink_to(job.kept)
    for dataset in job.datasets:
        inputs.unpack(dataset, home)
    return Session(job, home, find_input("competition", job.competition, job.train), deadline)


def bring_last_output(job: Job) -> None:
    run = f"runs/{job.experiment}"
    try:
        former = find_input("notebook", job.kernel.rpartition("/")[2], run) / run
    except UserError:
        return say("kernel", "no output of an earlier session is attached: folds begin anew")
    files = [path for path in former.rglob("*") if path.is_file()]
    for path in files:  # their bytes alone: what is mounted is read-only
        target = job.kept / path.relative_to(former)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return say("kernel", f"{former}: {len(files)} files of an earlier session")


@night_proof
def train(session: Session | None) -> None:
    """Pack the pictures, then train; a stage that ends badly has said why."""
    if session is None:
        return
    job = session.job
    if code := session.run("prepare", "--data", str(session.data)):
        loud(f"prepare ended with {code}: nothing is trained")
        return
    compare_pixels(session)
    folds = [word for fold in job.folds for word in ("--fold", str(fold))]
    hours = max(0.0, session.deadline.left() / 3600)
    code = session.run("train", *folds, "--hours", str(hours))
    if code == -signal.SIGKILL and session.seconds() <= 0:
        say("kernel", "the time is over: the epoch at work is given up")
    elif code not in (0, PAUSED):
        loud(f"train ended with {code}: what it finished before is kept")


def compare_pixels(session: Session) -> None:
    facts = records.load(session.home / "runs" / session.job.facts)
    if facts["digests"]["train"] != session.job.pixels:
        loud("the training pictures differ from those at home, which will refuse these models")


@night_proof
def tell(job: Job) -> None:
    """Which folds are done, which go on next time, and what to type at home."""
    name, far = job.experiment, {fold: how_far(job.kept / f"fold{fold}") for fold in job.folds}
    done = finished(job.kept, job.folds)
    say("kernel", f"done: folds {done} of {job.folds}")
    for fold, (_, epoch) in far.items():
        if fold not in done:
            state = f"goes on after epoch {epoch}" if epoch else "is to begin"
            say("kernel", f"fold {fold} {state}")
    if len(done) < len(job.folds):
        say("kernel", "next: this notebook again, its own output attached as an input; at home:")
        folds = "".join(f" --fold {fold}" for fold in job.folds)
        say("", f"  python -m pipeline.bundle {name} --train{folds} --push")
        return
    say("kernel", "next, at home:")
    say("", f"  kaggle kernels output {job.kernel} -p away")
    say("", f"  mkdir -p runs && cp -r away/runs/. runs/ && ./run.sh {name} train")
