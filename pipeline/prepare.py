"""Stage 1: read every image once, check it, pack its pixels.

reads   data/COMPETITION: train and test CSV, the pictures they name; labels/COMPETITION.csv
writes  runs/_data/COMPETITION/SIZE-FIT/{images.csv, pixels.npy}: facts and uint8 pixels
run     python -m pipeline.prepare demo
        python -m pipeline.prepare --inspect data/NEW    proposes the YAML of a new competition
                  … --from-folders    writes train.csv of class folders (train/cat/1.jpg) before

All broken, missing or empty files are named in one list and nothing is written. Twins (pixel-
identical pictures) and twins whose labels contradict each other are counted. What `review` decided
about labels is counted too; it holds from `train` on, and the split stays as it is.
"""

import time
from collections import Counter
from contextlib import nullcontext
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, short, took, warn
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import Experiment, load_experiment
from pipeline.base.csv_files import write_csv
from pipeline.base.derived import NameOption, SetOption, derived
from pipeline.base.forms import OneClass
from pipeline.base.locks import locked
from pipeline.base.settings import sides
from pipeline.data.decisions import Changes, load_changes
from pipeline.data.extra import extra_folder, left_out, read_extra, strangers
from pipeline.data.guessing import separator_of
from pipeline.data.images import DARK
from pipeline.data.inspection import propose
from pipeline.data.prepared import Prepared, list_digest, load_prepared, prepared_folder
from pipeline.data.reading import read_all
from pipeline.data.tables import data_folder, read_rows, refuse_futile

VERSION = 1


def main(
    experiment: Annotated[str | None, typer.Argument(show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="folder that holds train.csv")] = None,
    inspect: Annotated[Path | None, typer.Option(help="propose a YAML from this folder")] = None,
    from_folders: Annotated[
        bool, typer.Option("--from-folders", help="--inspect writes train.csv of class folders")
    ] = False,
    changes: SetOption = None,
    name: NameOption = None,
) -> None:
    if inspect:
        print(propose(inspect, from_folders), end="")
        return
    if from_folders:
        raise UserError("--from-folders goes with --inspect FOLDER, whose train.csv it writes")
    if experiment is None:
        raise UserError("which experiment? or a new competition's folder after --inspect")
    settings = load_experiment(derived(experiment, changes, name))
    competition = load_competition(settings.competition)
    folder = data_folder(competition, data)
    rows = read_rows(competition, folder)
    refuse_futile(competition, folder, rows)
    form, labels = competition.form, rows.label[rows.split == "train"]
    if competition.metric == "quadratic_kappa" and form.by_class:
        tell_order(form.classes(labels))
    if competition.task == "classes":
        tell_joined(labels)
    size, fit = settings.cache_size, settings.model.resize
    out = prepared_folder(settings.competition_name, size, fit) / "images.csv"
    key = {"version": VERSION, "size": size, "fit": fit, "files": list_digest(rows, folder)}
    started = time.monotonic()
    forget_unfit(out, folder, settings)
    if records.make(out, key, partial(make, rows, folder, out, settings, form)):
        told = describe(records.load(out)["audit"], form)
        say("prepare", f"{out.parent}: {told}, {took(started)}")
    else:
        say("prepare", f"{out.parent}: {len(rows):,} images, up to date")
    if settings.extra:
        make_extra(settings, competition)
    tell_changes(load_changes(settings))


def forget_unfit(out: Path, folder: Path, settings: Experiment) -> None:
    """What is not of use any more is made anew, as if there were none: pixels that are lost or
    damaged, those of a folder that was moved, and none where there is room for them by now."""
    if not unfit(out, folder, settings):
        return
    with locked(out.parent):  # another process may have made it anew by now
        if problem := unfit(out, folder, settings):
            say("prepare", f"{problem}: all pictures are read again")
            records.record_path(out).unlink(missing_ok=True)


def unfit(out: Path, folder: Path, settings: Experiment) -> str:
    """Why what is there is of no use, or nothing; a damaged table is made anew anyway."""
    if not (record := records.load(out)) or not records.is_intact(out, record):
        return ""
    prepared = Prepared(out.parent, record)
    if not record["packed"] and fits(len(prepared.rows), settings):
        return "pixels fit into runtime.pack_gb now"
    if record["data"] != str(folder.resolve()):
        return f"{record['data']} is {folder} now"
    return prepared.problem()


def fits(pictures: int, settings: Experiment) -> bool:
    """Whether their pixels may be packed."""
    return 3 * pictures * prod(sides(settings.cache_size)) <= settings.runtime.pack_gb * 1e9


def make(
    rows: pd.DataFrame, folder: Path, out: Path, settings: Experiment, form: OneClass
) -> dict[str, Any]:
    """Decode, check and pack all pictures; write `out` (the facts) and its `pixels.npy`.

    Returns what is for the record. Raises UserError naming every bad file; then nothing is written.
    """
    from pipeline.model.backbone import layout  # late: torch, for which no no-op waits

    layout(settings.model)  # raises UserError for what the backbone cannot do
    if records.load(out):
        say("prepare", "the CSVs or the pictures are not those of last time: all are read again")
    size, pixels = settings.cache_size, out.with_name("pixels.npy")
    packed = fits(len(rows), settings)
    if not packed:
        text = "files are decoded at each epoch, until that is raised"
        warn("prepare", f"pixels are over runtime.pack_gb: {text}")
    with records.writing(pixels) if packed else nullcontext() as tmp:
        found = read_all(rows, folder, size, settings.model.resize, tmp)
        facts = pd.concat([rows, pd.DataFrame(found)], axis=1)
        write_csv(facts, out)
    tell_mended(facts.note)
    splits = facts.groupby("split")
    return {
        "data": str(folder.resolve()),
        "packed": packed,
        "digests": {k: records.digest(sorted(zip(x.id, x.hash, strict=True))) for k, x in splits},
        "audit": audit_of(facts, form),
        "pixels": records.fingerprint(pixels) if packed else {},
    }


def make_extra(settings: Experiment, competition: Competition) -> None:
    """Read the external pictures likewise, and compare them with the competition's."""
    rows, folder = read_extra(settings.extra, competition)
    prepared, form = load_prepared(settings), competition.form
    out, started = extra_folder(settings) / "images.csv", time.monotonic()
    known = {name: prepared.record["key"][name] for name in ("size", "fit")}
    key = {"version": VERSION, **known, "files": list_digest(rows, folder)}
    key |= {"compared": prepared.record["digests"]}
    key |= {"strangers": records.digest(strangers(rows, prepared, form).tolist())}

    def work() -> dict[str, Any]:
        facts = make(rows, folder, out, settings, form)
        extra = Prepared(out.parent, {"key": key, **facts})
        return {**facts, "left_out": left_out(extra, prepared, form)}

    forget_unfit(out, folder, settings)
    made = records.make(out, key, work)
    why = Counter(records.load(out)["left_out"].values())
    told = f"{len(rows) - why.total():,} of {len(rows):,} external pictures are trained on"
    told += "; left out: " * bool(why) + ", ".join(f"{n:,} {reason}" for reason, n in why.items())
    say("prepare", f"{settings.extra.csv}: {told}, {took(started) if made else 'up to date'}")


def audit_of(facts: pd.DataFrame, form: OneClass) -> dict[str, int]:
    """Counts a competitor should know before the first epoch."""
    train = facts[facts.split == "train"]
    twins = train[train.duplicated("hash", keep=False)]
    conflicts = twins[twins.groupby("hash").label.transform("nunique") > 1]
    return {
        "train": len(train),
        "test": len(facts) - len(train),
        "classes": len(form.classes(train.label)),
        "twins": len(twins),
        "conflicts": len(conflicts),
        "test_with_train_twin": int(facts[facts.split == "test"].hash.isin(train.hash).sum()),
        "sizes": len(facts[["width", "height"]].drop_duplicates()),
        "mended": int((facts.note != "").sum()),
    }


def describe(audit: dict[str, int], form: OneClass) -> str:
    sizes = "one size" if audit["sizes"] == 1 else f"{audit['sizes']} sizes"
    images = f"{audit['train']:,} train + {audit['test']:,} test images"
    twins = f"{audit['twins']} twins ({audit['conflicts']} with contradictory labels)"
    leaks = f"{audit['test_with_train_twin']} test images with a training twin"
    return f"{images}, {form.counted(audit['classes'])}, {sizes}, {twins}, {leaks}"


def tell_order(classes: list[str]) -> None:
    if not all(label.lstrip("-").isdecimal() for label in classes):
        order = short(", ".join(classes))
        warn("prepare", f"quadratic_kappa takes the classes in the order of the alphabet: {order}")


def tell_joined(labels: pd.Series) -> None:
    if mark := separator_of(labels):
        text = f"labels look joined by {mark!r}, and each stands for a class of its own"
        warn("prepare", f"{text}: is it task: multi-label?")


def tell_mended(notes: pd.Series) -> None:
    """What was not simply read as it lies there, by kind, and what may be wrong for all that."""
    counts = notes[notes != ""].replace("L", "grey").value_counts()
    if len(counts):
        kinds = ", ".join(f"{n:,} {note}" for note, n in counts.items())
        say("prepare", f"not plain RGB of 8 bits, and made so: {kinds}")
    if dark := int(notes.str.contains(DARK).sum()):
        text = "no pixel over 15 of 255; 12 bits in files of 16? then multiply them by 16 first"
        warn("prepare", f"{dark:,} pictures are {DARK}, {text}")


def tell_changes(changes: Changes) -> None:
    """What people decided about labels, and what of it does not concern these pictures."""
    if changes or changes.confirmed:
        say("prepare", f"{changes.path}: {changes}; training and scores go by it")
    if changes.foreign:
        text = "for ids or pixels that are not there, and not followed"
        warn("prepare", f"{changes.path}: {changes.foreign:,} decisions are {text}")


if __name__ == "__main__":
    run_stage(main)
