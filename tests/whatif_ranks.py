"""Does what-if rank changes as fine-tuning does? It measures; it is no test itself.

reads   a competition's folder and an experiment
writes  everything into a temporary folder
run     python -m tests.whatif_ranks plantvillage39-lite0 --data data/plantvillage39

A tenth of the training labels is replaced by others first, so that there is something to gain. Each
change is then answered by WhatIf, and by fine-tuning both of 2 folds on the changed pictures; both
are scored out of fold on the rows that the change does not touch. The last line trains the same
pictures with another seed: what fine-tuning differs by when nothing has changed.
"""

import math
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pandas as pd
import typer
import yaml

from pipeline import folds, prepare
from pipeline.analysis.neighbours import load_features
from pipeline.analysis.whatif import WIDTH, WhatIf, paired
from pipeline.base.cli import run_stage, say
from pipeline.base.config import Experiment, load_experiment
from pipeline.base.deadline import Deadline
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.splits import classes_of, load_folds, split_rows
from pipeline.training.trainer import Trainer
from tests.flipped_labels import flipped

Change = tuple[list[int], dict[int, int]]  # rows to drop, rows to relabel


def main(
    experiment: str,
    data: Annotated[Path, typer.Option(help="the competition's folder")],
    size: Annotated[int, typer.Option(help="px")] = 96,
    epochs: Annotated[int, typer.Option()] = 2,
) -> None:
    with tempfile.TemporaryDirectory() as home:
        for name in ("runs", "folds"):
            os.environ[f"{name.upper()}_DIR"] = str(Path(home, name))
        settings = smaller(load_experiment(experiment), Path(home), size, epochs)
        prepare.main(f"{home}/ranks.yaml", data)
        folds.main(f"{home}/ranks.yaml")
        measure(settings, load_prepared(settings), load_folds(settings), Path(home))


def smaller(settings: Experiment, home: Path, size: int, epochs: int) -> Experiment:
    values = settings.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    values["model"] |= {"size": size}
    values |= {"folds": {"n": 2}, "train": {**values.get("train", {}), "epochs": epochs}}
    (home / "ranks.yaml").write_text(yaml.safe_dump(values))
    return load_experiment(f"{home}/ranks.yaml")


def measure(settings: Experiment, prepared: Prepared, table: pd.DataFrame, home: Path) -> None:
    from scipy.stats import spearmanr

    classes, rng = classes_of(table), np.random.default_rng(0)
    valid = [split_rows(prepared.rows, table, classes, k)[1] for k in range(settings.folds.n)]
    table = pd.concat(valid, ignore_index=True)
    truth = table.target.to_numpy().copy()
    table["target"] = planted = flipped(truth, 0.1, rng)
    test = pd.DataFrame({"row": np.flatnonzero(prepared.rows.split == "test")})
    blend = SimpleNamespace(settings=settings, table=table, test=test, pictures={})
    features, _ = load_features(blend, WIDTH)
    what = WhatIf(features, planted, table.fold.to_numpy(), len(classes))
    start = tuned_answers(settings, prepared, table, classes, home) == planted
    found = []
    for name, (drop, relabel) in changes(truth, planted, rng).items():
        effect = what.effect(drop, relabel)
        changed = table.drop(drop).assign(target=table.target.mask(table.index.isin(relabel)))
        changed["target"] = changed.target.fillna(pd.Series(relabel)).astype(int)
        tuned = tuned_answers(settings, prepared, changed, classes, home, table) == planted
        kept = ~np.isin(np.arange(len(table)), [*drop, *relabel])
        gain = paired(start[kept], tuned[kept], table.group[kept])
        found.append((name, effect["delta"], gain["delta"], gain["low"], gain["high"]))
        say(
            "ranks",
            "{:<32} what-if {:+.4f}  fine-tuned {:+.4f} ({:+.4f} to {:+.4f})".format(*found[-1]),
        )
    seeded = settings.train.model_copy(update={"seed": 1})
    other = settings.model_copy(update={"train": seeded})
    again = tuned_answers(other, prepared, table, classes, home) == planted
    say("ranks", f"another seed: {again.mean() - start.mean():+.4f} of {start.mean():.4f}")
    told, tuned = (np.array([row[i] for row in found]) for i in (1, 2))
    low, high = interval(told, tuned)
    rank = spearmanr(told, tuned)
    text = f"{len(found)} changes, p {rank.pvalue:.2g}, bootstrap {low:.2f} to {high:.2f}"
    say("ranks", f"rank correlation {rank.statistic:.2f} ({text})")


def changes(truth: np.ndarray, planted: np.ndarray, rng: np.random.Generator) -> dict[str, Change]:
    """Half of them mend, half of them harm."""
    wrong = rng.permutation(np.flatnonzero(truth != planted)).tolist()
    right = rng.permutation(np.flatnonzero(truth == planted))
    classes = rng.permutation(len(np.unique(truth)))
    some = [right[np.isin(truth[right], classes[i::4])] for i in range(4)]

    def mend(rows: list[int]) -> dict[int, int]:
        return {row: int(truth[row]) for row in rows}

    def spoil(rows: np.ndarray) -> dict[int, int]:
        return dict(zip(rows.tolist(), rng.permutation(truth[rows]).tolist(), strict=True))

    n = len(wrong)
    return {
        "mend all errors": ([], mend(wrong)),
        "mend half of them": ([], mend(wrong[: n // 2])),
        "mend a quarter": ([], mend(wrong[: n // 4])),
        "mend a tenth": ([], mend(wrong[: n // 10])),
        "drop all errors": (wrong, {}),
        "drop half of them": (wrong[: n // 2], {}),
        "drop 5 % that are right": (right[: len(truth) // 20].tolist(), {}),
        "drop 25 % that are right": (right[: len(truth) // 4].tolist(), {}),
        "drop 2/3 of a quarter of classes": (some[0][: len(some[0]) * 2 // 3].tolist(), {}),
        "drop half of another quarter": (some[1][: len(some[1]) // 2].tolist(), {}),
        "spoil 5 % more": ([], spoil(right[: len(truth) // 20])),
        "spoil 15 % more": ([], spoil(right[: len(truth) * 3 // 20])),
        "spoil half of a quarter": ([], spoil(some[2][: len(some[2]) // 2])),
        "mend half, drop the other": (wrong[n // 2 :], mend(wrong[: n // 2])),
    }


def tuned_answers(
    settings: Experiment,
    prepared: Prepared,
    learnt: pd.DataFrame,
    classes: list[str],
    home: Path,
    table: pd.DataFrame | None = None,
) -> np.ndarray:
    """Out-of-fold answers int [n] to `table`, by models that learn from `learnt`."""
    table, answers = learnt if table is None else table, []
    for fold in range(settings.folds.n):
        train, valid = learnt[learnt.fold != fold], table[table.fold == fold]
        targets = train.target.to_numpy()
        trainer = Trainer(
            settings, fold, classes, prepared.pixels, train, valid, "accuracy", targets
        )
        trainer.run(home / "last.pt", Deadline(math.inf))
        answers.append(trainer.validate("ranks").argmax(1))
    return np.concatenate(answers)


def interval(told: np.ndarray, tuned: np.ndarray) -> tuple[float, float]:
    """95 % of the rank correlations of resampled changes."""
    from scipy.stats import spearmanr

    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        at = rng.integers(len(told), size=len(told))
        found.append(spearmanr(told[at], tuned[at]).statistic)
    return tuple(np.nanpercentile(found, [2.5, 97.5]))


if __name__ == "__main__":
    run_stage(main)
