"""Files of home that a notebook finds in the same places: flat in a dataset, with a list of them.

A dataset's folders travel as archives, so each file lies beside the list under a name of its own.
"""

import json
import shutil
from pathlib import Path

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.kaggle.notebook.manifest import sha256
from pipeline.kaggle.notebook.mounts import find_input


def list_of(dataset: str) -> str:
    """Name of the list in a dataset, told by the last word of its slug: code or weights."""
    return f"luggage-{dataset.rpartition('-')[2]}.json"


def pack(files: dict[str, Path], folder: Path) -> None:
    """Copy files into a dataset; each key is a place at home, as `runs/one/fold0/log.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = {}
    for place, source in files.items():
        name = place.replace("/", "--")
        shutil.copyfile(source, folder / name)
        packed[place] = [name, sha256(folder / name)]
    records.write_json(folder / list_of(folder.name), packed)


def unpack(dataset: str, home: Path) -> None:
    """Link what a mounted dataset holds to its places in `home`.

    Raises UserError for a dataset or file that is missing or not as it was packed.
    """
    folder = find_input("dataset", dataset, list_of(dataset))
    packed = json.loads((folder / list_of(dataset)).read_text())
    for place, (name, expected) in packed.items():
        source = folder / name
        if not source.is_file() or sha256(source) != expected:
            raise UserError(f"{source}: missing, or not as it was packed: upload the dataset again")
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).symlink_to(source)
