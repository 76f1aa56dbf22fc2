"""The notebook of a bundle: thin cells around this package, and what Kaggle is told of it."""

import re
import shutil
from pathlib import Path
from pprint import pformat
from textwrap import indent
from typing import Any

from pipeline.base import records
from pipeline.base.competition import Competition
from pipeline.base.config import Settings
from pipeline.kaggle.notebook.guard import ALARM

Book = dict[str, Any]
PACKAGE = Path(__file__).parents[2]
LONGEST = 50  # characters of a title or slug, by Kaggle's client
# by Competition.accelerator; the name of the T4 means two of them, that of the L4 four
MACHINES = {"t4x2": "NvidiaTeslaT4", "l4x4": "NvidiaL4", "cpu": None}

START = """\
# The standard library alone: whatever else may be missing, this runs.
import os, shutil, subprocess, sys, tempfile, traceback, zipfile
from glob import escape
from pathlib import Path

INPUT = Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))
WORKING = Path(os.environ.get("KAGGLE_WORKING_DIR", "/kaggle/working"))"""

SAMPLE = """\
# submission.csv is the sample: from here on there is always one
sample, forms = {sample!r}, ["competitions/{slug}/", "{slug}/", *("*/" * n for n in range(1, 6))]
found = [path for form in forms for path in sorted(INPUT.glob(form + escape(sample)))]
found = [path for path in found if path.is_file()]
try:
    shutil.copyfile(found[0], WORKING / "submission.csv")
    print(f"submission.csv is {{found[0]}}")
except (IndexError, OSError) as error:
    reason = error if found else "is the competition {slug} attached?"
    print(f"{alarm} no {{sample}} in {{INPUT}}: {{reason}} {alarm}")"""

LOOK = """\
# What is here: some entries of every folder, room on the disk, GPUs
def tree(folder, depth=0):
    names = sorted(os.listdir(folder)) if depth < 5 and folder.is_dir() else []
    for name in names[:5]:
        yield "  " * depth + name
        yield from tree(folder / name, depth + 1)
    if len(names) > 5:
        yield "  " * depth + f"and {len(names) - 5:,} more"


try:
    print(INPUT, *list(tree(INPUT))[:50], sep="\\n")
    print(f"{shutil.disk_usage(WORKING).free / 1e9:.0f} GB free in {WORKING}")
    print(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout)
except Exception as error:
    print("no GPU?", error)"""

FROM_DATASET = """\
# The package, from the dataset {code}: a folder, or the archive it was uploaded as.
packages = []
for mounted in [*INPUT.glob("datasets/*/{code}"), INPUT / "{code}"]:
    for archive in mounted.rglob("*.zip"):
        mounted = Path(tempfile.mkdtemp())
        zipfile.ZipFile(archive).extractall(mounted / "pipeline")
    packages += [str(found.parents[1]) for found in mounted.rglob("pipeline/__main__.py")]
if not packages:
    raise FileNotFoundError("the dataset {code} is not attached, or holds no package")
sys.path[:0] = packages"""

OPENING = """\
from pipeline.kaggle.notebook import {module}

job = {module}.Job(**{settings})"""

GUARDED = """\
ready = False
try:
{opening}
    ready = True
except FileNotFoundError as error:
    print(f"{alarm} {{error}}: submission.csv stays the sample {alarm}")
except Exception:
    traceback.print_exc()
    print("{alarm} the package cannot be used: submission.csv stays the sample {alarm}")"""

SUBMIT = [
    "if ready:  # first the answer of each class's share in training\n"
    "    test = submit_session.open_test(job)\n"
    "    weights = submit_session.open_weights(test)",
    "if ready:  # submission.csv gets better with every model and view, until the time is over\n"
    "    submit_session.predict(test, weights)",
    "if ready:\n    submit_session.audit(test)",
]
TRAIN = [
    "# what an earlier session finished is in the output of this one before anything can fail\n"
    "at_work = train_session.open_session(job)",
    "# epoch by epoch, until all is done or the time is over\ntrain_session.train(at_work)",
    "train_session.tell(job)",
]


def submit_notebook(about: str, job: Settings, competition: Competition, code: str) -> Book:
    """What answers the hidden test; no error ends it, since then it would have no output.

    `code` is the slug of the dataset with the package.
    """
    slug = competition.slug or competition.name
    sample = SAMPLE.format(slug=slug, sample=competition.sample, alarm=ALARM)
    guarded = GUARDED.format(
        opening=indent(opening("submit_session", job, code), "    "), alarm=ALARM
    )
    return notebook(about, ["\n\n".join([START, sample, LOOK]), guarded, *SUBMIT])


def train_notebook(about: str, job: Settings, code: str) -> Book:
    """What trains; one without its package ends in an error, or it would count as a session."""
    return notebook(about, [f"{START}\n\n{LOOK}", opening("train_session", job, code), *TRAIN])


def opening(module: str, job: Settings, code: str) -> str:
    settings = pformat(job.model_dump(exclude_defaults=True), width=92, sort_dicts=False)
    return f"{FROM_DATASET.format(code=code)}\n{OPENING.format(module=module, settings=settings)}"


def notebook(about: str, steps: list[str]) -> Book:
    """A notebook in Jupyter's format 4.5."""
    cells = [cell("markdown", about), *(cell("code", text) for text in steps)]
    for number, one in enumerate(cells):
        one["id"] = f"cell{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write_notebook(folder: Path, book: Book, metadata: dict[str, Any]) -> None:
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
