"""Competitions that Kaggle mounts as they were uploaded: pictures in zips beside the tables."""

import zipfile
from pathlib import Path

from pipeline.base.cli import say, warn
from pipeline.kaggle.api.archives import home_of


def unpacked(mounted: Path, folder: Path) -> Path:
    """`folder`, new: links to what a competition holds, beside what `fetch` makes of its zips.

    Raises OSError for a full disk, BadZipFile for a damaged one.
    """
    folder.mkdir()
    for entry in mounted.iterdir():
        (folder / entry.name).symlink_to(entry)
    for archive in sorted(folder.glob("*.zip")):
        say("notebook", f"unpacking {archive.name}")
        with zipfile.ZipFile(archive) as file:  # which drops `..` and roots from names
            names = file.namelist()
            home = home_of(archive, map(Path, names))
            file.extractall(home, [name for name in names if not (home / name).exists()])
    for archive in folder.glob("*.7z"):
        warn("notebook", f"{archive.name}: a 7z cannot be read on Kaggle")
    return folder
