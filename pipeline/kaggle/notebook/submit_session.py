"""What a submission's notebook does: each step leaves a valid submission.csv, a better one each.

The notebook's first cell has left the sample; now each class's share of the training images, then
the blend of the models that have answered. A step that fails says so and leaves what stands.
"""

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from pipeline.base.cli import UserError, say, warn
from pipeline.base.competition import Competition
from pipeline.base.config import Predict
from pipeline.base.csv_files import read_csv
from pipeline.base.deadline import Deadline
from pipeline.data.tables import read_test
from pipeline.inference import submission
from pipeline.inference.predictions import Predictions, mean_of_runs
from pipeline.kaggle.notebook import manifest
from pipeline.kaggle.notebook.gpu_workers import GpuWorkers, count_gpus
from pipeline.kaggle.notebook.guard import RESERVE, alert, guard, say_versions
from pipeline.kaggle.notebook.hidden_images import read_images
from pipeline.kaggle.notebook.manifest import BundledModel, Job, Manifest
from pipeline.kaggle.notebook.mounts import find_input, working_root

SEEN = 200  # images predicted where the answers do not count


@dataclass
class Submission:
    """The answers to the hidden test: `rows` are its images (id, path), `sample` their form."""

    competition: Competition
    folder: Path
    rows: pd.DataFrame
    sample: pd.DataFrame
    out: Path

    def write(self, known: Manifest, good: np.ndarray, prob: np.ndarray) -> None:
        """Answer the images of the row numbers `good` by `prob`, all others by the prior."""
        ids = list(self.sample[self.competition.id])
        every = np.tile(np.array(known.prior, dtype=np.float32), (len(ids), 1))
        every[pd.Index(ids).get_indexer(self.rows.id.iloc[good])] = prob
        answers = Predictions(ids, known.classes, every)
        where = "the hidden sample"
        table = submission.fill_sample(self.sample, answers, self.competition, where)
        submission.write_table(table, self.out)

    def audit(self) -> None:
        """Read submission.csv back and check it as Kaggle would."""
        table = read_csv(self.out, [self.competition.id])
        submission.audit(table, self.sample, self.competition)
        say("notebook", f"{self.out}: {len(table):,} rows, audited\n{table.iloc[:5, :4]}")


def run(job: Job) -> None:
    deadline = Deadline(3600 * job.competition.limit_hours - RESERVE)
    say_versions()
    with guard("the submission"):
        answers = open_submission(job.competition)
        with guard("the prediction"):
            folder, known = open_weights(job.weights)
            answers.write(known, np.zeros(0, dtype=int), np.zeros((0, 1)))
            predict(answers, folder, known, deadline)
        answers.audit()


def open_submission(competition: Competition) -> Submission:
    """Find the competition and its sample, which is the first submission."""
    slug = competition.slug or competition.name
    folder = find_input("competition", slug, competition.sample)
    sample = read_csv(folder / competition.sample, [competition.id])
    rows = pd.DataFrame({"id": [], "path": []}, dtype=str)
    with guard("reading the list of test images"):
        rows = read_test(competition, folder)
    say("notebook", f"{folder}: {len(rows):,} test images, {len(sample):,} rows in the sample")
    submission.write_table(sample, out := working_root() / "submission.csv")
    complete = complete_sample(sample, rows, competition.id)
    return Submission(competition, folder, rows, complete, out)


def complete_sample(sample: pd.DataFrame, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The sample, and below it the rows of test images that it does not list."""
    listed = set(sample[column])
    more = [name for name in rows.id if name not in listed]
    if more:
        warn("notebook", f"the sample lacks {len(more)} test images, first {more[0]!r}: added")
    if gone := listed - set(rows.id):
        warn("notebook", f"{len(gone)} ids have no test image, first {min(gone)!r}: prior instead")
    extra = pd.DataFrame({name: more if name == column else "" for name in sample}, dtype=str)
    return pd.concat([sample, extra], ignore_index=True)


def open_weights(dataset: str) -> tuple[Path, Manifest]:
    """The folder of the models, and the manifest without those that are missing or damaged."""
    folder = find_input("dataset", dataset, manifest.FILE)
    known, sound = Manifest.load(folder), []
    for model in known.models:
        if problem := model.problem(folder):
            warn("notebook", f"{model.name} is left out: {problem}")
        else:
            sound.append(model)
    say("notebook", f"{len(sound)} of {len(known.models)} models are sound")
    return folder, known.model_copy(update={"models": sound})


def predict(answers: Submission, folder: Path, known: Manifest, deadline: Deadline) -> None:
    """Answer by the models, as many as the time allows; submission.csv is written after each."""
    if not known.models:
        return alert("no weights can be used: submission.csv is the prior, the same for all images")
    paths = [answers.folder / path for path in answers.rows.path]
    hidden = os.environ.get("KAGGLE_IS_COMPETITION_RERUN")
    if answers.competition.code_competition and not hidden:
        paths = paths[:SEEN]
        say("notebook", f"Kaggle runs this again on the hidden test: {len(paths)} images do")
    workers = GpuWorkers(max(1, count_gpus()), deadline)
    with TemporaryDirectory() as scratch:
        forms = sorted({(model.pixels, model.fit) for model in known.models})
        good, sources = read_images(paths, forms, Path(scratch))

        def probabilities(model: BundledModel) -> np.ndarray:
            source = sources[model.pixels, model.fit]
            prob = workers.predict(folder / model.file, model, source, good)
            if not np.isfinite(prob).all():
                raise UserError("its answers are not numbers")
            return prob

        try:
            if len(good):
                run_models(
                    known.models, deadline, probabilities, partial(answers.write, known, good)
                )
        finally:
            workers.close()
    return None


def run_models(
    models: list[BundledModel],
    deadline: Deadline,
    predict: Callable[[BundledModel], np.ndarray],
    write: Callable[[np.ndarray], None],
) -> None:
    """Each model once; after each, `write` gets the blend of those that have answered.

    Before that it gets one view's answer of the first model, however long all the views may take.

    A fold is left out when it would take too long by the time of the last one of its run; the
    first of a run is begun in any case, and given up by the GPU workers at the deadline.
    """
    seconds, share = dict[str, float](), {model.run: model.weight for model in models}
    found: dict[str, list[np.ndarray]] = {}
    first, *_ = ordered = in_order(models)
    if first.predict != Predict():
        soon = attempt(predict, first.model_copy(update={"predict": Predict()}))
        if soon is not None:
            write(soon)
    for model in ordered:
        if not deadline.fits(seconds.get(model.run, 0.0)):
            continue
        started = deadline.clock()
        if (prob := attempt(predict, model)) is None:
            continue
        seconds[model.run] = deadline.clock() - started
        found.setdefault(model.run, []).append(prob)
        write(mean_of_runs(found.values(), [share[run] for run in found]))
        rate, left = len(prob) / max(seconds[model.run], 1e-9), deadline.left() / 60
        say("notebook", f"{model.name} has answered: {rate:,.0f} images/s, {left:,.0f} min left")
    answered = sum(map(len, found.values()))
    if not answered:
        alert("no model answered with all its views: submission.csv is one view's, or the prior")
    elif answered < len(models):
        warn("notebook", f"{len(models) - answered} of {len(models)} models left out")


def attempt(
    predict: Callable[[BundledModel], np.ndarray], model: BundledModel
) -> np.ndarray | None:
    """Its answer, or None: whatever ails one model, the others may be well."""
    try:
        return predict(model)
    except Exception as error:
        traceback.print_exc()
        warn("notebook", f"{model.name} is given up: {error}")
        return None


def in_order(models: list[BundledModel]) -> list[BundledModel]:
    """One fold of each run, then the next: when time runs out, what is left out matters least."""
    return sorted(models, key=lambda model: (model.fold, -model.weight))
