"""The competition's CSVs: text stays text, and each bad row is named by its line."""

from pathlib import Path

import pytest

from pipeline.parts.cli import UserError
from pipeline.parts.competition import Competition
from pipeline.parts.tables import class_order, read_rows


def rows(folder: Path, train: str, test: str = "image\nz.jpg\n", **changes: object):
    (folder / "train.csv").write_text(train)
    (folder / "test.csv").write_text(test)
    return read_rows(Competition(name="x", **changes), folder)


def test_labels_stay_text(tmp_path: Path) -> None:
    table = rows(
        tmp_path, 'image,label\na.jpg,01\nb.jpg,NA\nc.jpg,"Pepper,_bell (x)"\nd.jpg,None\n'
    )
    assert list(table.label) == ["01", "NA", "Pepper,_bell (x)", "None", ""]
    assert list(table.split) == ["train"] * 4 + ["test"]


def test_path_template_over_columns(tmp_path: Path) -> None:
    table = rows(
        tmp_path,
        "id,breed\n007,pug\n",
        "id\n008\n",
        id="id",
        label="breed",
        image="train/{breed}/{id}.jpg",
        test_image="test/{id}.jpg",
    )
    assert list(table.path) == ["train/pug/007.jpg", "test/008.jpg"]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("image,lable\na.jpg,x\n", "no column 'label'.*did you mean 'lable'"),
        ("image,label\na.jpg,x\nb.jpg,y\na.jpg,x\n", "line 4: id 'a.jpg' stands already in line 2"),
        ("image,label\na.jpg,\n", "line 2: empty label"),
        ("image,label\n,x\n", "line 2: empty id"),
        ("image,label\n../../etc/passwd,x\n", "line 2: path '../../etc/passwd' leads outside"),
        ("image,label\n/etc/passwd,x\n", "line 2: path '/etc/passwd' leads outside"),
        ("image,label\nz.jpg,x\n", "1 pictures stand in train and test, first z.jpg"),
    ],
)
def test_bad_rows(train: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        rows(tmp_path, train)


def test_all_bad_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        rows(tmp_path, "image,label\na.jpg,\n../b.jpg,x\na.jpg,x\n")
    assert [f"line {n}" in str(error.value) for n in (2, 3, 4)] == [True] * 3


def test_linked_picture_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
    assert len(rows(tmp_path / "data", "image,label\nimages/a.jpg,x\n")) == 2


def test_template_with_an_unknown_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wants column 'uid'"):
        rows(tmp_path, "image,label\na.jpg,x\n", image="{uid}.jpg")


def test_numbers_are_ordered_by_value() -> None:
    assert class_order({"10", "9", "-1"}) == ["-1", "9", "10"]
    assert class_order({"10", "9", "b"}) == ["10", "9", "b"]
