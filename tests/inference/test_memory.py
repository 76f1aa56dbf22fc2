"""Memory stays flat over folds: one process may train and predict them all."""

import os
import subprocess
import sys
from collections.abc import Callable

FOLDS = """
import os, sys
from pathlib import Path
from pipeline import predict, train

def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

experiment = sys.argv[1]

def watched(work):
    def run(*args):
        print("resident", resident_mb())  # of the folds before this one
        return work(*args)
    return run

train.train_fold = watched(train.train_fold)
predict.Part.work = watched(predict.Part.work)
train.main(experiment)
predict.main(experiment)
print("resident", resident_mb())
"""


def test_folds_leave_nothing_behind(write: Callable[..., str], split: Callable[[str], str]) -> None:
    """Folds without epochs share a process, as predictions do; a resnet18 that stays is 47 MB."""
    model = {"backbone": "resnet18", "features": "last", "head_init": "lda"}
    experiment = split(write(folds={"n": 5}, model=model, train={"epochs": 0}))
    run = subprocess.run(
        [sys.executable, "-c", FOLDS, experiment],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    told = [line.split() for line in run.stdout.splitlines()]
    resident = [float(words[1]) for words in told if words[0] == "resident"]
    trained, predicted = resident[1:5], resident[6:]  # resident[5]: before the first prediction
    assert len(predicted) == 10  # out of fold and test
    assert max(trained) <= trained[0] + 47, resident  # three that stayed: 141 MB
    assert max(predicted) <= predicted[0] + 47, resident  # nine that stayed: 423 MB
