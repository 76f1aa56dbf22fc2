"""Shows what training sees: one picture augmented again and again, and mixed batches.

reads   the packed pixels (prepare), the experiment's augment and mix
writes  runs/EXPERIMENT/gallery.png
run     python -m pipeline.gallery demo [--image images/12.jpg] [--rows 4] [--seed 1]

Transform, loader and mixing are those of training, at its size. An equal seed draws an equal page.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, did_you_mean, run_stage, say
from pipeline.base.config import Experiment, load_experiment, root
from pipeline.data.prepared import Prepared, load_prepared
from pipeline.data.tables import class_order
from pipeline.figures.sheet import ACCENT, INK, Cell, Page

if TYPE_CHECKING:
    from pipeline.figures.views import Views

MOST = 4  # labels named under a picture
METHODS = {
    "mixup": ("mix-up", "one picture shines through another, labels by strength"),
    "cutmix": ("CutMix", "a rectangle of another picture, labels by area"),
    "mosaic": ("mosaic", "four pictures meet in a random point, labels by area"),
}


def main(
    experiment: str,
    out: Annotated[Path | None, typer.Option(help="default: runs/EXPERIMENT/gallery.png")] = None,
    rows: Annotated[int, typer.Option(min=1, help="of the one picture")] = 3,
    columns: Annotated[int, typer.Option(min=2, help="also the size of a mixed batch")] = 6,
    image: Annotated[str | None, typer.Option(help="an id; default: one at random")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all that is random")] = 0,
) -> None:
    settings = load_experiment(experiment)
    page = draw_gallery(settings, load_prepared(settings), rows, columns, image, seed)
    out = out or root("runs") / settings.name / "gallery.png"
    with records.writing(out) as tmp:
        page.image().save(tmp, format="PNG", optimize=True)
    say("gallery", f"{out}: {rows * columns - 1} views of one picture, {mixing(settings)}")


def draw_gallery(
    settings: Experiment, prepared: Prepared, rows: int, columns: int, image: str | None, seed: int
) -> Page:
    """A page: `rows` × `columns` views of a picture, then a batch of `columns` for each method.

    Raises UserError for an `image` that the competition does not have.
    """
    from pipeline.figures.views import Views  # late: torch

    table, page = prepared.rows, Page(settings.model.size, columns)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(table.split == "train"))
    row = order[0] if image is None else find_row(table, image)
    classes = class_order(set(table.label[order]))
    views = Views(settings, prepared.pixels, len(classes), seed)
    page.text(settings.name, INK, 1.8)
    page.text(f"{settings.model.size} px, {mixing(settings)}")
    page.space()
    add_views(page, settings, views, row, f"{readable(table.label[row])} ({table.id[row]})", rows)
    others = np.resize(order[1:], (len(METHODS), columns))
    for method, batch in zip(methods(settings) or [None], others, strict=False):
        add_batch(page, views, batch, table.label[batch], classes, method)
    return page


def add_views(
    page: Page, settings: Experiment, views: "Views", row: int, name: str, rows: int
) -> None:
    """The original, framed, and its augmented views."""
    names = [name for step in settings.augment for name in step]
    page.text("Augmentation", INK, 1.3)
    page.text(" · ".join(names) if names else "none: every view is the original")
    page.text(f"framed: the original, {name}", ACCENT)
    page.space(0.4)
    again = views.augmented(np.full(rows * page.columns - 1, row), "views")
    cells = [Cell(views.original(row), marked=True), *map(Cell, again)]
    for start in range(0, len(cells), page.columns):
        page.row(cells[start : start + page.columns])


def add_batch(
    page: Page,
    views: "Views",
    batch: np.ndarray,
    labels: pd.Series,
    classes: list[str],
    method: str | None,
) -> None:
    """A training batch and the labels it is trained on; plain where `method` is None."""
    targets = np.array([classes.index(label) for label in labels])
    if method:
        title, caption = METHODS[method]
        pictures, shares = views.mixed(batch, targets, method)
    else:
        title, caption = "A batch", "nothing is mixed: every picture has its own label"
        pictures, shares = views.augmented(batch, "batch"), np.eye(len(classes))[targets]
    page.space(1.5)
    page.text(title[0].upper() + title[1:], INK, 1.3)
    page.text(caption)
    page.space(0.4)
    page.row([Cell(p, label_shares(s, classes)) for p, s in zip(pictures, shares, strict=True)])


def label_shares(shares: np.ndarray, classes: list[str]) -> list[tuple[str, str]]:
    """The largest `shares` [classes] as ("quercus alba", "38 %"); what rounds to 0 is left out."""
    largest = np.argsort(-shares, kind="stable")[:MOST]
    percents = [(readable(classes[i]), round(100 * float(shares[i]))) for i in largest]
    return [(label, f"{percent} %") for label, percent in percents if percent]


def readable(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


def methods(settings: Experiment) -> list[str]:
    """Names of what mixes in at least one epoch."""
    if settings.mix.off_epochs >= settings.train.epochs:
        return []
    return [name for name in METHODS if getattr(settings.mix, name)]


def mixing(settings: Experiment) -> str:
    """What is mixed how often, in words."""
    names = [METHODS[name][0] for name in methods(settings)]
    if not names:
        return "nothing is mixed"
    either = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    mix, epochs = settings.mix, settings.train.epochs
    when = f", epochs 1-{epochs - mix.off_epochs} of {epochs}" if mix.off_epochs else ""
    return f"{either} in {100 * mix.prob:.0f} % of the batches{when}"


def find_row(table: pd.DataFrame, image: str) -> int:
    """Row of an image id, of the training part if it is in both."""
    found = table.index[table.id == image]
    if not len(found):
        near = did_you_mean(image, table.id)
        raise UserError(f"--image: the competition has no {image!r}{near}")
    return found[0]


if __name__ == "__main__":
    run_stage(main)
