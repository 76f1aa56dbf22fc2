"""Shows what training sees: one picture augmented again and again, and mixed batches.

reads   the packed pixels (prepare), the experiment's augment and mix
writes  runs/EXPERIMENT/gallery.png
run     python -m pipeline.gallery demo [--image images/12.jpg] [--rows 4] [--seed 1]

Transform, loader and mixing are those of training, at its size. An equal seed draws an equal page.
"""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.base import records
from pipeline.base.cli import run_stage, say
from pipeline.base.config import load_experiment, root
from pipeline.base.settings import size_name
from pipeline.data.prepared import load_prepared
from pipeline.figures.pictures import draw_page
from pipeline.figures.views import mixing, training_views


def main(
    experiment: str,
    out: Annotated[Path | None, typer.Option(help="default: runs/EXPERIMENT/gallery.png")] = None,
    rows: Annotated[int, typer.Option(min=1, help="of the one picture")] = 3,
    columns: Annotated[int, typer.Option(min=2, help="also the size of a mixed batch")] = 6,
    image: Annotated[str | None, typer.Option(help="an id; default: one at random")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all that is random")] = 0,
) -> None:
    settings = load_experiment(experiment)
    strips = training_views(settings, load_prepared(settings), rows, columns, image, seed)
    caption = f"{size_name(settings.model.size)} px, {mixing(settings)}"
    out = out or root("runs") / settings.name / "gallery.png"
    with records.writing(out) as tmp:
        draw_page(settings.name, caption, strips, columns).savefig(tmp, format="png")
    say("gallery", f"{out}: {rows * columns - 1} views of one picture, {mixing(settings)}")


if __name__ == "__main__":
    run_stage(main)
