"""Inputs are found in the old and the new form of mounts; a message shows what is there."""

from pathlib import Path

import pytest

from pipeline.kaggle.notebook.mounts import find_input


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAGGLE_INPUT_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("competition", "competitions/leaves"),
        ("competition", "leaves"),
        ("competition", "somewhere/else/leaves-of-2027"),
        ("dataset", "datasets/me/leaves"),
        ("dataset", "leaves"),
        ("dataset", "datasets/me/leaves/versions/2"),
    ],
)
@pytest.mark.parametrize("marker", ["sample.csv", "csv/sample.csv"])
def test_every_form(mounted: Path, kind: str, place: str, marker: str) -> None:
    (mounted / place / marker).parent.mkdir(parents=True)
    (mounted / place / marker).write_text("")
    assert find_input(kind, "leaves", marker) == mounted / place


def test_the_named_folder_comes_before_one_that_only_looks_alike(mounted: Path) -> None:
    for place in ("another", "leaves"):
        (mounted / place).mkdir()
        (mounted / place / "manifest.json").write_text("")
    assert find_input("dataset", "leaves", "manifest.json") == mounted / "leaves"


def test_the_folder_of_that_name_comes_before_another_marker(mounted: Path) -> None:
    for place, name in (("another", "a.csv"), ("leaves", "a.csv.zip")):
        (mounted / place).mkdir()
        (mounted / place / name).touch()
    assert find_input("competition", "leaves", "a.csv", "a.csv.zip") == mounted / "leaves"


def test_nothing_found_shows_what_is_there(mounted: Path) -> None:
    (mounted / "datasets" / "me" / "other").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"no dataset 'leaves' with a m\.json or m .*datasets/me/other"
    ):
        find_input("dataset", "leaves", "m.json", "m")
