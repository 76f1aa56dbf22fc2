"""Pictures in class folders, without a CSV: written in one command, hostile names and all."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.base.cli import UserError
from pipeline.data.class_folders import class_folders, write_tables
from pipeline.data.inspection import image_files, propose

HOSTILE = ['a, "b"', "two\nlines", "<script>", "{label}", "=1+1", " né "]


def draw(folder: Path, *paths: str) -> None:
    random = np.random.default_rng(len(paths))
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / path)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["train/cat/1.jpg", "train/dog/2.jpg"], ["cat", "dog"]),
        (["cat/1.jpg", "dog/2.jpg"], ["cat", "dog"]),
        (["set/Train/cat/1.jpg", "set/val/dog/more/2.jpg"], ["cat", "dog"]),
        (["images/1.jpg", "images/2.jpg"], []),
        (["1.jpg"], []),
        ([], []),
    ],
)
def test_folders_name_labels(paths: list[str], labels: list[str]) -> None:
    assert list(class_folders({*paths, "test/x/1.jpg"})[0].values()) == labels
    assert class_folders({*paths, "a/Test/x.jpg"})[1] == ["a/Test/x.jpg"]


@pytest.mark.parametrize("test", ["test_stg1/2.jpg", "test1/2.jpg", "seg_test/seg_test/cat/2.jpg"])
@pytest.mark.parametrize("train", ["train", "seg_train/seg_train", "train-images"])
def test_folders_of_a_split_have_more_words(train: str, test: str) -> None:
    paths = {f"{train}/cat/1.jpg", f"{train}/dog_test/1.jpg", test}
    labels, tests = class_folders(paths)
    assert sorted(labels.values()) == ["cat", "dog_test"] and tests == [test]


def test_words_of_a_split_may_name_a_class() -> None:
    labels, tests = class_folders({"bird_test/1.jpg", "steam train/2.jpg", "cat/3.jpg"})
    assert list(labels.values()) == ["bird_test", "cat", "steam train"] and not tests


def test_one_command_from_folders_to_a_prepared_competition(
    space: Path, run: Callable[..., str], write: Callable[..., str]
) -> None:
    folder = space / "data" / "pets"
    draw(folder, *(f"train/{name}/{i}.jpg" for name in HOSTILE for i in range(2)))
    draw(folder, "test/1,2.jpg", "test/b.jpg", "lone.png", "train/<script>/._0.jpg")
    said = run("prepare", "--inspect", str(folder), expect=2)
    assert "only []; --from-folders writes them (12 pictures in 6 class folders" in said
    said = run("prepare", write(), "--from-folders", expect=2)
    assert "--from-folders goes with --inspect FOLDER" in said
    text = run("prepare", "--inspect", str(folder), "--from-folders")
    assert "# wrote train.csv, test.csv, sample_submission.csv: 12 pictures in 6 class" in text
    assert "2 below test/, 1 pictures of neither" in text
    assert yaml.safe_load(text) == {"id": "image", "label": "label"}
    train = pd.read_csv(folder / "train.csv", keep_default_na=False)
    assert sorted(set(train.label)) == sorted(HOSTILE)
    assert all(
        (folder / path).parent.name == y for path, y in zip(train.image, train.label, strict=True)
    )
    with (folder / "test.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["image"], ["test/1,2.jpg"], ["test/b.jpg"]]
    (space / "pets.yaml").write_text(text)
    assert "12 train + 2 test images, 6 classes" in run(
        "prepare", write(competition=str(space / "pets.yaml"))
    )
    with pytest.raises(UserError, match=r"train\.csv: is there already; move it away"):
        propose(folder, from_folders=True)


@pytest.mark.parametrize("asked", ["species", "cat,dog"])
def test_beside_a_sample_the_test_is_the_samples(asked: str, tmp_path: Path) -> None:
    draw(tmp_path, *(f"train/{y}/{i}.png" for y in ("cat", "dog") for i in range(3)), "test/9.png")
    sample = f"file,{asked}\n9.png,{'cat' if asked == 'species' else '0.5,0.5'}\n"
    (tmp_path / "sample_submission.csv").write_text(sample)
    text = propose(tmp_path, from_folders=True)
    assert "# wrote train.csv: 6 pictures in 2 class folders" in text
    assert (tmp_path / "sample_submission.csv").read_text() == sample
    assert not (tmp_path / "test.csv").exists() and text.count("# unsure") == 1
    found = yaml.safe_load(text)
    label = "species" if asked == "species" else "label"
    assert (found["id"], found.get("label")) == ("file", label)
    assert (found["test"], found["test_image"]) == ("sample_submission.csv", "test/{file}")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    draw(tmp_path, "one/1.jpg", "one/2.jpg")
    with pytest.raises(UserError, match="no two folders of pictures"):
        write_tables(tmp_path, image_files(tmp_path))
    with pytest.raises(UserError, match="not in UTF-8; rename it"):
        write_tables(tmp_path, {"a/1.jpg", "b/\udcff.jpg"})
    assert not list(tmp_path.glob("*.csv"))
