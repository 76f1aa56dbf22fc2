"""Archives from outside: zip and 7z, and those inside them.

Neither `zipfile` nor `py7zr` writes outside the folder it is given: the first drops `..` and roots
from a name and writes a link as a text, the second refuses both. Both stop a file at the size that
the archive tells, so the room on the disk can be checked before anything is written.
"""

import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Union

from pipeline.base.cli import UserError, is_full, say, short, shown, warn

if TYPE_CHECKING:
    from py7zr import SevenZipFile

SUFFIXES = (".zip", ".7z")
MAGIC = b"7z\xbc\xaf\x27\x1c"  # how a 7z begins
OTHERS = r"\.(tar|tar\.\w+|tgz|tbz2?|txz|rar|(zip|7z)\.\d+|z\d\d)$"  # names of other archives
DEEPEST = 3  # archives in archives
SPARE = 64 << 20  # bytes that stay free on the disk


class BrokenArchiveError(UserError):
    """Not an archive, cut off, or its checksums do not hold."""


def unpack(archive: Path, into: Path) -> list[Path]:
    """Unpack `archive` and the archives in it; returns all files in `into`.

    One of another kind stays packed and is told. Raises UserError for a full disk and for what
    cannot be unpacked.
    """
    extract(archive, into)
    unpack_within(into)
    files = [path for path in into.rglob("*") if path.is_file()]
    others = [str(path.relative_to(into)) for path in files]
    if others := sorted(name for name in others if re.search(OTHERS, name.lower())):
        say("unpack", f"{shown(others)} stays packed: unpack it by hand")
    return files


def unpack_mounted(mounted: Path, folder: Path) -> Path:
    """`folder`: links to what Kaggle has mounted as it was uploaded, and the zips in it unpacked.

    Raises UserError for a full disk and for what cannot be unpacked.
    """
    if not folder.exists():
        add_links(mounted, folder)
        unpack_within(folder, [".zip"])
        for archive in folder.glob("*.7z"):
            warn("notebook", f"{archive.name}: a 7z cannot be read on Kaggle")
    return folder


def unpack_within(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Unpack the archives in a folder, and those in them, each of which is deleted then.

    One of one folder or one file is unpacked where it lies (train.csv.zip, images.zip with
    images/), another into a folder of its own name; one whose files would replace others
    (train.csv.zip beside train.csv), or deeper than DEEPEST, stays as it is.
    """
    kept: set[Path] = set()
    for _ in range(DEEPEST):
        inner = {path for path in folder.rglob("*") if path.suffix.lower() in suffixes}
        kept |= {path for path in sorted(inner - kept) if not unpack_inner(path)}


def unpack_inner(archive: Path) -> bool:
    """Whether an inner archive was unpacked, and not left because its files are there already."""
    names = [Path(name) for name in sizes(archive)]
    tops = {name.parts[:1] for name in names} - {("__MACOSX",)}
    home = archive.parent if len(tops) == 1 else archive.with_suffix("")
    if there := next((name for name in names if (home / name).exists()), None):
        say("unpack", f"{archive.name} stays packed: {there.name} lies there already and is kept")
        return False
    for place in sorted({above for name in names for above in (home / name).parents}):
        if place.is_symlink() and place.is_dir() and archive.parent in place.parents:
            source = place.resolve()  # perhaps a mount, which is read-only
            place.unlink()
            add_links(source, place)
    extract(archive, home)
    archive.unlink()
    return True


def add_links(source: Path, folder: Path) -> None:
    """Links in `folder`, new or not, to what it lacks of `source`."""
    folder.mkdir(exist_ok=True)
    for entry in source.iterdir():
        own = folder / entry.name
        if own.is_dir() and not own.is_symlink():
            add_links(entry, own)
        elif not own.exists():
            own.symlink_to(entry)


def extract(archive: Path, into: Path) -> None:
    held = sizes(archive)
    size, free = sum(held.values()), shutil.disk_usage(archive.parent).free
    if free < size + SPARE:
        takes = f"unpacking {archive.name} takes {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        way = "free some, or set DATA_DIR to another disk; then the same command"
        raise UserError(f"the disk of {archive.parent} is full: {takes}; {way}")
    say("unpack", f"{archive.name}: {len(held):,} files, {size / 1e6:,.1f} MB")
    with opened(archive) as file:
        file.extractall(into)


def sizes(archive: Path) -> dict[str, int]:
    """Unpacked bytes by name of the files in a zip or 7z. Raises UserError."""
    with opened(archive) as file:
        if isinstance(file, zipfile.ZipFile):
            return {one.filename: one.file_size for one in file.infolist() if not one.is_dir()}
        return {one.filename: one.uncompressed for one in file.list() if not one.is_directory}


@contextmanager
def opened(archive: Path) -> Iterator[Union[zipfile.ZipFile, "SevenZipFile"]]:
    """Either kind of archive, read from. Raises UserError, BrokenArchiveError where it is one."""
    refusals: tuple[type[Exception], ...] = (OSError, RuntimeError, NotImplementedError)
    with archive.open("rb") as file:
        is_7z = file.read(len(MAGIC)) == MAGIC
    if is_7z:
        import py7zr  # late: Kaggle's image has none

        refusals += (py7zr.PasswordRequired,)
    try:
        with py7zr.SevenZipFile(archive) if is_7z else zipfile.ZipFile(archive) as file:
            yield file
    except refusals as error:
        if is_full(error):
            raise
        raise UserError(f"{archive}: cannot be unpacked ({short(error)})") from None
    except MemoryError:
        raise
    except Exception as error:  # what a damaged byte makes of an archive has a dozen kinds
        raise BrokenArchiveError(f"{archive}: a broken archive ({short(error)})") from None
