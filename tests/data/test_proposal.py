"""A competition's YAML from its files alone: right where they tell, in doubt where they do not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_competitions import COPIES, tiny_copy

from pipeline.base.competition import Competition, load_competition
from pipeline.data.inspection import propose

FROM_FILES = {"id", "label", "train", "test", "sample", "image", "test_image", "submission"}


@pytest.mark.parametrize("name", COPIES)
def test_the_files_of_each_competition_tell_its_yaml(name: str, tmp_path: Path) -> None:
    text = propose(tiny_copy(name, tmp_path / name))
    proposed = Competition(**yaml.safe_load(text)).model_dump(include=FROM_FILES)
    assert proposed == load_competition(name).model_dump(include=FROM_FILES)
    doubts = [line for line in text.splitlines() if "unsure" in line]
    assert len(doubts) == 1 and "metric" in doubts[0]


def test_the_command_prints_it(space: Path, run: Callable[..., str]) -> None:
    text = run("prepare", "--inspect", str(space / "data" / "demo"))
    assert yaml.safe_load(text) == {"id": "image", "label": "label"}
    assert "which experiment?" in run("prepare", expect=2)
    text = run("prepare", "--inspect", str(space / "nowhere"), expect=2)
    assert text == f"error: {space / 'nowhere'}: no such folder\n"
    text = run("prepare", "--inspect", str(space / "data"), expect=2)
    assert "no CSV named like train or labels" in text


def doubts(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    for picture in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (folder / picture).touch()
    return propose(folder)


SAMPLE = "image,label\nc.jpg,x\nd.jpg,x\n"
TRAIN = "image,label\na.jpg,x\nb.jpg,y\n"


@pytest.mark.parametrize(
    ("said", "files"),
    [
        ("image: {image} finds 1 of 2 rows", {"train": TRAIN.replace("b.jpg", "gone.jpg")}),
        ("image: no picture is named like", {"train": "image,label\nu,x\nv,y\n"}),
        ("there is ['train_old.csv']", {"train": TRAIN, "train_old": "image,label\na.jpg,x\n"}),
        ("sample holds fractions", {"train": TRAIN, "sample": SAMPLE.replace("x", "0.5")}),
        ("label: the sample names no column", {"train": TRAIN.replace("label", "species")}),
        ("id: train.csv has no column of", {"train": TRAIN.replace("image", "file")}),
        ("label: label has 4 values, is it", {"train": "image,label\na,1.5\nb,2\nc,3\nd,4\n"}),
        (
            "label: 1 rows of train.csv have not one class",
            {"train": "image,p,q\na.jpg,1,1\nb.jpg,1,0\n", "sample": "image,p,q\nc.jpg,0,0\n"},
        ),
        (
            "label: label holds 1 of the sample's 2 columns",
            {"train": TRAIN, "sample": "image,x,z\nc.jpg,0,0\n"},
        ),
        ("as it stands: {} line 3: empty label", {"train": TRAIN.replace("y", "")}),
    ],
)
def test_what_the_files_leave_open_is_said(said: str, files: dict, tmp_path: Path) -> None:
    text = doubts(tmp_path, **{"sample": SAMPLE, **files})
    said = said.replace("{}", str(tmp_path / "train.csv"))
    assert any(said in line for line in text.splitlines() if line.startswith("# unsure: ")), text


def test_no_sample(tmp_path: Path) -> None:
    text = doubts(tmp_path, train=TRAIN, test="image\nc.jpg\n")
    assert "# unsure: no sample submission" in text
    assert yaml.safe_load(text)["label"] == "label"


def test_a_linked_folder_of_pictures_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in "abc":
        (tmp_path / "elsewhere" / f"{name}.jpg").touch()
    (tmp_path / "data/images").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/back").symlink_to("../data")  # a circle
    (tmp_path / "data/train.csv").write_text("image,label\na,x\nb,y\n")
    (tmp_path / "data/sample.csv").write_text("image,label\nc,x\n")
    assert yaml.safe_load(propose(tmp_path / "data"))["image"] == "images/{image}.jpg"


def test_a_csv_beside_that_cannot_be_read_is_a_doubt(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_bytes("é".encode("latin-1"))
    text = doubts(tmp_path, train=TRAIN, sample=SAMPLE)
    assert f"# unsure: {tmp_path}/notes.csv line 1: not text in UTF-8" in text
    assert yaml.safe_load(text)["label"] == "label"
