"""From a token to unpacked data, Kaggle's real client against a stand-in; every way to fail."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from kaggle_stub import KaggleStub
from test_archives import zipped

from pipeline.base import records
from pipeline.fetch import VERSION
from pipeline.kaggle.api import archives

PROJECT = Path(__file__).parents[2]
MIB = 1 << 20  # the client writes so much at a time
PICTURE = os.urandom(3 * MIB // 2)
FILES = {"train.csv": b"image,label\n", "images.zip": zipped({"images/1.jpg": PICTURE})}
Run = Callable[..., str]


@pytest.fixture
def leaves(space: Path, kaggle: KaggleStub) -> Path:
    """The folder into which classify-leaves is to come; the client waits for nothing."""
    kaggle.competitions["classify-leaves"] = FILES
    return space / "data" / "classify-leaves"


def test_downloads_unpacks_and_records_then_does_nothing(
    leaves: Path, kaggle: KaggleStub, run: Run
) -> None:
    left = leaves.with_name(".classify-leaves.fetching") / "unpacked"  # by a run that was killed
    left.mkdir(parents=True)
    (left / "half.jpg").touch()
    text = run("fetch", "classify-leaves")
    assert "2 files, 1.6 MB" in text and not (leaves / "half.jpg").exists()
    assert (leaves / "images" / "1.jpg").read_bytes() == PICTURE
    record = json.loads(leaves.with_name("classify-leaves.json").read_text())
    assert record["key"]["slug"] == "classify-leaves" and record["files"] == 2
    hidden = [path.name for path in leaves.parent.iterdir() if path.name.startswith(".")]
    assert hidden == []
    kaggle.calls.clear()
    assert "up to date" in run("fetch", "classify-leaves")
    assert kaggle.calls == []


def test_what_another_process_fetched_meanwhile_is_taken(
    leaves: Path, kaggle: KaggleStub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both downloaded into one folder, and one took the other's away."""

    @contextmanager
    def waited(folder: Path) -> Iterator[None]:
        leaves.mkdir()
        key = {"version": VERSION, "slug": "classify-leaves"}
        records.commit(leaves, key, 0.0, files=1, bytes=0)
        yield

    monkeypatch.setattr("pipeline.base.records.locked", waited)
    assert "1 files, 0.0 MB, up to date" in run("fetch", "classify-leaves")
    assert kaggle.calls == []


def test_a_folder_that_was_emptied_is_filled_again(
    leaves: Path, kaggle: KaggleStub, run: Run
) -> None:
    run("fetch", "classify-leaves")
    shutil.rmtree(leaves)
    leaves.mkdir()
    assert "up to date" not in run("fetch", "classify-leaves")
    assert (leaves / "images" / "1.jpg").read_bytes() == PICTURE


def test_any_slug_of_kaggle_without_a_yaml(leaves: Path, kaggle: KaggleStub, run: Run) -> None:
    kaggle.competitions["brand-new"] = FILES
    run("fetch", "brand-new")
    assert (leaves.parent / "brand-new" / "train.csv").is_file()


def test_a_slug_of_a_competition_of_another_name_lands_where_that_is_sought(
    leaves: Path, kaggle: KaggleStub, run: Run
) -> None:
    slug, folder = "cassava-leaf-disease-classification", leaves.parent / "cassava-leaf-disease"
    kaggle.competitions[slug] = FILES
    run("fetch", slug)
    assert (folder / "train.csv").is_file() and not (leaves.parent / slug).exists()
    assert "up to date" in run("fetch", "cassava-leaf-disease")


def test_a_cut_download_goes_on_where_it_was_cut(
    leaves: Path, kaggle: KaggleStub, run: Run
) -> None:
    kaggle.cut = MIB + 1000
    run("fetch", "classify-leaves")
    assert kaggle.calls[-2:] == ["GET 0", f"GET {MIB}"]
    assert (leaves / "images" / "1.jpg").is_file()


def test_the_next_run_goes_on_too(leaves: Path, kaggle: KaggleStub, run: Run) -> None:
    kaggle.cut, kaggle.lost = MIB + 500, True
    text = run("fetch", "classify-leaves", expect=2)
    assert "cannot reach Kaggle" in text and "goes on" in text
    assert not leaves.exists()
    kaggle.lost = False
    kaggle.calls.clear()
    run("fetch", "classify-leaves")
    assert f"GET {MIB}" in kaggle.calls
    assert (leaves / "images" / "1.jpg").is_file()


def test_a_broken_archive_is_fetched_again(leaves: Path, kaggle: KaggleStub, run: Run) -> None:
    kaggle.competitions["classify-leaves"] = {"train.zip": FILES["images.zip"][:2000]}
    text = run("fetch", "classify-leaves", expect=2)
    assert "it is deleted, the same command fetches it again" in text
    kaggle.competitions["classify-leaves"] = FILES
    run("fetch", "classify-leaves")


def test_each_failure_in_its_words(
    leaves: Path, kaggle: KaggleStub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run("fetch", "clasify-leaves", expect=2)
    assert "no competition 'clasify-leaves'; a slug is" in text
    assert "did you mean 'classify-leaves'" in text
    assert "no slug" in run("fetch", "demo", expect=2)
    kaggle.fail["DownloadDataFiles"] = (403, "You must accept this competition's rules")
    text = run("fetch", "classify-leaves", expect=2)
    assert "https://www.kaggle.com/competitions/classify-leaves/rules" in text
    kaggle.fail.clear()
    usage = shutil.disk_usage(leaves.parent)._replace(free=0)
    with monkeypatch.context() as full:
        full.setattr(archives.shutil, "disk_usage", lambda path: usage)
        text = run("fetch", "classify-leaves", expect=2)
    assert "is full: unpacking classify-leaves.zip takes" in text
    monkeypatch.setenv("KAGGLE_API_TOKEN", "old")
    assert "expired or revoked" in run("fetch", "classify-leaves", expect=2)
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert "no Kaggle token; make one" in run("fetch", "classify-leaves", expect=2)
    assert not leaves.exists()


def test_a_folder_of_the_users_own_is_left_alone(leaves: Path, kaggle: KaggleStub, run: Run):
    leaves.mkdir()
    (leaves / "mine").write_text("x")
    assert "use it as it is, or move it away" in run("fetch", "classify-leaves", expect=2)
    assert (leaves / "mine").read_text() == "x"


def test_an_experiment_fetches_only_what_is_missing(
    leaves: Path, kaggle: KaggleStub, run: Run, write: Callable[..., str]
) -> None:
    assert run("fetch", "--experiment", write()) == ""  # demo: here
    assert kaggle.calls == []
    experiment = write(competition="classify-leaves")
    assert "2 files" in run("fetch", "--experiment", experiment)
    kaggle.calls.clear()
    assert run("fetch", "--experiment", experiment) == ""
    assert kaggle.calls == []


def test_an_experiment_without_data_and_token_says_both(
    leaves: Path, run: Run, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    text = run("fetch", "--experiment", write(competition="classify-leaves"), expect=2)
    assert f"{leaves / 'train.csv'}: no such file; run python -m pipeline.fetch" in text
    assert "error: no Kaggle token; make one" in text


def test_run_sh_fetches_first(leaves: Path, kaggle: KaggleStub, space: Path) -> None:
    """The real script and the real client, each a process of its own."""
    stamp = hashlib.sha256((PROJECT / "requirements.txt").read_bytes()).hexdigest()[:16]
    venv = space / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / f"{stamp}.installed").touch()
    python = venv / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = pipeline.prepare ] && exit 3\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    experiment = space / "leaves.yaml"
    experiment.write_text(yaml.safe_dump({"competition": "classify-leaves"}))
    done = subprocess.run(
        [PROJECT / "run.sh", experiment],
        env={**os.environ, "VENV": str(venv)},
        capture_output=True,
        text=True,
    )
    assert "fetch     " in done.stdout and (leaves / "images" / "1.jpg").is_file(), done.stderr
    assert done.returncode == 3  # then came prepare
