"""A bundle's notebook in a copy of Kaggle's folders, its answers compared with ours.

The hidden test is ours under new names and in another size, so that each answer has a local one.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.config import Runtime, root
from pipeline.base.csv_files import read_csv
from pipeline.base.runs import load_blend
from pipeline.data.prepared import prepared_data
from pipeline.data.studies import answered
from pipeline.data.tables import read_split
from pipeline.inference.predictions import Predictions
from pipeline.inference.thresholds import Decision
from pipeline.kaggle.bundle.notebook_file import BOOK
from pipeline.kaggle.bundle.offline import execute

DESCRIBED = "dataset-metadata.json"  # read by the client, and not uploaded


def rehearse(bundle: Path, competition: Competition, n: int | None) -> tuple[str, str]:
    """Run the notebook of a bundle; returns what it printed, and how its answers compare.

    `n` is the size of the hidden test (None: two thirds of ours). Raises UserError when the
    notebook fails, or answers otherwise than submissions/NAME.csv.
    """
    name = bundle.parent.name
    local = root("submissions") / f"{name}.csv"
    if not local.is_file():
        raise UserError(f"{local}: nothing to compare with; run python -m pipeline.submit {name}")
    blend, record = load_blend(name)
    data = prepared_data(record["key"]["competition"])
    with TemporaryDirectory(prefix="kaggle") as folder:
        inputs = Path(folder) / "input"
        mount(bundle, inputs)
        mounted = inputs / "competitions" / (competition.slug or competition.name)
        size = round(len(read_split(competition, data, "test")) * 2 / 3) if n is None else n
        ours = hide(data, competition, mounted, size)
        working, scratch = Path(folder) / "working", Path(folder) / "temp"
        working.mkdir()
        scratch.mkdir()
        story = execute(bundle / "notebook" / BOOK, inputs, working, scratch)
        answers = read_csv(working / "submission.csv", [competition.id])
    margins = margins_of(Predictions.load(blend), record.get("decision"), competition.k)
    known = read_csv(local, [])
    return story, compare(answers, known, ours, competition, margins, tolerance_here())


def mount(bundle: Path, inputs: Path) -> None:
    """Copy a bundle's datasets to where Kaggle mounts them today."""
    for metadata in bundle.glob(f"*/{DESCRIBED}"):
        target = inputs / "datasets" / json.loads(metadata.read_text(encoding="utf-8"))["id"]
        shutil.copytree(metadata.parent, target, ignore=shutil.ignore_patterns(DESCRIBED))


def hide(data: Path, competition: Competition, folder: Path, n: int) -> pd.Series:
    """Write a hidden test of `n` images into `folder`; returns our id of each, by its new one.

    Our pictures come in another order, more than once where they are too few, and all under ids
    that nobody has seen; the several pictures of an id stay together.
    """
    rows, column = read_split(competition, data, "test"), competition.id
    names = answered(rows).drop_duplicates()
    chosen = np.random.default_rng(n).permutation(len(names))[np.arange(n) % len(names)]
    ours = names.iloc[chosen].tolist()
    new = [str(Path(name).with_stem(f"{Path(name).stem}h{i}")) for i, name in enumerate(ours)]
    known = pd.Series(ours, index=new, dtype=object)
    test, sample = (read_csv(data / f, [column]) for f in (competition.test, competition.sample))
    for table, name, step in ((test, competition.test, 1), (sample, competition.sample, -1)):
        pairs = pd.DataFrame({column: ours, "\0": new})
        hidden = pairs.merge(table, on=column, how="left").assign(**{column: lambda t: t["\0"]})
        hidden = hidden[list(table)]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        hidden[::step].to_csv(folder / name, index=False)  # two orders, as on Kaggle
    path = dict(zip(rows.id, rows.path, strict=True))
    there = read_split(competition, folder, "test")
    for study, id_, target in zip(answered(there), there.id, there.path, strict=True):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        source = path[known[study] + id_.removeprefix(study)]
        shutil.copyfile(data / source, folder / target)
    return known


def margins_of(
    blend: Predictions, decision: dict[str, Any] | None = None, k: int = 1
) -> dict[str, float]:
    """How far the prediction of each picture is from another answer."""
    if decision:
        margin = Decision(**decision).margin(blend.prob)
    elif blend.kind == "shares":
        margin = np.diff(np.sort(blend.prob)[:, -1 - k :]).min(1)
    else:
        margin = np.abs(blend.prob - 0.5).min(1)
    return dict(zip(blend.image, margin.tolist(), strict=True))


def compare(
    answers: pd.DataFrame,
    local: pd.DataFrame,
    ours: pd.Series,
    competition: Competition,
    margins: dict[str, float],
    tolerance: float,
) -> str:
    """How the notebook's answers are to the local ones of the same pictures, row by row.

    Labels may differ only where the blend's margin to another answer is below `tolerance`; numbers
    by that share of their spread. Raises UserError naming the first row that differs.
    """
    column = competition.id
    if set(answers[column]) != set(ours.index) or len(answers) != len(ours):
        raise UserError(f"the notebook answers {len(answers)} ids, expected {len(ours)}")
    got = answers.set_index(column).loc[ours.index]
    want = local.set_index(column).loc[ours]
    numbers = competition.task == "regression"
    if competition.submission == "probability" or numbers:
        theirs = want[list(got)].to_numpy(dtype=float)
        gaps = np.abs(got.to_numpy(dtype=float) - theirs)
        gaps /= np.where((spread := theirs.std(0)) > 0, spread, 1) if numbers else 1
        wrong = (gaps > tolerance).any(axis=1)
        what = "number, in deviations," if numbers else "probability"
        verdict = f"largest difference of a {what} {gaps.max(initial=0):.1g}"
    else:
        differ = (got.to_numpy() != want[list(got)].to_numpy()).any(axis=1)
        tied = np.array([margins[name] < tolerance for name in ours], dtype=bool)
        wrong = differ & ~tied
        verdict = f"{differ.sum()} other labels, all in a tie" if differ.any() else "equal labels"
    if wrong.any():
        first = ours.index[wrong.argmax()]
        text = f"{wrong.sum()} of {len(ours)} answers differ from the local submission"
        told = f"{first!r} ({ours[first]!r} here): {got.loc[first].tolist()[:3]}"
        raise UserError(f"{text}, first {told}")
    return f"{len(ours):,} rows as in the local submission, {verdict}"


def tolerance_here() -> float:
    """How far a probability may differ: the notebook computes as this machine does."""
    from pipeline.base.device import make_accelerator  # late: torch
    from pipeline.inference.predictor import TOLERANCE, inference_precision

    return TOLERANCE[inference_precision(make_accelerator(Runtime()))]
