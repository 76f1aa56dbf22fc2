"""Archives from outside: zip and 7z, and those inside them.

Every name is checked, and the room on the disk, before anything of an archive is written.
"""

import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TypeVar

from pipeline.parts.cli import UserError, say

Read = TypeVar("Read")

SUFFIXES = (".zip", ".7z")
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


def unpack(archive: Path, into: Path) -> list[Path]:
    """Unpack `archive` and the archives in it, which are deleted; returns the files.

    An inner archive of one folder or one file is unpacked where it lies (train.csv.zip,
    images.zip with images/), another into a folder of its own name. Raises UserError for a
    link or a name that leads outside, a full disk, BrokenArchiveError for a broken archive.
    """
    held = members(archive)
    for member in held:
        _refuse(archive, member)
    size = sum(member.size for member in held)
    need_room(into, size, f"unpacking {archive.name}")
    say("fetch", f"unpacking {archive.name}: {len(held):,} files, {size / 1e6:,.1f} MB")
    into.mkdir(parents=True, exist_ok=True)
    extract = _extract_7z if _is_7z(archive) else _extract_zip
    _reading(archive, lambda path: extract(path, into))
    files = []
    for path in [into / member.name for member in held]:
        if path.suffix.lower() in SUFFIXES:
            files += unpack(path, _home(path))
            path.unlink()
        else:
            files.append(path)
    return files


def need_room(folder: Path, size: int, purpose: str) -> None:
    """Raises UserError when the disk of `folder` has not `size` bytes and a little more free."""
    there = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if free < size + (64 << 20):
        raise UserError(
            f"the disk of {there} is full: {purpose} takes {size / 1e9:.1f} GB, {free / 1e9:.1f} "
            "GB are free; free some, or set DATA_DIR to another disk; then the same command"
        )


def _refuse(archive: Path, member: Member) -> None:
    path = PureWindowsPath(member.name)  # knows / and \ and C:
    if not member.plain:
        raise UserError(f"{archive}: {member.name!r} is a link; nothing was unpacked")
    if path.drive or path.root or ".." in path.parts:
        raise UserError(f"{archive}: {member.name!r} leads outside; nothing was unpacked")


def _home(inner: Path) -> Path:
    tops = {Path(member.name).parts[0] for member in members(inner)} - {"__MACOSX"}
    return inner.parent if len(tops) == 1 else inner.with_suffix("")


def _is_7z(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(len(MAGIC_7Z)) == MAGIC_7Z


def _reading(archive: Path, read: Callable[[Path], Read]) -> Read:
    from py7zr import exceptions as sevenzip  # late: only fetching pays for it

    broken = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, sevenzip.ArchiveError)
    try:
        return read(archive)
    except broken as error:
        raise BrokenArchiveError(f"{archive}: a broken archive ({error})") from None
    except (sevenzip.PasswordRequired, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error})") from None


def _members_zip(archive: Path) -> list[Member]:
    with zipfile.ZipFile(archive) as opened:
        return [
            Member(info.filename, info.file_size, _plain(info.external_attr >> 16))
            for info in opened.infolist()
            if not info.is_dir()
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
