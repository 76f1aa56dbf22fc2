"""Archives from outside: unpacked with those inside them, never outside their folder."""

import io
import shutil
import stat
import sys
import zipfile
import zlib
from pathlib import Path

import py7zr
import pytest

from pipeline.base.cli import UserError
from pipeline.kaggle.api import archives
from pipeline.kaggle.api.archives import BrokenArchiveError, unpack, unpack_mounted


def zipped(files: dict[str, bytes] | list[tuple[str, bytes]], mode: int = 0) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return packed.getvalue()


def sevenzipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with py7zr.SevenZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(data, name)
    return packed.getvalue()


def unpacked(tmp_path: Path, data: bytes) -> dict[str, bytes]:
    (tmp_path / "outer.zip").write_bytes(data)
    files = unpack(tmp_path / "outer.zip", tmp_path / "in" / "out")
    found = [path for path in (tmp_path / "in").rglob("*") if path.is_file()]
    assert sorted(files) == sorted(found)
    return {
        path.relative_to(tmp_path / "in" / "out").as_posix(): path.read_bytes() for path in files
    }


def test_archives_in_archives_as_cifar_and_leaf_classification_have_them(tmp_path: Path) -> None:
    files = unpacked(
        tmp_path,
        zipped(
            {
                "train.7z": sevenzipped({"train/1.png": b"one", "train/2.png": b"two"}),
                "trainLabels.csv": b"id,label\n",
                "train.csv.zip": zipped({"train.csv": b"id\n"}),
                "images.zip": zipped({"images/3.jpg": b"three", "__MACOSX/._3.jpg": b"x"}),
                "loose.zip": zipped({"4.jpg": b"four", "5.jpg": b"five"}),
            }
        ),
    )
    del files["__MACOSX/._3.jpg"]
    assert files == {
        "train/1.png": b"one",
        "train/2.png": b"two",
        "trainLabels.csv": b"id,label\n",
        "train.csv": b"id\n",
        "images/3.jpg": b"three",
        "loose/4.jpg": b"four",
        "loose/5.jpg": b"five",
    }


def test_zips_need_no_py7zr_which_kaggle_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "py7zr", None)
    data = zipped({"train.csv.zip": zipped({"train.csv": b"id\n"})})
    assert unpacked(tmp_path, data) == {"train.csv": b"id\n"}


def test_an_archive_of_another_kind_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = ["a.tar", "sub/b.TAR.gz", "c.tgz", "d.zip.001"]
    unpacked(tmp_path, zipped(dict.fromkeys([*packed, "tar.csv", "1.png"], b"x")))
    told = f"{sorted(packed)} stays packed: unpack it by hand"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize("inner", [False, True])
def test_a_zip_puts_nothing_outside(tmp_path: Path, name: str, inner: bool) -> None:
    data = zipped({name: b"x"})
    unpacked(tmp_path, zipped({"inner.zip": data}) if inner else data)
    assert not Path("/tmp/evil").exists()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2  # outer.zip, evil


@pytest.mark.parametrize("name", ["../evil", "a/../../evil"])
def test_a_7z_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    innocent = name.replace("..", "bb").replace("/", "b")  # py7zr writes no bad name: patched in
    packed = io.BytesIO()
    with py7zr.SevenZipFile(packed, "w", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        archive.set_encoded_header_mode(False)
        archive.writestr(b"x", innocent)
    data = renamed_7z(packed.getvalue(), innocent, name)
    with pytest.raises(BrokenArchiveError, match="path is bad"):
        unpacked(tmp_path, zipped({"inner.7z": data}))
    assert not list(tmp_path.rglob("evil"))


def renamed_7z(data: bytes, old: str, new: str) -> bytes:
    """A 7z whose header names a file anew, its checksums made to fit."""
    body, header = data[32:], data[32 + int.from_bytes(data[12:20], "little") :]
    fitted = header.replace(old.encode("utf-16-le"), new.encode("utf-16-le"))
    assert fitted != header
    start = data[12:28] + zlib.crc32(fitted).to_bytes(4, "little")
    return (
        data[:8]
        + zlib.crc32(start).to_bytes(4, "little")
        + start
        + body[: len(body) - len(header)]
        + fitted
    )


def test_nothing_that_lies_there_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = zipped({"same.zip": b"itself"})
    other = zipped({"train.csv": b"of the archive"})
    mixed = {
        "train.csv": b"outer",
        "train.csv.zip": other,
        "train.csv.7z": sevenzipped({"b": b"x"}),
    }
    mixed |= {"same.zip": same}
    mixed |= {"one.zip": zipped({"x/1": b"first"}), "two.zip": zipped({"x/1": b"second"})}
    files = unpacked(tmp_path, zipped(mixed))
    assert files["train.csv"] == b"outer" and files["train.csv.zip"] == other
    assert files["same.zip"] == same
    assert files["x/1"] == b"first" and "two.zip" in files and "one.zip" not in files
    told = capsys.readouterr().out
    assert "train.csv.zip stays packed: train.csv lies there already and is kept" in told
    assert told.count("stays packed") == 3


def test_a_zip_that_is_named_like_a_mounted_folder_adds_to_it_and_not_to_the_mount(
    tmp_path: Path,
) -> None:
    """Of several files, and of one folder; the mount is read-only."""
    mounted = tmp_path / "mounted"
    (mounted / "images/sub").mkdir(parents=True)
    (mounted / "images/sub/a.jpg").write_bytes(b"a")
    (mounted / "images.zip").write_bytes(zipped({"b.jpg": b"b", "sub/c.jpg": b"c"}))
    (mounted / "more.zip").write_bytes(zipped({"images/sub/d.jpg": b"d"}))
    before = sorted(mounted.rglob("*"))
    found = unpack_mounted(mounted, tmp_path / "unpacked") / "images"
    files = {name: (found / name).read_bytes() for name in ("b.jpg", "sub/a.jpg", "sub/c.jpg")}
    assert files == {"b.jpg": b"b", "sub/a.jpg": b"a", "sub/c.jpg": b"c"}
    assert (found / "sub/d.jpg").read_bytes() == b"d"
    assert sorted(mounted.rglob("*")) == before


def test_archives_in_archives_without_end(tmp_path: Path) -> None:
    data = zipped({"deep.txt": b"x"})
    for i in range(9):
        data = zipped({f"{i}.zip": data})
    assert list(unpacked(tmp_path, data)) == ["5.zip"]


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    files = unpacked(tmp_path, zipped({"link": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777))
    assert files == {"link": b"/etc/passwd"}  # a text, no link
    (tmp_path / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "linked.7z", "w") as archive:
        archive.write(tmp_path / "link", "link")
    with pytest.raises(BrokenArchiveError, match="Symlink point out of target"):
        unpacked(tmp_path, (tmp_path / "linked.7z").read_bytes())


@pytest.mark.parametrize("pack", [zipped, sevenzipped])
def test_a_damaged_archive_is_named(tmp_path: Path, pack) -> None:
    data = bytearray(pack({"a": bytes(range(256)) * 8}))
    data[60] ^= 0xFF
    with pytest.raises(BrokenArchiveError, match=r"outer\.zip: a broken archive"):
        unpacked(tmp_path, bytes(data))
    with pytest.raises(BrokenArchiveError):
        unpacked(tmp_path, bytes(data[:50]))


def test_a_full_disk_is_seen_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100 << 20)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"is full: unpacking outer.zip takes 0.2 GB, 0.1 GB are"):
        unpacked(tmp_path, zipped({"a": bytes(200 << 20)}))
    assert not (tmp_path / "in").exists()


def test_a_file_never_grows_over_the_size_that_its_zip_tells(tmp_path: Path) -> None:
    size, said = (8 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")
    data = zipped({"bomb": bytes(8 << 20)})
    with pytest.raises(BrokenArchiveError, match="Bad CRC"):
        unpacked(tmp_path, data.replace(size, said))
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("bomb")) <= 100
