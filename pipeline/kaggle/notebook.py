"""The notebook of a bundle: thin cells around this package, and what Kaggle is told of it."""

import re
import shutil
from pathlib import Path
from pprint import pformat
from typing import Any

from pipeline.parts import records
from pipeline.parts.competition import Competition
from pipeline.parts.config import Settings

PACKAGE = Path(__file__).parents[1]
LONGEST = 50  # characters of a title or slug, by Kaggle's client
# by Competition.accelerator; the name of the T4 means two of them, that of the L4 four
MACHINES = {"t4x2": "NvidiaTeslaT4", "l4x4": "NvidiaL4", "cpu": None}

FROM_DATASET = """\
# The package, from the dataset {code}: a folder, or the archive it was uploaded as.
import os, sys, tempfile, zipfile
from pathlib import Path

INPUT = Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))
for mounted in [*INPUT.glob("datasets/*/{code}"), INPUT / "{code}"]:
    for archive in mounted.rglob("*.zip"):
        mounted = Path(tempfile.mkdtemp())
        zipfile.ZipFile(archive).extractall(mounted / "pipeline")
    sys.path[:0] = [str(found.parents[1]) for found in mounted.rglob("pipeline/__main__.py")]"""

SUBMIT = [
    "# submission.csv is the sample: from here on there is always one\n"
    "test = kernel.open_test(job)",
    "# submission.csv is the share of each class in training\nweights = kernel.open_weights(test)",
    "# submission.csv gets better with every model and view, until the time is over\n"
    "kernel.predict(test, weights)",
    "kernel.audit(test)",
]
TRAIN = [
    "# what an earlier session finished is in the output of this one before anything can fail\n"
    "at_work = session.open_session(job)",
    "# epoch by epoch, until all is done or the time is over\nsession.train(at_work)",
    "session.tell(job)",
]


def notebook(about: str, module: str, job: Settings, steps: list[str], code: str) -> dict[str, Any]:
    """A notebook in Jupyter's format 4.5: the package, a Job of one of its modules, the steps.

    `code` is the slug of the dataset with the package.
    """
    bring = FROM_DATASET.format(code=code)
    settings = pformat(job.model_dump(exclude_defaults=True), width=96, sort_dicts=False)
    opening = f"from pipeline.kaggle import {module}\n\njob = {module}.Job(**{settings})"
    cells = [cell("markdown", about), *(cell("code", text) for text in [bring, opening, *steps])]
    for number, one in enumerate(cells):
        one["id"] = f"cell{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write_notebook(folder: Path, book: dict[str, Any], metadata: dict[str, Any]) -> None:
    records.write_json(folder / metadata["code_file"], book)
    records.write_json(folder / "kernel-metadata.json", metadata)


def cell(kind: str, text: str) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text, **code}


def package_files() -> list[Path]:
    """Modules and YAML files of this package, relative to the folder that holds it."""
    kept = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".yaml", ".csv")]
    return sorted(path.relative_to(PACKAGE.parent) for path in kept)


def write_code(folder: Path) -> None:
    for path in package_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE.parent / path, folder / path)


def code_digests() -> dict[str, str]:
    return {str(path): records.file_digest(PACKAGE.parent / path) for path in package_files()}


def kernel_metadata(
    owner: str, slug: str, competition: Competition, datasets: list[str], hours: float
) -> dict[str, Any]:
    """What the client's kernels_push reads, and the limit of a session, which it is given."""
    machine = MACHINES[competition.accelerator]
    return {
        "id": f"{owner}/{slug}",
        "title": slug,  # must lead to the slug, and this surely does
        "code_file": "notebook.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": machine is not None,
        "enable_internet": False,  # without this line it would be on
        "machine_shape": machine,
        "docker_image_pinning_type": "original",  # later versions run in the image of the first
        "session_timeout_seconds": round(3600 * hours),
        "dataset_sources": [f"{owner}/{name}" for name in datasets],
        "competition_sources": [competition.slug] if competition.slug else [],
        "kernel_sources": [],
        "model_sources": [],
    }


def describe_dataset(folder: Path, owner: str, slug: str) -> None:
    metadata = {"id": f"{owner}/{slug}", "title": slug, "licenses": [{"name": "other"}]}
    records.write_json(folder / "dataset-metadata.json", metadata)


def slug_of(competition: str, name: str, ending: str) -> str:
    """Slug and title at once: 6 to 50 small letters, digits and hyphens, its own for each name."""
    text = name if name.startswith(competition) else f"{competition}-{name}"
    whole = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    room = LONGEST - len(ending) - 1
    if len(whole) > room or whole != text:  # two names must not become one
        whole = f"{whole[: room - 7].strip('-')}-{records.digest(text)[:6]}"
    return f"{whole}-{ending}"
