"""What a bundle's notebook does: every step leaves a valid submission.csv, a better one each time.

The notebook's first cell has left the sample; now each class's share of the training images, then
the models' answers after each pass. A step that fails says so loudly and leaves what stands.
"""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from pipeline.base.cli import say, warn
from pipeline.base.competition import Competition
from pipeline.base.csv_files import read_csv
from pipeline.base.deadline import Deadline
from pipeline.data.tables import read_test
from pipeline.inference import submission
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.notebook import manifest
from pipeline.kaggle.notebook.guard import RESERVE, loud, night_proof, tell_versions
from pipeline.kaggle.notebook.manifest import Job, Manifest, Member
from pipeline.kaggle.notebook.mounts import find_input, working_root
from pipeline.kaggle.notebook.multi_gpu import Looks, Shards, all_looks, count_gpus, together
from pipeline.kaggle.notebook.passes import work
from pipeline.kaggle.notebook.test_images import Pictures, read_pictures

FEW, PROBE = 8, 128  # images that foretell a pass: what starting costs, and the rate
SEEN = 200  # images predicted where the answers do not count


@dataclass
class Test:
    """The hidden test as it is mounted: `rows` (id, path), `sheet` the form of the answer."""

    job: Job
    folder: Path
    rows: pd.DataFrame
    sheet: pd.DataFrame
    deadline: Deadline
    out: Path


@dataclass
class Weights:
    folder: Path
    manifest: Manifest
    sound: list[Member]  # those whose files are what the manifest says


@dataclass
class Model:
    """One member at work: `total` is the sum of probabilities over the looks that are `done`."""

    member: Member
    all_looks: list[tuple[int, int]]  # size in px, number of the view
    total: np.ndarray | float = 0.0
    done: int = 0

    def __post_init__(self) -> None:
        self.kind, self.looks = self.member.run, len(self.all_looks)

    def next_looks(self, n: int) -> Looks:
        return together(self.all_looks[self.done : self.done + n])


@night_proof
def open_test(job: Job) -> Test:
    """Find the competition and its sample. The clock starts here."""
    deadline = Deadline(3600 * job.competition.limit_hours - RESERVE)
    tell_versions()
    competition = job.competition
    folder = find_input("competition", job.slug, competition.sample)
    sample = read_csv(folder / competition.sample, [competition.id])
    rows = night_proof(read_test)(competition, folder)
    if rows is None:
        rows = pd.DataFrame({"id": [], "path": []}, dtype=str)
    say("kernel", f"{folder}: {len(rows):,} test images, {len(sample):,} rows in the sample")
    submission.write_table(sample, out := working_root() / "submission.csv")
    return Test(job, folder, rows, answer_sheet(sample, rows, competition.id), deadline, out)


def only_seen(competition: Competition) -> bool:
    """Whether this run's answers do not count: the notebook runs again with the hidden test."""
    return competition.code_competition and not os.environ.get("KAGGLE_IS_COMPETITION_RERUN")


def answer_sheet(sample: pd.DataFrame, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The sample, and below it the rows of test images that it does not list."""
    listed = set(sample[column])
    more = [name for name in rows.id if name not in listed]
    if more:
        warn("kernel", f"the sample lacks {len(more)} test images, first {more[0]!r}: added")
    if gone := listed - set(rows.id):
        warn("kernel", f"{len(gone)} ids have no test image, first {min(gone)!r}: prior instead")
    extra = pd.DataFrame({name: more if name == column else "" for name in sample}, dtype=str)
    return pd.concat([sample, extra], ignore_index=True)


@night_proof
def open_weights(test: Test | None) -> Weights | None:
    """Find the weights, write the prior's submission, and check every file's sha256."""
    if test is None:
        return None
    folder = find_input("dataset", test.job.weights, manifest.FILE)
    found = Manifest.load(folder)
    weights = Weights(folder, found, [])
    write_answer(test, weights, [], Pictures.none())
    for member in found.members:
        if wrong := manifest.faults(folder, member):
            warn("kernel", f"{member.run} fold {member.fold} is left out: {'; '.join(wrong)}")
        else:
            weights.sound.append(member)
    say("kernel", f"{folder}: {len(weights.sound)} of {len(found.members)} models are sound")
    if not weights.sound:
        loud("no weights can be used: submission.csv is the prior, the same for every image")
    return weights


@night_proof
def predict(test: Test | None, weights: Weights | None, gpus: int | None = None) -> None:
    """Predict as much as the time allows; submission.csv is written after every pass."""
    if weights is None or not weights.sound or test.rows.empty:
        return
    paths = [test.folder / path for path in test.rows.path]
    if only_seen(test.job.competition):
        paths = paths[:SEEN]
        say("kernel", f"Kaggle runs this again on the hidden test: {len(paths)} images are enough")
    shards = Shards(count_gpus() if gpus is None else gpus, test.deadline)
    with TemporaryDirectory() as scratch:
        forms = sorted({(member.pixels, member.fit) for member in weights.sound})
        pictures = read_pictures(paths, forms, scratch)
        models = [Model(member, all_looks(member)) for member in in_order(weights.sound)]
        night = Night(test, weights, pictures, models, shards)
        try:
            if len(pictures.good):
                work(models, test.deadline, night.probe, night.look)
        finally:
            shards.close()
    night.tell()


def in_order(members: list[Member]) -> list[Member]:
    """One fold of each run, then the next: when time runs out, what is left out matters least."""
    return sorted(members, key=lambda member: (member.fold, -member.weight))


@dataclass
class Night:
    """One night's work: `probe` and `look` are what `deadline.work` asks for."""

    test: Test
    weights: Weights
    pictures: Pictures
    models: list[Model]
    shards: Shards

    def probe(self, model: Model) -> float:
        """Seconds of one look at all pictures, from looks at a few of them; 0 where few are all."""
        n, clock = len(self.pictures.good), self.test.deadline.clock
        if n <= FEW + PROBE:
            return 0.0
        took = []
        for count in (FEW, FEW, FEW + PROBE):  # the first starts what is started once
            started, rows = clock(), self.pictures.good[:count]
            night_proof(self.probabilities)(model, rows, model.next_looks(1))
            took.append(clock() - started)
        rate = max(took[2] - took[1], 0.1 * took[2], 1e-9) / PROBE
        say("kernel", f"{model.kind}: {1 / rate:,.0f} images/s a view")
        return took[1] + rate * n

    def look(self, model: Model, n: int) -> None:
        """`n` looks more at all pictures; a model that fails is given up, what it did is kept."""
        member = model.member
        try:
            rows, looks = self.pictures.good, model.next_looks(n)
            model.total = model.total + self.probabilities(model, rows, looks)
            model.done += n
        except Exception as error:  # whatever ails one model, the others may be well
            traceback.print_exc()
            warn("kernel", f"{member.run} fold {member.fold} is given up: {error}")
            model.looks = model.done
            return
        left = self.test.deadline.left() / 60
        told = f"{model.done} of {model.looks} views, {left:,.0f} min left"
        say("kernel", f"{member.run} fold {member.fold}: {told}")
        write_answer(self.test, self.weights, self.models, self.pictures)

    def probabilities(self, model: Model, rows: np.ndarray, looks: Looks) -> np.ndarray:
        member, file = model.member, self.weights.folder / model.member.file
        source = self.pictures.sources[member.pixels, member.fit]
        prob = self.shards.predict(file, member, source, rows, looks)
        if not np.isfinite(prob).all():
            raise FloatingPointError("its answers are not numbers")
        return prob

    def tell(self) -> None:
        looked = [model for model in self.models if model.done]
        if not looked:
            loud("no model answered: submission.csv is the prior, the same for every image")
        elif cut := [m for m in self.models if m.done < len(m.all_looks)]:
            gone = len(self.models) - len(looked)
            few = len(cut) - gone
            warn("kernel", f"{gone} models left out, {few} with fewer views than asked for")


def write_answer(test: Test, weights: Weights, models: list[Model], pictures: Pictures) -> None:
    """Write submission.csv: the blend where pictures were looked at, else the prior."""
    ids, known = list(test.sheet[test.job.competition.id]), weights.manifest
    prob = np.tile(np.array(known.prior, dtype=np.float32), (len(ids), 1))
    if any(model.done for model in models):
        place = pd.Index(ids).get_indexer(test.rows.id.iloc[pictures.good])
        prob[place] = blend(models)
    answers = Predictions(ids, known.classes, prob)
    table = submission.fill_sample(test.sheet, answers, test.job.competition, "the hidden sample")
    submission.write_table(table, test.out)


def blend(models: list[Model]) -> np.ndarray:
    """Mean over the folds of each run, weighted over runs: of all that have looked so far."""
    runs: dict[str, list[Model]] = {}
    for model in models:
        if model.done:
            runs.setdefault(model.kind, []).append(model)
    means = [np.mean([m.total / m.done for m in folds], axis=0) for folds in runs.values()]
    return np.average(means, axis=0, weights=[folds[0].member.weight for folds in runs.values()])


@night_proof
def audit(test: Test | None) -> None:
    """Read submission.csv back and check it as Kaggle would."""
    if test is None:
        return
    competition = test.job.competition
    table = read_csv(test.out, [competition.id])
    submission.audit(table, test.sheet, competition)
    say("kernel", f"{test.out}: {len(table):,} rows, audited\n{table.iloc[:5, :4]}")
