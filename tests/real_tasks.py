"""The other tasks on real pictures, beside scikit-learn on the same features; no test itself.

reads   leaf99-binary, signdigits10 and plantvillage39, folders of train.csv, test.csv and images
writes  OUT/{data,runs,folds}: a competition of each task made of them, and its run
run     python -m tests.real_tasks --data data --out /tmp/tasks

Ours is the closed form (epochs: 0) on tf_efficientnet_lite0 at 128 px, five folds. Theirs are
scikit-learn's logistic regression (of several labels one for each, of levels Ridge) on the same
numbers, scaled and brought to 512 components, with the best of six strengths by the very score
that is told. All scores are out of fold; `decided` is nested.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml

from pipeline import ensemble, folds, predict, prepare, train
from pipeline.base import records
from pipeline.base.cli import guarded, say
from pipeline.base.competition import load_competition
from pipeline.base.config import load_experiment
from pipeline.base.forms import as_array
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import load_folds
from pipeline.inference.metrics import METRICS
from pipeline.inference.predictions import Predictions

LEVELS = {"task": "ordinal", "metric": "quadratic_kappa"}
LABELS = {"task": "multi-label", "separator": ";", "metric": "macro_f1"}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "five-leaves": ("leaf99-binary", {"k": 5, "metric": "map_at_5"}),
    "sign-levels": ("signdigits10", LEVELS),
    "ten-signs": ("signdigits10", LABELS),
    "crop-and-disease": ("plantvillage39", LABELS),
    "rare-sign": ("signdigits10", {"task": "binary", "metric": "f1"}),
}
RARE = 50  # other pictures for each of the rare sign
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


@guarded
def main(
    data: Annotated[Path, typer.Option(help="holds the three folders")],
    out: Annotated[Path, typer.Option(help="for what is made of them")],
    only: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(TASKS)}")] = None,
) -> None:
    for root in ("data", "runs", "folds", "labels"):
        os.environ[f"{root.upper()}_DIR"] = str(out / root)
    for name in only or TASKS:
        source, rules = TASKS[name]
        write_competition(name, (data / source).resolve(), out, rules)
        path = str(out / f"{name}-run.yaml")
        for stage in (prepare, folds, train, predict):
            stage.main(path)
        ensemble.main([path], no_report=True)
        compare(name, path, out)


def write_competition(name: str, source: Path, out: Path, rules: dict[str, Any]) -> None:
    folder = out / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images").exists():
        (folder / "images").symlink_to(source / "images")
    for file in ("train.csv", "test.csv", "sample_submission.csv"):
        table = pd.read_csv(source / file, dtype=str)
        if "label" in table:
            table = relabelled(name, table)
        table.to_csv(folder / file, index=False)
    (out / f"{name}.yaml").write_text(yaml.safe_dump(rules))
    settings = {"competition": str(out / f"{name}.yaml"), "train": {"epochs": 0}}
    settings |= {"model": {"size": 128}, "runtime": {"workers": 0}}
    (out / f"{name}-run.yaml").write_text(yaml.safe_dump(settings))


def relabelled(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The labels that the task asks for."""
    if name == "ten-signs":
        return table.assign(label="sign " + table.label)
    if name == "crop-and-disease":
        return table.assign(label=table.label.str.replace("___", ";"))
    if name == "rare-sign" and len(table) > 1000:  # train.csv
        rare = table.index[table.label == "3"]
        table = table.drop(rare[(table.label != "3").sum() // RARE :])
    if name == "rare-sign":
        return table.assign(label=(table.label == "3").astype(int))
    return table


def compare(name: str, path: str, out: Path) -> None:
    """A line of scores."""
    settings = load_experiment(path)
    rules, prepared = load_competition(settings.competition), load_prepared(settings)
    oof = Predictions.load(out / "runs" / settings.name / "oof.npz")
    rows = prepared.rows[prepared.rows.split == "train"].set_index("id")
    table = load_folds(settings).set_index("image").loc[oof.image]
    target = as_array(rules.form.targets(table.label, oof.classes))
    files = sorted((prepared.folder / "features").glob("*-train-*.npy"))  # the mirrored last
    features = np.stack([np.load(file)[rows.index.get_indexer(oof.image)] for file in files])
    score = METRICS[rules.metric]
    theirs = {c: score(target, prob) for c, prob in baselines(features, target, table.fold)}
    best = max(theirs, key=theirs.get)
    decided = records.load(out / "runs" / settings.name / "test.npz").get("decided", {})
    text = f"{name} {rules.metric} ours {score(target, oof.prob):.4f}, {decided}"
    say("tasks", f"{text}; scikit-learn {theirs[best]:.4f} (C {best:g}); {features.shape}")


def baselines(
    views: np.ndarray, target: np.ndarray, fold: pd.Series
) -> Iterator[tuple[float, np.ndarray]]:
    """Out-of-fold predictions as of ours by strength; mirrored pictures are learnt as well."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts, numbers = [], target.astype(int) if target.dtype == bool else target
    for k in sorted(set(fold)):
        out = (fold == k).to_numpy()
        x, y = views[:, ~out].reshape(-1, views.shape[2]), np.concatenate([numbers[~out]] * 2)
        pca = PCA(512, svd_solver="randomized", random_state=0)
        reduce = make_pipeline(StandardScaler(), pca).fit(x)
        parts.append((out, reduce.transform(x), y, reduce.transform(views[0][out])))
    for c in STRENGTHS:
        found: Any = None
        for out, x, y, held in parts:
            logistic = LogisticRegression(C=c, max_iter=1000)
            model = Ridge(1 / c) if target.dtype == float else logistic
            model = (OneVsRestClassifier(logistic) if target.dtype == bool else model).fit(x, y)
            prob = (model.predict if target.dtype == float else model.predict_proba)(held)
            prob = prob.reshape(len(prob), -1)
            found = np.empty((len(out), prob.shape[1])) if found is None else found
            found[out] = prob
        yield c, found


if __name__ == "__main__":
    typer.run(main)
