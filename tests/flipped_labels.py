"""Are planted label errors found, and does mending them help? It measures; it is no test itself.

reads   a competition's folder and an experiment
writes  everything into --work (a temporary folder, unless it is given)
run     python -m tests.flipped_labels instant --data data/leaves-small [--seeds 3] [--share .05]

A share of the training labels is drawn and replaced by other classes, each as likely as it is
common. The experiment is run on them; the planted errors in the first 2 x share of the queue are
relabelled by the truth, as a perfect reviewer would; and it is run again on the same folds.
found: share of the planted errors in that part of the queue; by_margin, by_confidence: of what
cleanlab ranks by; label_wrong: share of the found ones of that kind; of_which: share of that
kind that was planted (the data's own errors count against it). before, after: out-of-fold accuracy
on the rows whose label nobody touched, won and lost: those that changed sides.
"""

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
import yaml

from pipeline.analysis.evidence import Evidence, load_evidence
from pipeline.analysis.neighbours import load_features, neighbours
from pipeline.analysis.suspects import suspects
from pipeline.base.cli import run_stage, say
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, load_experiment
from pipeline.data.splits import folds_path

NEAREST = 10


def main(
    experiment: str,
    data: Annotated[Path, typer.Option(help="the competition's folder")],
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    share: Annotated[float, typer.Option(min=0, max=0.5)] = 0.05,
    work: Annotated[Path | None, typer.Option(help="kept, and gone on with")] = None,
) -> None:
    settings, data = load_experiment(experiment), data.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        home = (work or Path(temporary)).resolve()
        for name in ("data", "runs", "folds"):
            os.environ[f"{name.upper()}_DIR"] = str(home / name)
        copy = copy_pictures(settings, data, home)
        rows = [measure(settings, data, copy, home, share, seed) for seed in range(seeds)]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.4f}".format))
    say("flipped", ", ".join(f"{name} {value:.4f}" for name, value in table.mean().items()))


def copy_pictures(settings: Experiment, data: Path, home: Path) -> Path:
    """The competition's folder with its own train.csv, all else linked."""
    copy = home / "data" / settings.competition_name
    copy.mkdir(parents=True, exist_ok=True)
    for path in data.iterdir():
        if not (copy / path.name).exists():
            (copy / path.name).symlink_to(path)
    return copy


def measure(
    settings: Experiment, data: Path, copy: Path, home: Path, share: float, seed: int
) -> dict[str, float]:
    rules = load_competition(settings.competition)
    truth = pd.read_csv(data / rules.train, dtype=str, keep_default_na=False)
    label, image = rules.label_columns[0], truth[rules.id]
    planted = flipped(truth[label].to_numpy(), share, np.random.default_rng(seed))
    before = run(settings, copy, home, truth.assign(**{label: planted}), f"flipped{seed}")
    features, _ = load_features(before)
    queue = suspects(before, neighbours(features, features, NEAREST, before.table.group))
    queue = queue[: round(2 * share * len(truth))]
    wrong = set(image[planted != truth[label]])
    caught = image.isin(wrong & set(before.table.image[queue.index]))
    mended = np.where(caught, truth[label], planted)
    after = run(settings, copy, home, truth.assign(**{label: mended}), f"mended{seed}", before)
    bad = before.table.image.isin(wrong).to_numpy()
    return {
        "seed": seed,
        "planted": len(wrong),
        "found": caught.sum() / len(wrong),
        **{name: found(scores, bad, len(queue)) for name, scores in plain_scores(before).items()},
        "label_wrong": (queue.kind[bad[queue.index]] == "label wrong").mean(),
        "of_which": bad[queue.index[queue.kind == "label wrong"]].mean(),
        "before": before.right[~bad].mean(),
        "after": after.right[~bad].mean(),
        "won": (after.right & ~before.right)[~bad].sum(),
        "lost": (before.right & ~after.right)[~bad].sum(),
    }


def plain_scores(evidence: Evidence) -> dict[str, np.ndarray]:
    """What cleanlab ranks by, the worst label first, to compare with: float [n]."""
    prob, at = evidence.prob.copy(), np.arange(len(evidence.prob))
    own = prob[at, evidence.target]
    prob[at, evidence.target] = -1
    return {"by_margin": own - prob.max(1), "by_confidence": own}


def found(scores: np.ndarray, bad: np.ndarray, length: int) -> float:
    """Share of the `bad` rows among the `length` lowest scores."""
    return bad[np.argsort(scores, kind="stable")[:length]].sum() / bad.sum()


def flipped(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """`labels` with a share of them replaced by those of other pictures that differ."""
    out = labels.copy()
    for i in rng.choice(len(labels), round(share * len(labels)), replace=False):
        out[i] = rng.choice(labels[labels != labels[i]])
    return out


def run(
    settings: Experiment,
    copy: Path,
    home: Path,
    train: pd.DataFrame,
    name: str,
    before: Evidence | None = None,
) -> Evidence:
    """All stages on these labels, and what they gave; on the folds of `before` if that is given."""
    file = copy / load_competition(settings.competition).train
    file.unlink(missing_ok=True)  # a link to the true one, at first
    train.to_csv(file, index=False)
    changed = settings.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**changed, "folds": {"n": settings.folds.n, "name": name}}))
    source = folds_path(before.settings) if before else None
    for stage, *rest in (("prepare",), ("folds", source), ("train",), ("predict",)):
        import_module(f"pipeline.{stage}").main(str(path), *rest)
    import_module("pipeline.ensemble").main([str(path)])
    return load_evidence(name)


if __name__ == "__main__":
    run_stage(main)
