"""What a submission's notebook does: each step leaves a valid submission.csv, a better one each.

The notebook's first cell has left the sample; now each class's share of the training images, then
the blend of the models that have answered. A step that fails says so and leaves what stands.
"""

import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from pipeline.base.cli import say, warn
from pipeline.base.competition import Competition
from pipeline.base.config import Runtime
from pipeline.base.csv_files import read_csv
from pipeline.base.deadline import Deadline
from pipeline.base.settings import sides
from pipeline.data.images import BadImageError, FilePixels
from pipeline.data.reading import pack
from pipeline.data.studies import answered, by_id
from pipeline.data.tables import read_split
from pipeline.inference import submission
from pipeline.inference.blending import Blend
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.api.archives import unpack_mounted
from pipeline.kaggle.notebook import manifest
from pipeline.kaggle.notebook.answer import Source, Work
from pipeline.kaggle.notebook.guard import RESERVE, alert, guard, say_versions
from pipeline.kaggle.notebook.manifest import BundledModel, Job, Manifest
from pipeline.kaggle.notebook.models import queue_of, run_models
from pipeline.kaggle.notebook.mounts import find_input, working_root
from pipeline.launchers.pool import gpu_slots

OVERTIME = RESERVE / 3  # seconds after the deadline that a process may still answer in
SEEN = 200  # images predicted where the answers do not count
SHOWN = 5  # broken pictures named one by one


@dataclass
class Submission:
    """The answers to the hidden test: `rows` are its images (id, path), `sample` their form."""

    competition: Competition
    folder: Path
    scratch: Path
    rows: pd.DataFrame
    sample: pd.DataFrame
    out: Path

    def write(self, known: Manifest, good: np.ndarray, prob: np.ndarray) -> None:
        """Answer the ids of the row numbers `good` by `prob`, all others by the prior."""
        ids = list(self.sample[self.competition.id])
        every = np.tile(np.array(known.prior, dtype=np.float32), (len(ids), 1))
        names = answered(self.rows).iloc[good].drop_duplicates()
        every[pd.Index(ids).get_indexer(names)] = prob
        rules, where = self.competition, "the hidden sample"
        answers = Predictions(ids, known.classes, every, kind=rules.form.kind)
        table = submission.fill_sample(self.sample, answers, rules, where, known.decision)
        submission.write_table(table, self.out)

    def of_ids(self, good: np.ndarray, prob: np.ndarray) -> np.ndarray:
        """A model's answers to ids, from those to the images of the row numbers `good`."""
        names = answered(self.rows).iloc[good]
        return by_id(names, prob, self.competition)[1] if "study" in self.rows else prob

    def audit(self) -> None:
        """Read submission.csv back and check it as Kaggle would."""
        table = read_csv(self.out, [self.competition.id])
        submission.audit(table, self.sample, self.competition)
        say("notebook", f"{self.out}: {len(table):,} rows, audited\n{table.iloc[:5, :4]}")


def run(job: Job) -> None:
    deadline = Deadline(3600 * job.competition.limit_hours - RESERVE)
    say_versions()
    with guard("the submission"), TemporaryDirectory() as scratch:
        answers = open_submission(job.competition, Path(scratch))
        with guard("the prediction"):
            folder, known = open_weights(job.weights)
            answers.write(known, np.zeros(0, dtype=int), np.zeros((0, 1)))
            predict(answers, folder, known, deadline)
        answers.audit()


def open_submission(competition: Competition, scratch: Path) -> Submission:
    """Find the competition and its sample, which is the first submission."""
    slug, name = competition.slug or competition.name, competition.sample
    folder = find_input("competition", slug, name, f"{name}.zip")
    if not all((folder / table).is_file() for table in (name, competition.test)):
        folder = unpack_mounted(folder, scratch / "unpacked")
    sample = read_csv(folder / name, [competition.id])
    rows = pd.DataFrame({"id": [], "path": []}, dtype=str)
    with guard("reading the list of test images"):
        rows = read_split(competition, folder, "test")
    say("notebook", f"{folder}: {len(rows):,} test images, {len(sample):,} rows in the sample")
    submission.write_table(sample, out := working_root() / "submission.csv")
    complete = complete_sample(sample, rows, competition.id)
    return Submission(competition, folder, scratch, rows, complete, out)


def complete_sample(sample: pd.DataFrame, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The sample, and below it the rows of test images that it does not list."""
    listed = set(sample[column])
    asked = answered(rows).drop_duplicates()
    more = [name for name in asked if name not in listed]
    if more:
        warn("notebook", f"the sample lacks {len(more)} test images, first {more[0]!r}: added")
    if gone := listed - set(asked):
        warn("notebook", f"{len(gone)} ids have no test image, first {min(gone)!r}: prior instead")
    extra = pd.DataFrame({name: more if name == column else "" for name in sample}, dtype=str)
    return pd.concat([sample, extra], ignore_index=True)


def open_weights(dataset: str) -> tuple[Path, Manifest]:
    """The folder of the models, and the manifest without those that are missing or damaged."""
    folder = find_input("dataset", dataset, manifest.FILE)
    known, sound = Manifest.load(folder), []
    for model in known.models:
        if problem := model.problem(folder):
            alert(f"{model.name} is left out: {problem}")
        else:
            sound.append(model)
    say("notebook", f"{len(sound)} of {len(known.models)} models are sound")
    return folder, known.model_copy(update={"models": sound})


def predict(answers: Submission, folder: Path, known: Manifest, deadline: Deadline) -> None:
    """Answer by the models, as many as the time allows; submission.csv is written after each."""
    if not known.models:
        return alert("no weights can be used: submission.csv is the prior, the same for all images")
    data, scratch, names = answers.folder, answers.scratch, list(answers.rows.path)
    hidden = os.environ.get("KAGGLE_IS_COMPETITION_RERUN")
    if answers.competition.code_competition and not hidden:
        names = names[:SEEN]
        say("notebook", f"Kaggle runs this again on the hidden test: {len(names)} images do")
    if names and not any((data / name).is_file() for name in names):
        data = unpack_mounted(data, scratch / "unpacked")
    paths = [data / name for name in names]
    good, sources = read_images(paths, known.models, scratch)
    if paths and not len(good):
        alert("no test picture can be read: submission.csv is the prior, the same for all")
    if len(good):
        slots = gpu_slots(Runtime(), len(good))
        work = Work(
            scratch=scratch,
            weights=folder,
            sources=sources,
            rows=good.tolist(),
            models=queue_of(known.models),
            classes=known.classes,
            shares=len(slots),
            ends=time.time() + deadline.left() + OVERTIME,
            blend=Blend(known.mean, answers.competition.form.kind == "chances"),
        )
        of_ids, write = partial(answers.of_ids, good), partial(answers.write, known, good)
        run_models(work, slots, deadline, of_ids, write)
    return None


def read_images(
    paths: list[Path], models: list[BundledModel], scratch: Path
) -> tuple[np.ndarray, dict[str, Source]]:
    """Numbers of those that can be read, and the pixels of all in each form that a model takes.

    They are packed in `scratch`, where there is room for that.
    """
    bad: dict[int, BadImageError] = {}
    sources: dict[str, Source] = {}
    for form, model in {model.form: model for model in models}.items():
        packed, size, fit = scratch / f"{form}.npy", model.pixels, model.fit
        size_gb = len(paths) * prod(sides(size)) * 3 / 1e9
        room = size_gb < shutil.disk_usage(scratch).free / 2e9  # a full disk kills who maps a file
        if not room:
            warn("notebook", f"no room for {size_gb:.0f} GB of pixels: files are read each time")
        facts = pack(paths, size, fit, packed if room else None, "decode")
        sources[form] = packed if room else FilePixels(paths, size, fit)
        bad |= {i: one for i, one in enumerate(facts) if isinstance(one, BadImageError)}
    say("notebook", f"{len(paths):,} pictures decoded, {len(bad)} of them broken")
    for i in list(bad)[:SHOWN]:
        warn("notebook", f"{paths[i]}: {bad[i]}: the prior answers for it")
    return np.array([i for i in range(len(paths)) if i not in bad], dtype=int), sources
