"""What a training notebook does: goes on from its last output, trains while the time lasts.

All that is worth keeping lies in the notebook's output from the moment it is written: a fold's
`last.pt` after every epoch, its model when it is done. Pixels are packed into a scratch folder.
"""

import shutil
import subprocess
import sys
import tempfile
from glob import escape
from pathlib import Path

from pipeline.base import records
from pipeline.base.cli import Exit, say
from pipeline.base.deadline import Deadline
from pipeline.base.runs import finished, how_far
from pipeline.base.settings import Settings
from pipeline.kaggle.api.archives import SUFFIXES, add_links, unpack_mounted
from pipeline.kaggle.notebook.guard import RESERVE, alert, guard, say_versions
from pipeline.kaggle.notebook.mounts import find_input, working_root

KILLED = -9  # `timeout` ends by the signal that it sends to its whole group
OVERTIME = RESERVE * 2 / 3  # seconds after which an epoch that takes too long is given up
PROJECT = Path(__file__).parents[3]  # holds this package, the split and the first weights
DATA = "competition"  # in the project: its CSVs as they are at home, beside the mounted pictures


class Job(Settings):
    """What a training notebook is told."""

    experiment: str
    competition: str  # slug
    picture: str  # of train.csv, by which the competition's folder is known
    folds: list[int]
    hours: float  # limit of a session
    kernel: str  # OWNER/SLUG of the notebook itself
    pixels: str  # digest of the training pictures at home

    @property
    def run(self) -> Path:
        """The run's folder, in the notebook's output."""
        return working_root() / "runs" / self.experiment


def run(job: Job) -> None:
    deadline = Deadline(3600 * job.hours - RESERVE)  # no epoch is begun that may end later
    say_versions()
    job.run.mkdir(parents=True, exist_ok=True)
    with guard("the training"):
        bring_last_output(job)  # before anything can fail
        train(job, copy_project(job), deadline)
    with guard("the summary"):
        say_progress(job)


def bring_last_output(job: Job) -> None:
    run = f"runs/{job.experiment}"
    try:
        former = find_input("notebook", job.kernel.rpartition("/")[2], run) / run
    except FileNotFoundError:
        return say("notebook", "no output of an earlier session is attached: folds begin anew")
    copy_files(former, job.run)
    return say("notebook", f"{former}: the output of an earlier session goes on")


def copy_project(job: Job) -> Path:
    """A scratch copy of the project as it is at home, whose run is in the notebook's output."""
    project = Path(tempfile.mkdtemp())
    copy_files(PROJECT, project)
    (project / "runs").mkdir(exist_ok=True)
    (project / "runs" / job.experiment).symlink_to(job.run)
    return project


def copy_files(source: Path, target: Path) -> None:
    """Their bytes alone: what is mounted is read-only."""
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)


def train(job: Job, project: Path, deadline: Deadline) -> None:
    """Pack the pictures, then train; a stage that ends badly has said why."""
    if code := prepare(job, project, deadline):
        return alert(f"prepare ended with {code}: nothing is trained")
    for facts in project.glob("runs/_data/*/*/images.csv"):
        if records.load(facts)["digests"]["train"] != job.pixels:
            alert("the training pictures differ from those at home, which will refuse these models")
    folds = [word for fold in job.folds for word in ("--fold", str(fold))]
    hours = str(max(0.0, deadline.left() / 3600))
    command = ["train", job.experiment, *folds, "--hours", hours]
    code = run_stage(command, project, deadline.left() + OVERTIME)
    if code == KILLED and deadline.left() + OVERTIME <= 0:
        say("notebook", "the time is over: the epoch at work is given up")
    elif code not in (0, Exit.PAUSED):
        alert(f"train ended with {code}: what it finished before is kept")
    return None


def prepare(job: Job, project: Path, deadline: Deadline) -> int:
    """Pack the pictures that are mounted, or else those in zips; returns the exit code."""
    markers = [escape(job.picture), *(f"*{suffix}" for suffix in SUFFIXES)]
    mounted = find_input("competition", job.competition, *markers)

    def pack(source: Path) -> int:
        add_links(source, project / DATA)
        command = ["prepare", job.experiment, "--data", str(project / DATA)]
        return run_stage(command, project, deadline.left() + OVERTIME)

    code = pack(mounted)
    if code == Exit.BAD_INPUT and any(path.suffix in SUFFIXES for path in mounted.iterdir()):
        say("notebook", "once more, with what the zips hold")
        code = pack(unpack_mounted(mounted, project / "unpacked"))
    return code


def run_stage(command: list[str], project: Path, seconds: float) -> int:
    """A stage in a process of its own, whose words are passed on; returns its exit code.

    With its folds it is killed when `seconds` are over: nothing is lost but the epoch at work.
    """
    stage, *options = command
    limit = ["timeout", "--signal=KILL", str(max(1.0, seconds)), sys.executable, "-m"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([*limit, f"pipeline.{stage}", *options], cwd=project, **pipe)
    for line in process.stdout:
        print(line, end="", flush=True)
    return process.wait()


def say_progress(job: Job) -> None:
    """Which folds are done, which go on next time, and what to do then."""
    done = finished(job.run, job.folds)
    say("notebook", f"done: folds {done} of {job.folds}")
    for fold in [fold for fold in job.folds if fold not in done]:
        _, epoch = how_far(job.run / f"fold{fold}")
        state = f"goes on after epoch {epoch}" if epoch else "is to begin"
        say("notebook", f"fold {fold} {state}")
    if len(done) < len(job.folds):
        say("notebook", "next: this notebook again, its own output attached as an input")
    else:
        say("notebook", "next, at home (--push does it alone):")
        say("", f"  kaggle kernels output {job.kernel} -p away")
        say("", f"  mkdir -p runs && cp -r away/runs/. runs/ && ./run.sh {job.experiment} train")
