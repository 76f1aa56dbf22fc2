"""Draws a small competition in seconds, so that everything can be tried without a download.

reads   nothing: every pixel follows from the seed
writes  data/demo/{train,test,sample_submission,solution}.csv, data/demo/images/N.jpg
run     python -m pipeline.demo [--data data/demo] [--sheet sheet.png]

It imitates Kaggle's classify-leaves: scans of single leaves on white or grey paper, species that
are easily confused, a long tail of rare ones, and pixel-identical twins, some under two labels.
"""

import shutil
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pandas as pd
import typer
from joblib import Parallel, delayed
from numpy.random import Generator

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took
from pipeline.base.config import root
from pipeline.data.images import decode
from pipeline.figures.pictures import Strip, draw_page
from pipeline.synthetic.scanner import photograph
from pipeline.synthetic.species import SPECIES, Species

VERSION = 1  # bump when the pictures or the tables of the same seed change
DRAWN = ".drawn"  # a file that tells a folder of ours
JPEG_QUALITY = 92
IMBALANCE = 6.0  # images of the commonest species for one of the rarest
# Pairs of identical files, as shares of the training images:
TWINS, CONFLICTS = 0.008, 0.004  # both in train, under one label, under two
LEAKS = 0.004  # one in train, one in test


def main(
    data: Annotated[Path | None, typer.Option(help="default: DATA_DIR/demo")] = None,
    sheet: Annotated[Path | None, typer.Option(help="also write a contact sheet there")] = None,
) -> None:
    folder = data or root("data") / "demo"
    started = time.monotonic()
    ours = records.load(folder) or (folder / DRAWN).exists()  # a kill may leave it no record
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UserError(f"{folder}: there is something else in it; name a folder of its own")
    made = records.make(folder, {"version": VERSION}, lambda: draw_competition(folder) or {})
    scans = f"scans of {len(SPECIES)} species, {took(started)}"
    say("demo", f"{folder}: {scans if made else 'up to date'}")
    if sheet:
        contact_sheet(folder, sheet)
        say("demo", f"{sheet}: contact sheet")


def draw_competition(
    folder: Path,
    train: int = 1000,
    test: int = 400,
    species: int = len(SPECIES),
    size: int = 160,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Write images and Kaggle's four CSVs into `folder`, replacing what was there.

    The result does not depend on `workers`.
    """
    rng = np.random.default_rng(seed)
    kinds = SPECIES[:species]
    shares = IMBALANCE ** -np.linspace(0, 1, species)
    rng.shuffle(shares)
    labels = np.concatenate([deal(shares, train, rng), deal(shares, test, rng)])
    pairs = [max(1, round(share * train)) for share in (TWINS, CONFLICTS, LEAKS)]
    source = share_pixels(labels, train, *pairs, rng)

    draft = folder.with_name(folder.name + ".draft")  # renamed last: a killed run leaves no folder
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "images").mkdir(parents=True)
    paths = [draft / f"images/{i}.jpg" for i in range(len(labels))]
    originals = np.flatnonzero(source == np.arange(len(source)))
    Parallel(workers)(
        delayed(draw_image)(paths[i], kinds[labels[i]], size, (seed, int(i))) for i in originals
    )
    for path, original in zip(paths, source, strict=True):
        if path != paths[original]:
            shutil.copyfile(paths[original], path)
    write_tables(draft, [kinds[label].name for label in labels], train, rng)
    (draft / DRAWN).touch()
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def deal(shares: np.ndarray, total: int, rng: Generator, least: int = 2) -> np.ndarray:
    """`total` class indices in random order, in these proportions and `least` of each class."""
    ideal = shares / shares.sum() * (total - least * len(shares))
    counts = np.floor(ideal).astype(int)
    counts[np.argsort(counts - ideal)[: round(ideal.sum()) - counts.sum()]] += 1
    return rng.permutation(np.repeat(np.arange(len(shares)), counts + least))


def share_pixels(
    labels: np.ndarray, train: int, twins: int, conflicts: int, leaks: int, rng: Generator
) -> np.ndarray:
    """For every image the one whose pixels it shows: itself or, in a pair, its twin."""
    source = np.arange(len(labels))
    trains, tests = (
        {label: list(rows[labels[rows] == label]) for label in np.unique(labels)}
        for rows in np.split(source, [train])
    )
    for _ in range(conflicts):
        source[trains[0].pop()] = trains[1].pop()
    for second, count in ((trains, twins), (tests, leaks)):
        for _ in range(count):
            label = rng.choice([k for k in trains if len(trains[k]) > 1 and second[k]])
            source[trains[label].pop()] = second[label].pop()
    return source


def draw_image(path: Path, kind: Species, size: int, seeds: tuple[int, int]) -> None:
    """One file, drawn from its own random stream: the order of drawing does not matter."""
    picture = photograph(kind, size, np.random.default_rng(seeds))
    if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise OSError(f"cannot write {path}")


def write_tables(folder: Path, names: list[str], train: int, rng: Generator) -> None:
    """Kaggle's three CSVs, and the solution that Kaggle keeps to itself."""
    table = pd.DataFrame({"image": [f"images/{i}.jpg" for i in range(len(names))], "label": names})
    test = table[train:]
    guess = test.assign(label=rng.permutation(test["label"]))
    table[:train].to_csv(folder / "train.csv", index=False)
    test[["image"]].to_csv(folder / "test.csv", index=False)
    guess.to_csv(folder / "sample_submission.csv", index=False)
    test.to_csv(folder / "solution.csv", index=False)


def contact_sheet(folder: Path, out: Path, columns: int = 8, rows: int = 4, seed: int = 0) -> None:
    """A PNG of random training images over their species, each species before any second time."""
    table = pd.read_csv(folder / "train.csv").sample(frac=1, random_state=seed)
    again = table.groupby("label").cumcount()
    chosen = table.iloc[again.argsort(kind="stable")[: columns * rows]]
    pictures = [decode(folder / image).rgb for image in chosen["image"]]
    labels = [[(word, "") for word in label.split("_", 1)] for label in chosen["label"]]
    caption = f"{table.label.nunique()} species, drawn and scanned"
    page = draw_page(folder.name, caption, [Strip("", "", pictures, labels)], columns)
    with records.writing(out) as tmp:
        page.savefig(tmp, format="png", dpi=64)


if __name__ == "__main__":
    run_stage(main)
