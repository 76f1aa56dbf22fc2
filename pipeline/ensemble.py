"""Stage 5: blend the folds of one or more runs, and score members and blend.

reads   runs/RUN/foldK/{oof,test}.TTA.npz of each run, the folds file, labels/COMPETITION.csv
writes  runs/NAME/{oof,test}.npz and their record with the scores, runs/NAME/report.html
run     python -m pipeline.ensemble resnet50d convnext_tiny:2 --name blend

Folds count equally; runs too, unless RUN:WEIGHT says otherwise. Rows and columns are matched by
id and class name. Runs on different folds are refused: their blended score would leak. --fold 0
makes runs/RUN-fold0, a first submission before the other folds are trained.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, mean_std, run_stage, say, short, took, warn
from pipeline.base.competition import load_competition
from pipeline.base.config import TTA, Experiment, load_experiment, root, with_tta
from pipeline.base.derived import SeedOption, each_seed, seeds_of
from pipeline.base.runs import Split, cv_of, prediction_path
from pipeline.base.settings import checked_name
from pipeline.data.decisions import Changes, load_changes
from pipeline.data.prepared import prepared_folder
from pipeline.data.splits import chosen_folds, classes_of, folds_digest, load_folds, slices
from pipeline.inference.predictions import Predictions, mean_of_runs, out_of_fold

VERSION = 1


@dataclass(frozen=True)
class Member:
    """A run in a blend; `digests` name its prediction files as they are now."""

    settings: Experiment
    views: str  # name of its predict settings
    weight: float
    folds: list[int]
    digests: dict[str, str]

    def path(self, fold: int, split: Split) -> Path:
        return prediction_path(self.settings.name, fold, split, self.views)

    def of_fold(self, fold: int, split: Split, image: list[str], classes: list[str]) -> np.ndarray:
        """Probabilities [len(image), classes] by one fold's model."""
        return Predictions.load(self.path(fold, split)).aligned(image, classes)


def main(
    runs: Annotated[list[str], typer.Argument(help="RUN or RUN:WEIGHT")],
    name: Annotated[str | None, typer.Option(help="default: the run, when it is one")] = None,
    fold: Annotated[list[int] | None, typer.Option(help="only these folds")] = None,
    tta: Annotated[TTA | None, typer.Option(help="default: each run's own; its sizes stay")] = None,
    seed: SeedOption = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="without the page")] = False,
) -> None:
    if name is not None:
        checked_name(name, "--name")
    members = [member for text in runs for member in load_members(text, seed, fold, tta)]
    first, folds_used = members[0].settings, members[0].folds
    few = len(folds_used) < first.folds.n
    if name is None:
        if len(runs) > 1:
            raise UserError("several runs need a --name")
        name = name_of(runs[0].partition(":")[0], seed, folds_used if few else [])
    table = load_folds(first)
    folds = folds_digest(table)
    refuse_mixed(members, folds)
    started = time.monotonic()
    out = root("runs") / name / "test.npz"
    total = sum(member.weight for member in members)
    key = {
        "version": VERSION,
        "competition": first.competition,
        "folds": folds,
        "weights": {m.settings.name: m.weight / total for m in members},
        "members": {m.settings.name: {"tta": m.views, **m.digests} for m in members},
    }
    changes = load_changes(first)
    if few:
        key |= {"only": folds_used, "of": first.folds.n}
    metric = load_competition(first.competition).metric
    work = partial(blend, members, table, changes, metric, out)
    made = records.make(out, key | changes.key(), work)
    print_scores(records.load(out))
    say("ensemble", f"{out.parent}/{{oof,test}}.npz, {took(started) if made else 'up to date'}")
    if not no_report:
        tell(out.parent.name)


def blend(
    members: list[Member], table: pd.DataFrame, changes: Changes, metric: str, out: Path
) -> dict[str, Any]:
    """Write `out` (test) and its oof twin; return the scores of each member and of the blend,
    and what they are scores of.

    Test probabilities are the weighted mean over all fold models; an out-of-fold row comes from
    the one model of each member that has not seen it. Scores are by the labels as decided,
    without what is left out, which has probabilities for all that.
    """
    classes = classes_of(table)
    scored = table[table.fold.isin(members[0].folds)]
    mended = changes.applied(table).loc[scored.index]
    weights = [member.weight for member in members]
    oof = [out_of_fold(m.settings.name, m.views, scored, classes) for m in members]
    test_ids = Predictions.load(members[0].path(members[0].folds[0], "test")).image
    blended = np.average(oof, axis=0, weights=weights).astype(np.float32)
    tests = ([m.of_fold(fold, "test", test_ids, classes) for fold in m.folds] for m in members)
    test = mean_of_runs(tests, weights)
    Predictions(list(scored.image), classes, blended).save(out.with_name("oof.npz"))
    Predictions(test_ids, classes, test).save(out)
    scores = {
        f"{member.settings.name} {member.views}": score(mended, prob, classes, metric)
        for member, prob in zip(members, oof, strict=True)
    }
    if len(members) > 1:
        scores["blend"] = score(mended, blended, classes, metric)
    return {"metric": metric, "scores": scores}


def score(
    scored: pd.DataFrame, prob: np.ndarray, classes: list[str], metric: str
) -> dict[str, Any]:
    """The metric per fold and on slices of the held-out rows."""
    from pipeline.inference.metrics import METRICS  # late: scikit-learn

    used = (scored.fold >= 0).to_numpy()  # not what decisions leave out
    scored, prob = scored[used], prob[used]
    target = scored.label.map({name: i for i, name in enumerate(classes)}).to_numpy()
    folds = sorted(scored.fold.unique())

    def on(rows: np.ndarray) -> float:
        return round(METRICS[metric](target[rows], prob[rows]), 5)

    parts = slices(scored)
    return {
        "folds": [on((scored.fold == fold).to_numpy()) for fold in folds],
        **{name: on(rows) for name, rows in parts.items() if rows.any()},
        "rows": {name: int(rows.sum()) for name, rows in parts.items()},
    }


def print_scores(record: dict[str, Any]) -> None:
    wide = max(len(name) for name in record["scores"]) + 2
    parts, rows = ["all", "no_twins", "no_conflicts"], cv_of(record)["rows"]
    head = "OOF all   no twins  no conflicts"
    if "untouched" in rows:
        parts, head = [*parts, "untouched"], f"{head}  untouched"
    print(f"{record['metric']:<{wide}}  CV mean ± std    {head}")
    for name, scores in record["scores"].items():
        cells = [f"{scores[part]:.4f}" if part in scores else "-" for part in parts]
        line = "  ".join(f"{cell:<{n}}" for cell, n in zip(cells, (8, 8, 12, 0), strict=False))
        print(f"{name:<{wide}}  {mean_std(scores['folds'])}  {line}".rstrip())
    if "untouched" in rows:
        labels = record["key"]["labels"].partition(" (")[0]
        say("ensemble", f"labels: {labels}; untouched: the other {rows['untouched']:,} pictures")


def tell(name: str) -> None:
    """Write the page about a blend, unless there is one. Without it the blend is done as well."""
    from pipeline.pages.compose import is_reported, report_path, write_report  # late: they draw

    started = time.monotonic()
    try:
        if made := not is_reported(name):
            write_report(name, full=False)
    except Exception as error:  # whatever it is: the scores stand
        warn("report", f"none was written: {short(error)}")
        return
    say("report", f"{report_path(name)}, {took(started) if made else 'up to date'}")


def name_of(experiment: str, seeds: list[int] | None, folds: list[int]) -> str:
    """The experiment's, unless these are some of its folds, or other seeds than its file lists."""
    other = seeds if seeds and set(seeds) != set(seeds_of(experiment)) else []
    parts = {"seed": sorted(set(other)), "fold": folds}
    named = [f"-{part}{'-'.join(map(str, some))}" for part, some in parts.items() if some]
    return load_experiment(experiment).name + "".join(named)


def load_members(
    text: str, seeds: list[int] | None, asked: list[int] | None, tta: TTA | None
) -> list[Member]:
    """The runs of RUN or RUN:WEIGHT, one for each seed, which share the weight.

    Raises UserError for a bad weight and for each missing fold.
    """
    run, _, number = text.partition(":")
    try:
        weight = float(number or 1)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise UserError(f"{text!r}: the weight after ':' must be a number over 0")
    names = each_seed(run, seeds)
    return [load_member(name, weight / len(names), asked, tta) for name in names]


def load_member(run: str, weight: float, asked: list[int] | None, tta: TTA | None) -> Member:
    """Digest a run's prediction files of the folds asked for, or of all.

    Raises UserError for each missing fold.
    """
    settings = with_tta(load_experiment(run), tta)
    views = settings.predict.views_name
    digests, folds = {}, chosen_folds(settings, asked)
    folder = prepared_folder(settings.competition_name, settings.cache_size, settings.model.resize)
    prepared = records.load(folder / "images.csv")
    for fold in folds:
        for split, pictures in (("oof", "train"), ("test", "test")):
            path = prediction_path(settings.name, fold, split, views)
            if (record := records.load(path)) is None:
                raise UserError(
                    f"{run}: fold {fold} has no {split} predictions with tta {views} ({path}); run "
                    f"python -m pipeline.predict {run}, or take those that there are by --fold"
                )
            if prepared and record["key"]["pixels"] != prepared["digests"][pictures]:
                raise UserError(
                    f"{path}: the {pictures} pictures have changed since; run python -m "
                    f"pipeline.predict {run}"
                )
            digests[f"{split}{fold}"] = records.file_digest(path)
    return Member(settings, views, weight, folds, digests)


def refuse_mixed(members: list[Member], folds: str) -> None:
    names = [member.settings.name for member in members]
    if len(set(names)) < len(names):
        raise UserError(f"a run stands twice in {names}; give it one weight")
    if len({member.settings.competition for member in members}) > 1:
        raise UserError(f"{names} belong to different competitions")
    for member in members:
        for fold in member.folds:
            if records.load(member.path(fold, "oof"))["folds"] != folds:
                raise UserError(
                    f"{member.settings.name} fold {fold} was trained on other folds than "
                    f"{names[0]}: a blended score would leak"
                )


if __name__ == "__main__":
    run_stage(main)
