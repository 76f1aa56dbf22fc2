"""From train.csv and a folder of pictures to a Kaggle submission.

prepare   images + CSVs             -> packed pixels, audit of every image
folds     labels + pixel twins      -> folds/COMPETITION-5-seed42.csv
train     folds + pixels            -> one model per fold
predict   models + pixels           -> out-of-fold and test probabilities, with TTA
ensemble  probabilities             -> one blend, scored honestly
submit    blend + sample submission -> submissions/NAME.csv

Around the flow: review mends labels, fetch and bundle lead from Kaggle and back to it, report shows
what came of a run, runs lists them all, compare holds two side by side, bench measures the machine,
demo draws a competition, gallery and ablate show and measure what training is given. The stages are
verbs; the folders are rooms of nouns, each of which says in its __init__ what it answers.
"""

import os
import signal
import sys
from importlib.util import find_spec

if not find_spec("typer"):
    print(
        f"error: {sys.executable} lacks what requirements.txt lists: ./run.sh installs it into "
        ".venv, then: source .venv/bin/activate",
        file=sys.stderr,
    )
    sys.exit(2)


# else albumentations' import, in a plug-in too, asks PyPI, and stalls offline
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"


def exit_at_once(number: int, frame: object) -> None:
    """Handles SIGINT and SIGTERM where nothing has begun that had to be put in order."""
    os.write(2, b"\nstopped; the same command goes on where it was\n")
    os._exit(128 + number)


if sys.argv[0] == "-m":  # a stage that still imports
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, exit_at_once)
