"""Archives from outside: zip and 7z, and those inside them.

Every name is checked, and the room on the disk, before anything of an archive is written.
"""

import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

from pipeline.base.cli import FULL, UserError, say, short, shown

Read = TypeVar("Read")

SUFFIXES = (".zip", ".7z")
DEEPEST = 3  # archives in archives
MAGIC_7Z = b"7z\xbc\xaf\x27\x1c"


class BrokenArchiveError(UserError):
    """Not an archive, cut off, or its checksums do not hold."""


@dataclass(frozen=True)
class Member:
    name: str
    size: int  # bytes once unpacked
    plain: bool  # a file or a folder: no link, device or socket


def members(archive: Path) -> list[Member]:
    """Contents of a zip or 7z, folders left out. Raises BrokenArchiveError."""
    return _reading(archive, _members_7z if _is_7z(archive) else _members_zip)


def unpack(archive: Path, into: Path, depth: int = 0) -> list[Path]:
    """Unpack `archive` and the archives in it, which are deleted; returns the files.

    An inner archive of one folder or one file is unpacked where it lies (train.csv.zip,
    images.zip with images/), another into a folder of its own name; one whose files would replace
    others (train.csv.zip beside train.csv), or DEEPEST in others, stays as it is. Raises UserError
    for a link, a name that leads outside or stands twice, a full disk, BrokenArchiveError for a
    broken archive.
    """
    held = members(archive)
    _refuse(archive, held)
    size = sum(member.size for member in held)
    need_room(into, size, f"unpacking {archive.name}")
    say("fetch", f"unpacking {archive.name}: {len(held):,} files, {size / 1e6:,.1f} MB")
    into.mkdir(parents=True, exist_ok=True)
    extract = _extract_7z if _is_7z(archive) else _extract_zip
    _reading(archive, lambda path: extract(path, into))
    files = []
    for path in [into / member.name for member in held]:
        if path.suffix.lower() not in SUFFIXES or _stays(path, depth):
            files.append(path)
        else:
            files += unpack(path, _home(path), depth + 1)
            path.unlink()
    return files


def _stays(inner: Path, depth: int) -> bool:
    """Whether an inner archive is better left as it is, which is said."""
    if depth == DEEPEST:
        say("fetch", f"{inner.name} stays packed, as the {DEEPEST + 1}th archive in another")
        return True
    held = members(inner)
    _refuse(inner, held)
    home = _home(inner)
    targets = [home / member.name for member in held]
    folders = {folder for path in targets for folder in path.parents} | {home}
    taken = [path for path in targets if path.exists()]
    if taken := taken + [folder for folder in folders if folder.is_file()]:
        say("fetch", f"{inner.name} stays packed: {taken[0].name} lies there already and is kept")
    return bool(taken)


def need_room(folder: Path, size: int, purpose: str) -> None:
    """Raises UserError when the disk of `folder` has not `size` bytes and a little more free."""
    there = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < size + (64 << 20):
        raise UserError(
            f"the disk of {there} is full: {purpose} takes {size / 1e9:.1f} GB, {free / 1e9:.1f} "
            "GB are free; free some, or set DATA_DIR to another disk; then the same command"
        )


def _refuse(archive: Path, held: list[Member]) -> None:
    """Raises UserError for a member that could lie elsewhere, nowhere or upon another."""
    seen: dict[str, str] = {}
    for member in held:
        name, path = shown(member.name), PureWindowsPath(member.name)  # knows / and \\ and C:
        places = PurePosixPath(member.name).parts
        spot = "/".join(places).lower()  # two names in one on many disks
        if not member.plain:
            problem = f"{name} is a link"
        elif path.drive or path.root or ".." in path.parts:
            problem = f"{name} leads outside"
        elif not places or max(len(place.encode(errors="replace")) for place in places) > 255:
            problem = f"{name} is no name of a file"
        elif spot in seen:
            problem = f"{name} and {shown(seen[spot])} are one name"
        else:
            seen[spot] = member.name
            continue
        raise UserError(f"{archive}: {problem}; nothing was unpacked")
    for spot, name in seen.items():
        for folder in PurePosixPath(spot).parents:
            if str(folder) in seen:
                text = f"{shown(seen[str(folder)])} is a file, and the folder of {shown(name)}"
                raise UserError(f"{archive}: {text}; nothing was unpacked")


def _home(inner: Path) -> Path:
    tops = {Path(member.name).parts[0] for member in members(inner)} - {"__MACOSX"}
    return inner.parent if len(tops) == 1 else inner.with_suffix("")


def _is_7z(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(len(MAGIC_7Z)) == MAGIC_7Z


def _reading(archive: Path, read: Callable[[Path], Read]) -> Read:
    from py7zr.exceptions import PasswordRequired  # late: only fetching pays for it

    try:
        return read(archive)
    except (OSError, PasswordRequired, RuntimeError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise UserError(f"{archive}: cannot be unpacked ({short(error)})") from None
    except MemoryError:
        raise
    except Exception as error:  # what a damaged byte makes of an archive has a dozen kinds
        raise BrokenArchiveError(f"{archive}: a broken archive ({short(error)})") from None


def _members_zip(archive: Path) -> list[Member]:
    with zipfile.ZipFile(archive) as opened:
        return [
            Member(info.filename, info.file_size, _plain(info.external_attr >> 16))
            for info in opened.infolist()
            if not info.filename.endswith("/")
        ]


def _plain(mode: int) -> bool:
    return stat.S_IFMT(mode) in (0, stat.S_IFREG)  # 0: made where files have no mode


def _extract_zip(archive: Path, into: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(into)


def _members_7z(archive: Path) -> list[Member]:
    import py7zr

    with py7zr.SevenZipFile(archive) as opened:
        return [
            Member(info.filename, info.uncompressed, info.is_file)
            for info in opened.list()
            if not info.is_directory
        ]


def _extract_7z(archive: Path, into: Path) -> None:
    import py7zr

    with py7zr.SevenZipFile(archive) as opened:
        opened.extractall(into)
