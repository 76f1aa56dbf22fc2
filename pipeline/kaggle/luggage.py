"""Files of home that a notebook finds in the same places: flat in a dataset, with a list of them.

A dataset's folders travel as archives, so each file lies beside the list under a name of its own.
"""

import json
import shutil
from pathlib import Path

from pipeline.kaggle.manifest import sha256
from pipeline.kaggle.mounts import find_input
from pipeline.parts import records
from pipeline.parts.cli import UserError

FILE = "luggage.json"


def pack(files: dict[str, Path], folder: Path) -> None:
    """Copy files into `folder`; each key is a place at home, as `runs/one/fold0/log.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = {}
    for place, source in files.items():
        name = place.replace("/", "--")
        shutil.copyfile(source, folder / name)
        packed[place] = [name, sha256(folder / name)]
    records.write_json(folder / FILE, packed)


def unpack(dataset: str, home: Path) -> None:
    """Link what a mounted dataset holds to its places in `home`.

    Raises UserError for a dataset or file that is missing or not as it was packed.
    """
    folder = find_input("dataset", dataset, FILE)
    for place, (name, expected) in json.loads((folder / FILE).read_text()).items():
        source = folder / name
        if not source.is_file() or sha256(source) != expected:
            raise UserError(f"{source}: missing, or not as it was packed: upload the dataset again")
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).symlink_to(source)
