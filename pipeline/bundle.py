"""After submit: a notebook that makes the same submission on Kaggle, offline and in time.

reads   runs/NAME/test.npz's record, the models behind it, this package
writes  runs/NAME/bundle/: code/ and weights/ (datasets), notebook/ (.ipynb and metadata), a record
run     python -m pipeline.bundle demo --rehearse
        python -m pipeline.bundle demo --train --fold 0 --push

The notebook checks the digests of the weights, predicts as `predict` does and blends as `ensemble`
does. It leaves out models where the competition's limit_hours (9) demand it, and always leaves a
valid submission.csv. --rehearse runs it here, in a copy of Kaggle's folders with another hidden
test, and compares each row with submissions/NAME.csv. --push sends what changed to Kaggle, runs the
notebook there, submits that version and notes its score in the ledger.

--train makes, in runs/EXPERIMENT/train-bundle/, a notebook that trains an experiment's folds. It
ends in time, after an epoch, and goes on from its own last output. --push runs it on Kaggle as
often as that takes, and brings the folds home after each session.
"""

import re
from typing import Annotated

import typer

from pipeline.base.cli import UserError, run_stage, say, warn
from pipeline.base.derived import each_seed
from pipeline.kaggle.api.client import on_kaggle, sign_in
from pipeline.kaggle.bundle.push import push_submission, push_training
from pipeline.kaggle.bundle.rehearsal import rehearse
from pipeline.kaggle.bundle.submit_bundle import current_submission
from pipeline.kaggle.bundle.train_bundle import current_training

LONGEST_SESSION = 12.0  # hours; limit_hours is for notebooks that are submitted


def main(
    name: str,
    owner: Annotated[
        str, typer.Option(envvar="KAGGLE_USERNAME", help="your name on Kaggle")
    ] = "owner",
    rehearsal: Annotated[
        bool, typer.Option("--rehearse", help="run it as on Kaggle, compare each answer")
    ] = False,
    push: Annotated[
        bool, typer.Option("--push", help="upload, run on Kaggle, submit, wait for the score")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(min=0, help="images in the rehearsal; default: 2/3 of ours")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="a notebook that trains NAME")] = False,
    fold: Annotated[list[int] | None, typer.Option(help="of --train; default: all")] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0, max=LONGEST_SESSION, help="of a --train session; default: 12"),
    ] = None,
) -> None:
    foreign = {"--fold": fold, "--hours": hours}
    if train:
        foreign = {"--rows": rows, "--rehearse": rehearsal or None}
    for option, value in foreign.items():
        if value is not None:
            raise UserError(f"{option} means nothing {'with' if train else 'without'} --train")
    api = sign_in() if push else None
    owner = api.get_config_value(api.CONFIG_NAME_USER) if api else owner
    if not re.fullmatch(r"[\w-]+", owner):
        raise UserError(f"--owner {owner!r}: a name on Kaggle has letters, digits, - and _ alone")
    if train:
        _, *others = each_seed(name, None)
        if others:  # each is an experiment of its own, as for all stages
            text = f"this is {name} with its first seed; bundle {', '.join(others)} --train, too"
            warn("bundle", text)
        hours = LONGEST_SESSION if hours is None else hours
        out, competition = current_training(name, owner, fold, hours)
    else:
        out, competition = current_submission(name, owner)
    if rehearsal:
        story, verdict = rehearse(out, competition, rows)
        say("bundle", f"rehearsed: {verdict}; it said:\n{story.rstrip()}")
    if api:
        slug = on_kaggle(competition)
        push_training(api, out) if train else push_submission(api, out, slug)


if __name__ == "__main__":
    run_stage(main)
