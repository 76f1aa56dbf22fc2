"""Records: every output `X` has `X.json` beside it, written last. No record, not done.

A record holds the *key* (what the output depends on), the output's digest, provenance and metrics.
An output is current when its record's key equals the key of what is asked for now, and it is the
file that the record was written for.
"""

import glob
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pipeline.base.cli import UserError, short
from pipeline.base.locks import locked

CHECK = "check"  # digest of all else that a record holds
PACKAGES = ["torch", "timm", "albumentations", "opencv-python-headless", "numpy", "scikit-learn"]


def record_path(output: Path) -> Path:
    return output.with_name(output.name + ".json")


class Record(dict[str, Any]):
    """A JSON object of a file. A key that it lacks means a damaged file, and says so."""

    path: Path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path}: {key!r} is missing; delete the file to make it anew")


def read_json(path: Path) -> Record:
    """Raises UserError for a file that holds no JSON object."""

    def record(values: dict[str, Any]) -> Record:  # made as any dict is: `asdict` copies it so
        found = Record(values)
        found.path = path
        return found

    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_hook=record)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
        raise UserError(f"{path}: not a record ({error}); delete it to make it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a record, but {str(found)[:40]!r}; delete it to make it anew")
    return found


def load(output: Path) -> Record | None:
    """The record of an output, or None when the output is not finished."""
    path = record_path(output)
    if not (path.exists() and output.exists()):
        return None
    record = read_json(path)
    whole = record.pop(CHECK, None) in (None, digest(record))
    if not (whole and isinstance(record.get("key"), dict)):
        raise UserError(f"{path}: damaged, or edited by hand; delete it to make {output} anew")
    return record


def is_current(output: Path, key: dict[str, Any]) -> bool:
    record = load(output)
    return record is not None and record["key"] == plain(key) and is_intact(output, record)


def is_intact(output: Path, known: dict[str, Any]) -> bool:
    """Whether a file is the one of a `fingerprint`, which may stand in its record.

    It is read only if its size or time are not those of then: a look costs nothing. Folders, and
    what was made before records held fingerprints, are taken as they are.
    """
    if "digest" not in known:
        return output.exists()
    if not output.is_file():
        return False
    return known.get("stat") == stat_of(output) or known["digest"] == file_digest(output)


def fingerprint(path: Path) -> dict[str, Any]:
    return {"digest": file_digest(path), "stat": stat_of(path)}


def stat_of(path: Path | str) -> list[int]:
    """Size and time of change, in ns, which tell a file from the one that it was; zeros of none."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - a Path for each picture takes four times as long
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return [0, 0]
    return [stat.st_size, stat.st_mtime_ns]


def make(
    output: Path, key: dict[str, Any], work: Callable[[], dict[str, Any]], lock: Path | None = None
) -> bool:
    """Let `work` write an output, unless it is current; the facts it returns go into the record.

    Returns whether it was made. Another process that makes it is waited for, as all are that make
    something in the folder `lock`: the output's, if none is named.
    """
    if is_current(output, key):
        return False
    with locked(lock or output.parent):
        if is_current(output, key):
            return False
        started = time.monotonic()
        commit(output, key, started, **work())
    return True


def refuse_if_stale(output: Path, key: dict[str, Any], remedy: str) -> None:
    """For outputs that are dear to change: name what differs instead of rebuilding.

    Raises UserError when a finished output was made from a different key.
    """
    record = load(output)
    if record is not None and (changes := differences(record["key"], plain(key))):
        raise UserError(f"{output} was made with other settings: {in_words(changes)}; {remedy}")


def commit(output: Path, key: dict[str, Any], started: float, **facts: Any) -> None:
    """Write the record that marks `output` as finished; `started` is from time.monotonic()."""
    seconds = round(time.monotonic() - started, 1)
    written = {} if output.is_dir() else fingerprint(output)
    record = plain({"key": key, **facts, **written, "seconds": seconds, **provenance()})
    write_json(record_path(output), {**record, CHECK: digest(record)})


def write_json(path: Path, value: dict[str, Any]) -> None:
    with writing(path) as tmp:
        tmp.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success fsync it and rename it into place.

    The name is this process's own. The old record goes first: a kill between the two must not
    leave it beside a new output.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_litter(path)
    tmp = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        yield tmp
        with tmp.open("rb+") as file:
            os.fsync(file.fileno())
        record_path(path).unlink(missing_ok=True)
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def remove_litter(path: Path) -> None:
    """What killed writers of `path` have left on this machine."""
    for tmp in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(platform.node())}-*.tmp"):
        if not Path("/proc", tmp.suffixes[-2].rpartition("-")[2]).exists():
            tmp.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` as JSON gives it back, so that a tuple never differs from a list."""
    return json.loads(json.dumps(value))


def digest(value: Any) -> str:
    """Short digest of any JSON-able value."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Leaves that differ, as `train.lr: 0.001 → 0.0005`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(old) + [key for key in new if key not in old]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{name}: {json.dumps(old)} → {json.dumps(new)}"]


def in_words(changes: list[str]) -> str:
    """For a message: the first few, each of bounded length."""
    more = [f"and {len(changes) - 8} more"] if len(changes) > 8 else []
    return "; ".join([short(text, 120) for text in changes[:8]] + more)


@cache
def provenance() -> dict[str, Any]:
    """Who made it: git commit with a dirty flag, package versions, the time."""
    commit_id = _git("rev-parse", "--short=12", "HEAD")
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no", "pipeline"))
    # Kaggle's image has another OpenCV package; its absence is no error
    found = {package: list(distributions(name=package)) for package in PACKAGES}
    versions = {package: dists[0].version for package, dists in found.items() if dists}
    return {
        "git": f"{commit_id}{'+dirty' if dirty else ''}" if commit_id else None,
        "versions": {"python": platform.python_version(), **versions},
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _git(*args: str) -> str:
    """Its answer; nothing where there is no git, or in a downloaded copy."""
    command = ["git", "-C", Path(__file__).parents[2], *args]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
