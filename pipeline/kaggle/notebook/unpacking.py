"""Competitions that Kaggle mounts as they were uploaded: pictures or tables in zips."""

from pathlib import Path

from pipeline.base.cli import warn
from pipeline.kaggle.api.archives import add_links, unpack_within


def unpacked(mounted: Path, folder: Path) -> Path:
    """`folder`: links to what a competition holds, and its zips unpacked as `fetch` does it.

    Raises UserError for a full disk and for what cannot be unpacked.
    """
    if not folder.exists():
        add_links(mounted, folder)
        unpack_within(folder, [".zip"])
        for archive in folder.glob("*.7z"):
            warn("notebook", f"{archive.name}: a 7z cannot be read on Kaggle")
    return folder
