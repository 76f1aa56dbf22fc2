"""Before stage 1: download a competition's files from Kaggle and unpack them.

reads   a Kaggle token (variable KAGGLE_API_TOKEN or ~/.kaggle/access_token)
writes  data/COMPETITION (DATA_DIR) and its record, written last
run     python -m pipeline.fetch classify-leaves

COMPETITION is one of configs/competitions/, or any slug of Kaggle. Stopped, it goes on where it
was; done, it does nothing. Checksums tell a damaged download; archives in the archive are unpacked
too, nothing outside the folder.
"""

import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.base import records
from pipeline.base.cli import UserError, did_you_mean, run_stage, say, took
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import read_experiment, root
from pipeline.base.settings import checked_name
from pipeline.base.yaml_files import find_yaml, is_path, known_yaml, read_yaml
from pipeline.data.tables import data_folder
from pipeline.kaggle.api.archives import BrokenArchiveError, unpack
from pipeline.kaggle.api.client import ask, on_kaggle, sign_in

VERSION = 1


def main(
    name: Annotated[str, typer.Argument(metavar="COMPETITION")],
    experiment: Annotated[
        bool, typer.Option("--experiment", help="the name is an experiment's; only if not here")
    ] = False,
) -> None:
    if experiment:
        return fetch_missing(read_experiment(name).competition)
    known = known_yaml("competitions")
    if name not in known:  # a slug of one of them: its files are sought by the name
        slug_of = {one: read_yaml(find_yaml(one, "competitions")).get("slug") for one in known}
        name = next((one for one, slug in slug_of.items() if slug == name), name)
    if name in known or is_path(name):
        competition = load_competition(name)
    else:
        checked_name(name, "COMPETITION")
        say("fetch", f"no {name}.yaml: taken as a slug of Kaggle{did_you_mean(name, known)}")
        competition = Competition(name=name, slug=name)
    return fetch(on_kaggle(competition), root("data") / competition.name)


def fetch_missing(name: str) -> None:
    """Fetch a competition's files when they are not here and Kaggle has them.

    Raises UserError saying where they were sought and why they cannot be fetched.
    """
    competition = load_competition(name)
    try:
        data_folder(competition)
    except UserError as missing:
        if competition.slug:
            try:
                fetch(competition.slug, root("data") / competition.name)
            except UserError as error:
                raise UserError(f"{missing}\n{error}") from None


def fetch(slug: str, folder: Path) -> None:
    """Download and unpack the files of `slug` into `folder`; nothing if that is done.

    Another process that fetches it is waited for. Raises UserError for anything Kaggle, the
    network, the disk or the archive refuses; what is downloaded stays for the next try.
    """
    started, staging = time.monotonic(), folder.with_name(f".{slug}.fetching")
    key = {"version": VERSION, "slug": slug}
    if records.load(folder) and not any(folder.iterdir()):  # emptied by hand, its record left
        records.record_path(folder).unlink(missing_ok=True)
    made = records.make(folder, key, partial(download, slug, folder, staging), lock=staging)
    if made:
        shutil.rmtree(staging, ignore_errors=True)  # one that waited may look in once more
    held = records.load(folder)
    told = f"{held['files']:,} files, {held['bytes'] / 1e6:,.1f} MB"
    say("fetch", f"{folder}: {told}, {took(started) if made else 'up to date'}")


def download(slug: str, folder: Path, staging: Path) -> dict[str, int]:
    """Into `staging`, and unpacked from there into `folder`; facts for the record."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is there and not from here; use it as it is, or move it away")
    archive, unpacked = staging / f"{slug}.zip", staging / "unpacked"
    api, quiet = sign_in(), not sys.stderr.isatty()
    say("fetch", f"downloading {slug}")
    call = partial(api.competition_download_files, slug, str(staging), quiet=quiet)
    ask("competition", slug, call)
    try:
        shutil.rmtree(unpacked, ignore_errors=True)
        files = unpack(archive, unpacked)
    except BrokenArchiveError as error:
        archive.unlink()
        raise UserError(f"{error}; it is deleted, the same command fetches it again") from None
    size = sum(file.stat().st_size for file in files)
    unpacked.rename(folder)
    return {"files": len(files), "bytes": size}


if __name__ == "__main__":
    run_stage(main)
