"""After submit: a notebook that makes the same submission on Kaggle, offline and in time.

reads   runs/NAME/test.npz's record, its members' models, this package
writes  runs/NAME/bundle/: code/ and weights/ (datasets), notebook/ (.ipynb and metadata), a record
run     python -m pipeline.bundle demo --rehearse
        python -m pipeline.bundle demo --train --fold 0 --fold 1

The notebook checks the sha256 of the weights, predicts as `predict` does and blends as `ensemble`
does. It leaves out TTA views, then models, where the competition's limit_hours (9) demand it, and
always leaves a valid submission.csv. --rehearse runs it here, in a copy of Kaggle's folders with
another hidden test, and compares each row with submissions/NAME.csv. --push sends what changed to
Kaggle, runs the notebook there, submits that version and notes its score in the ledger.

--train makes, in runs/EXPERIMENT/train-bundle/, a notebook that trains an experiment's folds. It
ends in time, after an epoch, and goes on from its own last output. --rehearse runs it here, --push
on Kaggle, both as often as that takes; --push brings the folds home after each session.
"""

import re
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.base import records
from pipeline.base.cli import UserError, mean_std, run_stage, say, took, warn
from pipeline.base.competition import Competition, load_competition
from pipeline.base.runs import cv_of, load_blend
from pipeline.kaggle.api.client import on_kaggle, sign_in
from pipeline.kaggle.bundle.image import unknown_there
from pipeline.kaggle.bundle.models import find_members, pack_member, pictures_of, record_of
from pipeline.kaggle.bundle.notebook_file import (
    code_digests,
    describe_dataset,
    kernel_metadata,
    slug_of,
    submit_notebook,
    write_code,
    write_notebook,
)
from pipeline.kaggle.bundle.push import push_bundle, push_training, signed
from pipeline.kaggle.bundle.rehearsal import rehearse, rehearse_training
from pipeline.kaggle.bundle.training import current_training
from pipeline.kaggle.notebook.manifest import Job, Manifest, Member

VERSION = 1
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
        float, typer.Option(min=0, max=LONGEST_SESSION, help="of a --train session")
    ] = LONGEST_SESSION,
) -> None:
    mixed = [("--rows", rows is not None)]
    refuse(mixed if train else [("--fold", fold), ("--hours", hours != LONGEST_SESSION)], train)
    api = sign_in() if push else None
    owner = signed(api) if api else owner
    if not re.fullmatch(r"[\w-]+", owner):
        raise UserError(f"--owner {owner!r}: a name on Kaggle has letters, digits, - and _ alone")
    if train:
        out, competition = current_training(name, owner, fold, hours)
    else:
        out, competition = current_bundle(name, owner)
    for line in unknown_there(records.load(out)["backbones"]):
        warn("bundle", line)
    if rehearsal:
        started = time.monotonic()
        story, verdict = rehearse_training(out) if train else rehearse(out, competition, rows)
        say("bundle", f"rehearsed: {verdict}, {took(started)}; it said:\n{story.rstrip()}")
    if api:
        slug = on_kaggle(competition)
        push_training(api, out) if train else push_bundle(api, out, slug)


def refuse(options: list[tuple[str, object]], train: bool) -> None:
    """Raises UserError for an option that was given and means nothing with, or without, --train."""
    for name, given in options:
        if given:
            raise UserError(f"{name} means nothing {'with' if train else 'without'} --train")


def current_bundle(name: str, owner: str) -> tuple[Path, Competition]:
    """Make the bundle of an ensemble unless it is current; returns its folder."""
    started = time.monotonic()
    blend, record = load_blend(name)
    competition = load_competition(record["key"]["competition"])
    members = find_members(record)
    out = blend.with_name("bundle")
    key = {
        "version": VERSION,
        "owner": owner,
        "competition": competition.model_dump(mode="json"),
        "members": {member.file: record_of(member)["digest"] for member in members},
        "blend": records.file_digest(blend),
        "code": code_digests(),
    }
    made = records.make(out, key, lambda: bundle(out, key, record, competition, members))
    say("bundle", f"{describe(out)}, {took(started) if made else 'up to date'}")
    return out, competition


def bundle(
    out: Path,
    key: dict[str, Any],
    record: dict[str, Any],
    competition: Competition,
    members: list[Member],
) -> dict[str, Any]:
    """Write the folders beside `out` and put them in its place; returns facts for its record.

    `record` is the ensemble's.
    """
    tmp, name, owner = out.with_name(".bundle.tmp"), out.parent.name, key["owner"]
    shutil.rmtree(tmp, ignore_errors=True)
    where = competition.slug or competition.name
    code, weights, kernel = (slug_of(where, name, end) for end in ("code", "weights", "submit"))
    facts = write_weights(tmp / "weights", name, record, competition, members)
    describe_dataset(tmp / "weights", owner, weights)
    write_code(tmp / "code")
    describe_dataset(tmp / "code", owner, code)
    job = Job(name=name, competition=competition, weights=weights)
    book = submit_notebook(about(name, where, record), job, competition, code)
    hours = competition.limit_hours
    metadata = kernel_metadata(owner, kernel, competition, [code, weights], hours)
    write_notebook(tmp / "notebook", book, metadata)
    records.put_folder(tmp, out)
    return {**facts, "kernel": metadata["id"], "datasets": metadata["dataset_sources"]}


def write_weights(
    folder: Path,
    name: str,
    record: dict[str, Any],
    competition: Competition,
    members: list[Member],
) -> dict[str, Any]:
    """Models, their records and the manifest; returns what the bundle's record says."""
    folder.mkdir(parents=True)
    classes = record_of(members[0])["classes"]
    rows = pictures_of(members[0], competition.name).rows
    shares = rows.label[rows.split == "train"].value_counts(normalize=True)
    manifest = Manifest(
        name=name,
        classes=classes,
        prior=[float(shares[label]) for label in classes],
        members=[pack_member(member, folder) for member in members],
        cv=cv_of(record),
        metric=record["metric"],
        git=record["git"],
    )
    manifest.save(folder)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    backbones = sorted({record_of(member)["model"]["backbone"] for member in members})
    return {"models": len(members), "mb": round(megabytes, 1), "backbones": backbones}


def about(name: str, competition: str, record: dict[str, Any]) -> str:
    cv, git = cv_of(record), record["git"] or "unknown"
    members = ", ".join(f"{run} × {weight:.2g}" for run, weight in record["key"]["weights"].items())
    return (
        f"# {name} on {competition}\n\n{record['metric']} CV {mean_std(cv['folds'])}, "
        f"OOF {cv['all']:.4f}; members: {members}; git {git}.\n\n"
        f"Made by `python -m pipeline.bundle {name}`: change things there, not here."
    )


def describe(out: Path) -> str:
    record = records.load(out)
    return f"{out}: {record['models']} models, {record['mb']:,.1f} MB"


if __name__ == "__main__":
    run_stage(main)
