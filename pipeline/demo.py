"""Draws a small competition in seconds, so that everything can be tried without a download.

reads   nothing: every pixel follows from the seed
writes  data/demo/{train,test,sample_submission,solution}.csv, data/demo/images/N.jpg
run     python -m pipeline.demo [--data data/demo] [--sheet sheet.png]

It imitates Kaggle's classify-leaves: scans of single leaves on white or grey paper, species that
are easily confused, a long tail of rare ones, and pixel-identical twins, some under two labels.
"""

import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pandas as pd
import typer
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from pipeline.parts import records
from pipeline.parts.cli import run_stage, say, took
from pipeline.parts.config import root
from pipeline.parts.leaves import Margin, Species
from pipeline.parts.scanner import photograph

VERSION = 1  # bump when the pictures or the tables of the same seed change
JPEG_QUALITY = 92
Task = tuple[Path, Species, int, tuple[int, int]]  # file, species, size, seeds
DULL, FRESH, DARK, OLIVE = (90, 0.45, 0.42), (88, 0.62, 0.50), (105, 0.60, 0.30), (72, 0.62, 0.45)
YELLOW, ORANGE, RED, BROWN = 50, 28, 6, 34

# Name, then the blade's width and the exponents of its base and apex. The first two are the pair
# with contradictory labels: neighbours in the table are easily confused.
SPECIES = (
    Species("quercus_alba", 0.66, 0.75, 0.45, lobes=Margin(4, 0.62), autumn=RED, colour=DULL),
    Species("quercus_bicolor", 0.66, 0.9, 0.5, lobes=Margin(5, 0.3), autumn=BROWN, colour=DULL),
    Species(
        "acer_saccharum", 1.0, 0.45, palmate=True, lobes=Margin(6, 0.5, sharp=0.4),
        teeth=Margin(8, 0.07, 0.55, 0.6), petiole=0.7, colour=FRESH, autumn=ORANGE,
    ),
    Species(
        "acer_rubrum", 0.9, 0.6, palmate=True, lobes=Margin(6, 0.33, sharp=0.4),
        teeth=Margin(22, 0.04, 0.7, 1), petiole=0.7, colour=FRESH, autumn=RED,
    ),
    Species(
        "acer_palmatum", 1.0, 0.5, palmate=True, lobes=Margin(9, 0.8, sharp=0.35),
        teeth=Margin(60, 0.025, 0.7, 1), petiole=0.5, size=0.5, colour=(80, 0.6, 0.4), autumn=RED,
    ),
    Species(
        "liquidambar_styraciflua", 1.0, 0.35, palmate=True, lobes=Margin(6, 0.76, sharp=0.3),
        teeth=Margin(50, 0.015, 0.6, 1), petiole=0.7, colour=FRESH, autumn=RED,
    ),
    Species(
        "quercus_rubra", 0.66, 0.7, 0.65, lobes=Margin(5, 0.5, 0.62, 1),
        teeth=Margin(11, 0.03, 0.6, 1), colour=DARK, autumn=RED, size=0.72,
    ),
    Species(
        "quercus_palustris", 0.78, 0.75, 0.7, lobes=Margin(4, 0.82, 0.62, 0.9),
        teeth=Margin(11, 0.045, 0.6, 1), colour=DARK, autumn=RED, petiole=0.35,
    ),
    Species(
        "fagus_grandifolia", 0.52, 0.62, 0.85, teeth=Margin(11, 0.016, 0.8, 1), veins=11,
        colour=(84, 0.5, 0.42), pale_veins=0.08, autumn=BROWN, petiole=0.1,
    ),
    Species(
        "ulmus_americana", 0.54, 0.5, 0.85, heart=0.06, teeth=Margin(22, 0.035, 0.82, 1),
        veins=13, colour=DARK, autumn=YELLOW, petiole=0.1,
    ),
    Species(
        "tilia_americana", 0.86, 0.38, 0.7, heart=0.22, teeth=Margin(24, 0.035, 0.75, 1), veins=5,
        rise=1.4, petiole=0.5, colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "cercis_canadensis", 1.0, 0.38, 0.62, heart=0.28, veins=4, rise=2.5, petiole=0.5,
        colour=(95, 0.45, 0.42), autumn=YELLOW, size=0.55,
    ),
    Species(
        "salix_nigra", 0.15, 0.7, 1.2, teeth=Margin(40, 0.008, 0.8, 1), veins=14, petiole=0.08,
        colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "quercus_phellos", 0.2, 0.85, 0.8, veins=10, petiole=0.04, colour=OLIVE, autumn=BROWN,
        size=0.52,
    ),
    Species(
        "cornus_florida", 0.58, 0.7, 0.95, veins=5, rise=1.6, petiole=0.12, autumn=RED,
        colour=(100, 0.45, 0.45), pale_veins=0.16, size=0.55,
    ),
    Species(
        "ginkgo_biloba", 1.35, 1.0, 0.2, notch=0.13, veins=16, rise=9, petiole=0.75,
        colour=(78, 0.55, 0.50), pale_veins=0.05, autumn=YELLOW, size=0.58,
    ),
    Species(
        "liriodendron_tulipifera", 1.05, 0.3, 0.3, notch=0.2, lobes=Margin(2, 0.42, 0.62, 0.8),
        petiole=0.6, colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "ilex_opaca", 0.55, 0.6, 0.6, teeth=Margin(6, 0.075, 0.55, 1), veins=6, petiole=0.12,
        colour=(115, 0.55, 0.27), autumn=OLIVE[0], size=0.45,
    ),
    Species(
        "fraxinus_americana", 0.42, 0.6, 0.85, leaflets=7, rachis=True, reach=0.5, spread=62,
        petiole=0.3, colour=FRESH, autumn=YELLOW, size=0.8,
    ),
    Species(
        "juglans_nigra", 0.3, 0.5, 1.05, teeth=Margin(20, 0.03, 0.8, 1), leaflets=15, rachis=True,
        reach=0.36, spread=74, petiole=0.2, colour=OLIVE, autumn=YELLOW, size=0.85,
    ),
    Species(
        "robinia_pseudoacacia", 0.5, 0.5, 0.5, leaflets=15, rachis=True, reach=0.24, spread=80,
        petiole=0.15, colour=(95, 0.42, 0.48), autumn=YELLOW, size=0.78,
    ),
    Species(
        "aesculus_glabra", 0.36, 1.0, 0.7, teeth=Margin(26, 0.02, 0.8, 1), leaflets=5, spread=95,
        petiole=0.6, colour=DARK, autumn=ORANGE, size=0.8, veins=11,
    ),
    Species(
        "staphylea_trifolia", 0.56, 0.6, 0.9, teeth=Margin(26, 0.02, 0.8, 1), leaflets=3,
        spread=88, petiole=0.6, colour=FRESH, autumn=YELLOW,
    ),
    Species(
        "pinus_strobus", 0.009, 0.2, 0.25, leaflets=5, spread=13, petiole=0.02, veins=1,
        colour=(100, 0.4, 0.36), pale_veins=0, autumn=BROWN, size=0.62,
    ),
    Species(
        "pinus_resinosa", 0.012, 0.2, 0.25, leaflets=2, spread=6, petiole=0.03, veins=1,
        colour=(85, 0.5, 0.3), pale_veins=0, autumn=BROWN, size=0.7,
    ),
    Species(
        "tsuga_canadensis", 0.16, 0.2, 0.3, leaflets=34, rachis=True, reach=0.16, spread=70,
        petiole=0.06, veins=1, colour=(110, 0.45, 0.3), pale_veins=0, autumn=BROWN, size=0.5,
    ),
)  # fmt: skip


def main(
    data: Annotated[Path | None, typer.Option(help="default: DATA_DIR/demo")] = None,
    sheet: Annotated[Path | None, typer.Option(help="also write a contact sheet there")] = None,
) -> None:
    folder = data or root("data") / "demo"
    started, key = time.monotonic(), {"version": VERSION}
    if records.is_current(folder, key):
        say("demo", f"{folder}: up to date")
    else:
        draw_competition(folder)
        records.commit(folder, key, started)
        say("demo", f"{folder}: scans of {len(SPECIES)} species, {took(started)}")
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
    imbalance: float = 6.0,
    twins: float = 0.008,
    conflicts: float = 0.004,
    leaks: float = 0.004,
) -> None:
    """Write images and Kaggle's four CSVs into `folder`, replacing what was there.

    The commonest species has `imbalance` times as many images as the rarest. Pairs of identical
    files, as shares of `train`: `twins` lie in train under one label, `conflicts` in train under
    two, `leaks` in train and in test. The result does not depend on `workers`.
    """
    rng = np.random.default_rng(seed)
    kinds = SPECIES[:species]
    shares = imbalance ** -np.linspace(0, 1, species)
    rng.shuffle(shares)
    labels = np.concatenate([deal(shares, train, rng), deal(shares, test, rng)])
    pairs = [max(1, round(share * train)) for share in (twins, conflicts, leaks)]
    source = share_pixels(labels, train, *pairs, rng)

    draft = folder.with_name(folder.name + ".draft")  # renamed last: a killed run leaves no folder
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "images").mkdir(parents=True)
    paths = [draft / f"images/{i}.jpg" for i in range(len(labels))]
    tasks = [(path, kinds[labels[i]], size, (seed, i)) for i, path in enumerate(paths)]
    draw_images([task for i, task in enumerate(tasks) if source[i] == i], workers)
    for path, original in zip(paths, source, strict=True):
        if path != paths[original]:
            shutil.copyfile(paths[original], path)
    write_tables(draft, [kinds[label].name for label in labels], train, rng)
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


def draw_images(tasks: list[Task], workers: int) -> None:
    if workers == 1:
        for task in tasks:
            draw_image(task)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,)) as pool:
        for _ in pool.map(draw_image, tasks, chunksize=25):
            pass  # raises what a worker raised


def draw_image(task: Task) -> None:
    """One file, drawn from its own random stream: the order of drawing does not matter."""
    path, kind, size, seeds = task
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


def contact_sheet(
    folder: Path, out: Path, columns: int = 8, rows: int = 4, cell: int = 128, seed: int = 0
) -> None:
    """A PNG of random training images over their species, each species before any second time."""
    table = pd.read_csv(folder / "train.csv").sample(frac=1, random_state=seed)
    again = table.groupby("label").cumcount()
    chosen = table.iloc[again.argsort(kind="stable")[: columns * rows]]
    margin, line = cell // 16, cell // 8
    pitch = cell + 2 * line + margin
    sheet = Image.new("RGB", (columns * cell, rows * pitch + margin), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=line * 7 / 8)
    for i, (image, label) in enumerate(zip(chosen["image"], chosen["label"], strict=True)):
        x, y = i % columns * cell + margin // 2, i // columns * pitch + margin
        side = cell - margin
        with Image.open(folder / image) as picture:
            sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, y))
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline="#d8d8d8")
        for row, (word, ink) in enumerate(zip(label.split("_", 1), ("#222", "#666"), strict=True)):
            at = (x + side / 2, y + side + 3 + row * line)
            pen.text(at, word, fill=ink, font=font, anchor="ma")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


if __name__ == "__main__":
    run_stage(main)
