"""A bundle: a notebook of two thin cells around this package, and what Kaggle is told of it."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from pprint import pformat
from textwrap import indent
from typing import Any

from pipeline.base import records
from pipeline.base.cli import say, took
from pipeline.base.competition import Competition
from pipeline.base.settings import Settings
from pipeline.kaggle.notebook import mounts
from pipeline.kaggle.notebook.guard import ALERT

VERSION = 3
BOOK = "notebook.ipynb"
PACKAGE = Path(__file__).parents[2]
LONGEST = 50  # characters of a title or slug, by Kaggle's client
# by Competition.accelerator; the name of the T4 means two of them, that of the L4 four
MACHINES = {"t4x2": "NvidiaTeslaT4", "l4x4": "NvidiaL4", "cpu": None}

START = f"""\
# The standard library alone: whatever else may be missing, this runs.
import shutil, subprocess, sys, tempfile, traceback, zipfile

{Path(mounts.__file__).read_text(encoding="utf-8")}"""

SAMPLE = """\
# submission.csv is the sample: from here on there is always one
try:
    sample = find_input("competition", {slug!r}, {sample!r}, {packed!r}) / {sample!r}
    if sample.exists():
        shutil.copyfile(sample, working_root() / "submission.csv")
    else:  # mounted as it was uploaded
        table = zipfile.ZipFile(f"{{sample}}.zip").read(sample.name)
        (working_root() / "submission.csv").write_bytes(table)
    print(f"submission.csv is {{sample}}")
except Exception as error:
    print(f"{alert} {{error}} {alert}")"""

INVENTORY = """\
# What is here: folders that are mounted, room on the disk, GPUs
commands = [f"find {input_root()} -maxdepth 3 -type d | sort | head -50"]
for command in [*commands, f"df -h {working_root()}", "nvidia-smi -L"]:
    print(subprocess.run(command, shell=True, capture_output=True, text=True).stdout)"""

RUN = """\
# The package, from the dataset {code}: a folder, or the archive it was uploaded as.
packages = []
for mounted in [*input_root().glob("datasets/*/{code}"), input_root() / "{code}"]:
    for archive in mounted.rglob("*.zip"):
        mounted = Path(tempfile.mkdtemp())
        zipfile.ZipFile(archive).extractall(mounted / archive.stem)
    packages += [str(found.parents[1]) for found in mounted.rglob("pipeline/__main__.py")]
if not packages:
    raise FileNotFoundError("the dataset {code} is not attached, or holds no package")
sys.path[:0] = packages
from pipeline.kaggle.notebook import {module}

{module}.run({module}.Job(**{job}))"""

GUARDED = """\
# submission.csv gets better with every model, until the time is over
try:
{run}
except FileNotFoundError as error:
    print(f"{alert} {{error}}: submission.csv stays the sample {alert}")
except Exception:
    traceback.print_exc()
    print("{alert} the package cannot be used: submission.csv stays the sample {alert}")"""


def write_submit_notebook(
    bundle: Path, about: str, job: Settings, competition: Competition, code: str
) -> None:
    """What answers the hidden test; no error ends it, since then it would have no output.

    `code` is the slug of the dataset with the package.
    """
    slug = competition.slug or competition.name
    names = {"sample": competition.sample, "packed": f"{competition.sample}.zip"}
    sample = SAMPLE.format(slug=slug, **names, alert=ALERT)
    guarded = GUARDED.format(run=indent(run_cell("submit_session", job, code), "    "), alert=ALERT)
    write_notebook(bundle, about, ["\n\n".join([START, sample, INVENTORY]), guarded])


def write_train_notebook(bundle: Path, about: str, job: Settings, code: str) -> None:
    """What trains; one without its package ends in an error, or it would count as a session."""
    cells = [f"{START}\n\n{INVENTORY}", run_cell("train_session", job, code)]
    write_notebook(bundle, about, cells)


def run_cell(module: str, job: Settings, code: str) -> str:
    settings = pformat(job.model_dump(exclude_defaults=True), width=92, sort_dicts=False)
    return RUN.format(code=code, module=module, job=settings)


def write_notebook(bundle: Path, about: str, steps: list[str]) -> None:
    """A notebook of a heading and a cell for each of `steps`; equal ones are equal files."""
    from nbformat import v4  # late: only a bundle needs it

    cells = [v4.new_markdown_cell(about, id="about")]
    cells += [v4.new_code_cell(text, id=f"step{n}") for n, text in enumerate(steps)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    records.write_json(bundle / "notebook" / BOOK, book)


def make_bundle(out: Path, key: dict[str, Any], write: Callable[[Path], None], about: str) -> None:
    """Let `write` fill a folder, which is then put in the place of `out`, unless that is current.

    One that lacks files is made anew. `about` is what to say of it.
    """
    started, key = time.monotonic(), {"version": VERSION, **key, "code": folder_digest(PACKAGE)}

    def work() -> dict[str, Any]:
        tmp = out.with_name(f".{out.name}.tmp")
        shutil.rmtree(tmp, ignore_errors=True)
        write(tmp)
        records.record_path(out).unlink(missing_ok=True)  # first: a kill may come between
        shutil.rmtree(out, ignore_errors=True)
        tmp.rename(out)
        sizes = [path.stat().st_size for path in files_in(out)]
        return {"mb": round(sum(sizes) / 1e6, 1), "files": len(sizes)}

    if (before := records.load(out)) and len(files_in(out)) < before.get("files", 0):
        records.record_path(out).unlink(missing_ok=True)
    made = records.make(out, key, work)
    told = f"{about}, {records.load(out)['mb']:,.1f} MB"
    say("bundle", f"{out}: {told}, {took(started) if made else 'up to date'}")


def files_in(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sorted(files)


def folder_digest(folder: Path) -> str:
    files = [(str(p.relative_to(folder)), records.file_digest(p)) for p in files_in(folder)]
    return records.digest(files)


def write_code(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignored)


def write_metadata(
    folder: Path,
    owner: str,
    slug: str,
    competition: Competition,
    hours: float,
    datasets: dict[str, str],
) -> None:
    """What the client reads: of the notebook `slug`, and of `datasets`, slugs by their folders."""
    for name, dataset in datasets.items():
        about = {"id": f"{owner}/{dataset}", "title": dataset, "licenses": [{"name": "other"}]}
        records.write_json(folder / name / "dataset-metadata.json", about)
    machine = MACHINES[competition.accelerator]
    metadata = {
        "id": f"{owner}/{slug}",
        "title": slug,  # must lead to the slug, and a slug leads to itself
        "code_file": BOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": machine is not None,
        "enable_internet": False,  # without this line it would be on
        "machine_shape": machine,
        "docker_image_pinning_type": "original",  # later versions run in the image of the first
        "session_timeout_seconds": round(3600 * hours),  # given to the client beside this file
        "dataset_sources": [f"{owner}/{dataset}" for dataset in datasets.values()],
        "competition_sources": [competition.slug] if competition.slug else [],
    }
    records.write_json(folder / "notebook" / "kernel-metadata.json", metadata)


def slug_of(competition: str, name: str, ending: str) -> str:
    """Slug and title at once: 6 to 50 small letters, digits and hyphens, its own for each name."""
    text = f"{competition}-{name}"
    whole = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    room = LONGEST - len(ending) - 1
    if len(whole) > room or whole != text:  # two names must not become one
        whole = f"{whole[: room - 7].strip('-')}-{records.digest(text)[:6]}"
    return f"{whole}-{ending}"
