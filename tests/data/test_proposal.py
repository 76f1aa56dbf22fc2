"""A competition's YAML from its files alone: right where they tell, in doubt where they do not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_competitions import COPIES, tiny_copy
from tiny_forms import FORMS, tiny_form

from pipeline.base import records
from pipeline.base.cli import UserError
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
    records.commit(space / "data" / "demo", {"version": 1}, 0.0)  # it was drawn, not fetched
    text = run("prepare", "--inspect", str(space / "data" / "demo"))
    assert yaml.safe_load(text) == {"id": "image", "label": "label"}
    assert "which experiment?" in run("prepare", expect=2)
    text = run("prepare", "--inspect", str(space / "nowhere"), expect=2)
    assert text == f"error: {space / 'nowhere'}: no such folder\n"
    text = run("prepare", "--inspect", str(space / "data"), expect=2)
    assert "no CSV named like train or labels" in text


def doubts(folder: Path, **files: str | None) -> str:
    for name, text in files.items():
        if text:
            (folder / f"{name}.csv").write_text(text)
    for picture in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (folder / picture).touch()
    return propose(folder)


SAMPLE = "image,label\nc.jpg,x\nd.jpg,x\n"
TRAIN = "image,label\na.jpg,x\nb.jpg,y\n"


@pytest.mark.parametrize(
    ("said", "files"),
    [
        ("image: {image} finds the pictures of 1 of", {"train": TRAIN.replace("b.jpg", "gone")}),
        ("image: {image} finds the pictures of 0 of", {"train": "image,label\nu,x\nv,y\n"}),
        ("there is ['train_old.csv']", {"train": TRAIN, "train_old": "image,label\na.jpg,x\n"}),
        ("positive: which of ['x', 'y']", {"train": TRAIN, "sample": SAMPLE.replace("x", "0.5")}),
        ("joined by ','?", {"train": TRAIN.replace("x", "\"['x', 'y']\"").replace(",y", ",['y']")}),
        ("joined by ' '?", {"train": TRAIN.replace("x", "['x' 'y']").replace(",y", ",['y']")}),
        ("joined by ','?", {"train": TRAIN.replace("x", '"x, y"')}),
        ("label holds fractions, is it", {"train": TRAIN.replace("x", "-1.5")}),
        (
            "asks for ['label'] beside 'image'",
            {"train": TRAIN.replace("label", "species"), "sample": SAMPLE.replace("x", "w")},
        ),
        ("no column 'image', it has ['file'", {"train": TRAIN.replace("image", "file")}),
        (
            "id: train has no column 'image', by which rows to answer are named: rename",
            {"train": TRAIN.replace("image", "file")},
        ),
        (
            "id: train has no column 'file', by which rows to answer are named: rename",
            {"train": TRAIN, "test": "file\nc.jpg\n", "sample": None},
        ),
        (
            "['p', 'q'] hold numbers: regression?",
            {"train": "image,p,q\na.jpg,1,1\nb.jpg,1,2\n", "sample": "image,p,q\nc.jpg,0,0\n"},
        ),
        (
            "no column 'image', it has ['file'",
            {
                "train": "file,x,y\na.jpg,1,0\nb.jpg,0,1\nd.jpg,0,1\n",
                "sample": "image,x,y\nc.jpg,0,0\n",
            },
        ),
        ("and ['x', 'y'] is what", {"train": TRAIN, "sample": "image,x,z\nc.jpg,0,0\n"}),
        ("as it stands: {} line 3: empty label", {"train": TRAIN.replace("y", "")}),
    ],
)
def test_what_the_files_leave_open_is_said(said: str, files: dict, tmp_path: Path) -> None:
    text = doubts(tmp_path, **{"sample": SAMPLE, **files})
    said = said.replace("{}", str(tmp_path / "train.csv"))
    assert any(said in line for line in text.splitlines() if line.startswith("# unsure: ")), text


def test_numbers_of_a_sample_are_no_ids(tmp_path: Path) -> None:
    """Where its ids have another name than in train, though no two of the numbers are equal."""
    sample = "image,age\nc.jpg,0.1\nd.jpg,0.2\n"
    text = doubts(tmp_path, train="file,age\na.jpg,1.5\nb.jpg,2.5\nx,3\n", sample=sample)
    found = yaml.safe_load(text)
    assert (found["id"], found["label"], found["task"]) == ("image", "age", "regression")
    assert "# unsure: id: train has no column 'image'" in text


def test_no_pictures(tmp_path: Path) -> None:
    """As in digit-recognizer, whose pictures are numbers in the CSV, or where they are DICOM."""
    (tmp_path / "train.csv").write_text("label,pixel0\n1,0\n")
    (tmp_path / "1.dcm").touch()
    with pytest.raises(
        UserError, match=r"no picture \(\.jpg.* in an archive, in DICOM, or numbers"
    ):
        propose(tmp_path)


@pytest.mark.parametrize("test", ["image\nc.jpg\n", "row,image\n0,c.jpg\n1,d.jpg\n"])
def test_no_sample(test: str, tmp_path: Path) -> None:
    text = doubts(tmp_path, train=TRAIN, test=test)
    assert "# unsure: no sample submission" in text
    found = yaml.safe_load(text)
    assert (found["id"], found["label"]) == ("image", "label")


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


def test_a_csv_that_cannot_be_read_matters_only_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_bytes("é".encode("latin-1"))
    assert yaml.safe_load(doubts(tmp_path, train=TRAIN, sample=SAMPLE))["label"] == "label"
    (tmp_path / "train.csv").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.csv line 1: not text in UTF-8"):
        doubts(tmp_path)


def test_a_group_column_is_found_by_its_name_and_its_values(tmp_path: Path) -> None:
    head, rows = "image,site,view_site,study,patient_id,label", range(12)
    lines = [f"a{i}.jpg,s{i % 3},v{i % 6},u{i},p{i // 2},{'xy'[i % 2]}" for i in rows]
    train = "\n".join([head, *lines])
    test = "image,patient_id\nc.jpg,p1\nd.jpg,q\n"
    text = doubts(tmp_path, train=train, sample=SAMPLE, test=test)
    assert yaml.safe_load(text)["group"] == "patient_id", "each study is its own row"
    assert "patient_id stay in one fold? The test shares 1 of its 6 values" in text
    assert "# unsure: group: or site, of 3 values?" in text
    assert "# unsure: group: or view_site, of 6 values?" in text
    (tmp_path / "train.csv").write_text(train.replace("patient_id", "age"))
    text = propose(tmp_path)
    assert yaml.safe_load(text)["group"] == "view_site", "3 sites are too few to be cut into folds"


@pytest.mark.parametrize("name", FORMS)
def test_each_task_is_recognised(name: str, tmp_path: Path) -> None:
    wanted = tiny_form(name, tmp_path / name)
    text = propose(tmp_path / name)
    proposed = yaml.safe_load(text)
    metric = {"joined": "macro_f1"}.get(name)  # no file tells it from others
    assert proposed.pop("metric") in (metric, Competition(**wanted).metric)
    wanted |= {} if "picture" in wanted else {"group": "patient"}
    assert proposed == {name: wanted[name] for name in wanted if name != "metric"}
    unsure = {"joined": "joined by ' '?", "ordinal": "is diagnosis in order"}
    unsure["studies"] = "has a patient several"
    assert unsure.get(name, "patient stay in one fold?") in text


def test_a_train_csv_of_another_name_is_known_by_its_pictures(tmp_path: Path) -> None:
    """As State Farm's, whose drivers must not be cut: --from-folders would leave them out."""
    rows = [f"p{i // 2},c{i % 2},img_{i}.jpg" for i in range(12)]
    for row in rows:
        _, label, name = row.split(",")
        (tmp_path / "imgs/train" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "imgs/train" / label / name).touch()
    (tmp_path / "imgs/test").mkdir()
    (tmp_path / "imgs/test/img_20.jpg").touch()
    (tmp_path / "notes.csv").write_bytes("é,img_1.jpg\n".encode("latin-1"))
    (tmp_path / "driver_imgs_list.csv").write_text("\n".join(["subject,classname,img", *rows]))
    (tmp_path / "sample_submission.csv").write_text("img,c0,c1\nimg_20.jpg,0.5,0.5\n")
    text = propose(tmp_path)
    found = yaml.safe_load(text)
    assert found["train"] == "driver_imgs_list.csv" and found["group"] == "subject"
    assert found["image"] == "imgs/train/{classname}/{img}" and found["label"] == "classname"
    assert "# unsure: train: driver_imgs_list.csv? No CSV is named so" in text


def test_the_label_is_the_column_of_the_samples_answers(tmp_path: Path) -> None:
    """As happywhale's: of species and individual_id the second is asked for, five times a row."""
    rows = [f"{x}.jpg,s{i},n{i % 2}" for i, x in enumerate("abab")][:2]
    train = "\n".join(["image,species,individual_id", *rows])
    text = doubts(tmp_path, train=train, sample="image,predictions\nc.jpg,n0 n1\nd.jpg,n1 new\n")
    found = yaml.safe_load(text)
    assert (found["label"], found["k"]) == ("individual_id", 2) and "group" not in found
    with pytest.raises(ValueError, match="group: individual_id is the label"):
        Competition(**found, group="individual_id")


def test_of_csvs_of_like_names_those_with_the_samples_columns(tmp_path: Path) -> None:
    boxes = "image,x,y\na.jpg,100000,200000\nb.jpg,100000,200000\n"
    files = {"train_boxes": boxes, "train_labels": TRAIN, "sample": SAMPLE}
    text = doubts(tmp_path, **files, test_boxes=boxes.replace("image", "file"))
    found = Competition(**yaml.safe_load(text))
    assert (found.train, found.test) == ("train_labels.csv", "sample.csv")
    text = doubts(tmp_path, train=TRAIN, train_old=TRAIN + "c.jpg,x\n")
    assert Competition(**yaml.safe_load(text)).train == "train.csv"
