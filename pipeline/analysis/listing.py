"""What all there is has scored and cost, and by what each run differs from its base."""

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.paired import scored_on
from pipeline.base import records
from pipeline.base.cli import UserError, duration, mean_std, print_table, short, warn
from pipeline.base.competition import load_competition
from pipeline.base.config import load_experiment, read_experiment, root
from pipeline.base.runs import (
    cv_of,
    fold_folders,
    folds_of,
    is_as_blended,
    load_blend,
    model_path,
    submission_of,
)
from pipeline.base.settings import size_name
from pipeline.inference.metrics import sign_of
from pipeline.kaggle.api.upload import mean_of, read_ledger
from pipeline.training.keys import in_todays_terms

Split = tuple[str, str, tuple[int, ...]]  # as `scored_on` tells it
SCIENCE = ("model", "augment", "mix", "train")


@dataclass(frozen=True)
class Row:
    """A run or a blend. `scores` are those of its folds, `seconds` those of training them all."""

    name: str
    split: Split
    metric: str
    scores: list[float]
    oof: float | None
    tta: str
    seconds: float
    date: str
    what: str
    base: str | None = None
    changes: list[str] = field(default_factory=list)  # as `train.lr: 7e-05 → 0.0001`
    weights: dict[str, float] = field(default_factory=dict)  # of a blend of several runs
    public: float | None = None
    hidden: float | None = None

    @property
    def cv(self) -> float:
        return float(np.mean(self.scores)) if self.scores else float("nan")


def every_row() -> list[Row]:
    """All runs and blends, by name."""
    found, public = [], public_scores()
    for folder in sorted(path for path in root("runs").glob("[!._]*") if path.is_dir()):
        try:
            row = row_of(folder.name, public)
        except UserError as error:
            warn("runs", f"left out: {short(error)}")
            continue
        found += [row] if row else []
    return found


def row_of(name: str, public: dict[tuple[str, str], float]) -> Row | None:
    """A blend's, or that of a run with trained folds that is none yet; None for any other folder.

    Raises UserError for damaged records.
    """
    if (root("runs") / name / "test.npz.json").exists():
        record = load_blend(name)[1]
        cv = mean_of(cv_of(record)["folds"])
        known = {"public": public.get((name, cv)), "hidden": hidden_score(name)}
        return blend_row(name, record, known)
    trained = models_of(name, list(fold_folders(root("runs") / name)))
    return run_row(name, trained) if trained else None


def blend_row(name: str, record: dict[str, Any], known: dict[str, float | None]) -> Row:
    key, cv = record["key"], cv_of(record)
    models = {run: models_of(run, folds_of(record)) for run in key["members"]}
    views = list(dict.fromkeys(about["tta"] for about in key["members"].values()))
    (run, one), *others = models.items()
    if others:
        parts = [f"{weight:.2g} {run}" for run, weight in key["weights"].items()]
        about = {"what": " + ".join(parts), "weights": dict(key["weights"])}
    else:
        same = one and is_as_blended(record, run)
        about = about_run(run, one[0], views[0]) if same else {"what": "?"}
    return Row(
        name=name,
        split=scored_on(record),
        metric=record["metric"],
        scores=cv["folds"],
        oof=cv.get("all"),
        tta=views[0] if len(views) == 1 else "several",
        seconds=sum(model["seconds"] for found in models.values() for model in found),
        date=record["date"],
        **about,
        **known,
    )


def run_row(name: str, trained: list[dict[str, Any]]) -> Row:
    """Of folds that are trained: plain scores of the last epoch."""
    one, folds = trained[0], [record["key"]["fold"] for record in trained]
    about = about_run(name, one, "none")
    return Row(
        name=name,
        split=(one["competition"], one["key"]["folds"], tuple(folds)),
        metric=one["metric"],
        scores=[s for r in trained if (s := r["scores"]["valid_score"]) is not None],
        oof=None,
        tta="plain",
        seconds=sum(record["seconds"] for record in trained),
        date=max(record["date"] for record in trained),
        **about | {"what": f"not blended; {about['what']}"},
    )


def about_run(name: str, model: dict[str, Any], views: str) -> dict[str, Any]:
    """What a run is in words, its base and what it does otherwise, by its model's record."""
    key = in_todays_terms(model["key"])
    try:
        own = read_experiment(name)
        other = load_experiment(own.base) if own.base else None
    except UserError:  # a file that is gone, or changed since: the record knows no base
        other = None
    if other is None:
        return {"what": model_words(key)}
    beside = {"extra", "plugins", "pseudo"}  # of which a record holds digests
    ours = {part: key[part] for part in SCIENCE} | {"tta": views} | own.model_dump(include=beside)
    theirs = records.plain(other.key()) | {"tta": other.predict.views_name}
    theirs |= other.model_dump(include=beside)
    changes = records.differences(theirs, ours)
    if (ours_in := Path(model["competition"]).stem) != other.competition_name:
        changes = [f"competition: {other.competition_name} → {ours_in}", *changes]
    what = f"{other.name}, {'; '.join(short(change, 60) for change in changes)}"
    return {"what": what if changes else other.name, "base": other.name, "changes": changes}


def model_words(key: dict[str, Any]) -> str:
    """What a model is, by its key."""
    epochs, size = key["train"]["epochs"], size_name(key["model"]["size"])
    how = f"epochs: {epochs}" if epochs else "closed form"
    return f"{key['model']['backbone']} {size} px, {how}"


def models_of(run: str, folds: list[int]) -> list[dict[str, Any]]:
    """Records of the models of these folds."""
    found = (records.load(model_path(run, fold)) for fold in folds)
    return [record for record in found if record]


def hidden_score(name: str) -> float | None:
    """The score on known answers that `submit` wrote down of the blend as it is, if it did."""
    return (submission_of(name) or {}).get("hidden")


def public_scores() -> dict[tuple[str, str], float]:
    """Of submissions that have one, by name and CV: a blend that was made anew has none yet."""
    scored = [row for row in read_ledger() if row["public"]]
    return {(row["name"], row["cv"]): float(row["public"]) for row in scored}


def print_rows(rows: list[Row]) -> None:
    """A table for each competition, split and metric, the best CV first."""
    for _, some in groupby(in_order(rows), key=lambda row: (row.split, row.metric)):
        print_split(list(some))


def in_order(rows: list[Row]) -> list[Row]:
    """By competition, split and metric the best CV first; a score that is not known stands last."""
    for competition in {row.split[0] for row in rows}:
        with suppress(UserError):  # its own metric, of which less may be better; it may be gone
            load_competition(competition)

    def place(row: Row) -> tuple[Split, str, float]:
        return row.split, row.metric, np.nan_to_num(-sign_of(row.metric) * row.cv, nan=1e9)

    return sorted(rows, key=place)


def print_split(rows: list[Row]) -> None:
    one, few = rows[0], rows[0].split[2]
    scored = f"fold {', '.join(map(str, few))}" if few else f"{len(one.scores)} folds"
    scored = scored if one.scores else "all pictures trained on"
    told = {name for row in rows for name, value in vars(row).items() if value is not None}
    known = [name for name in ("public", "hidden") if name in told]

    def cells(row: Row) -> list[str]:
        scores = [number(getattr(row, name)) for name in ("oof", *known)]
        cost = [row.tta, duration(row.seconds), row.date[5:10], row.what]
        return [row.name, mean_std(row.scores), *scores, *cost]

    print_table(
        map(cells, rows),
        ["run", "CV", "OOF", *known, "TTA", "trained", "date", "what"],
        f"{Path(one.split[0]).stem}, {one.metric}, {scored}",
        whole=("run", "CV"),
    )


def number(score: float | None) -> str:
    return "-" if score is None or np.isnan(score) else f"{score:.4f}"
