"""The competition's CSVs: text stays text, and each bad row is named by its line."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.csv_files import read_csv, read_lines, write_csv
from pipeline.base.forms import class_order
from pipeline.data.tables import read_rows, refuse_futile


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


TWO = "image,label\na.jpg,x\nb.jpg,y\n"


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("image,label,label\na.jpg,x,y\n", "two columns are named 'label'; rename one"),
        ("image,label\na.jpg,   \n", "line 2: empty label"),
        (
            "image,label\na.jpg,maple\nb.jpg,maple \n",
            "line 3: label 'maple ' looks like 'maple' of",
        ),
        ("image,label\na.jpg,é\nb.jpg,e\u0301\n", "line 3: label .* looks like 'é' of line 2"),
        ("image,label\n", "train.csv: no rows below the column names"),
        ("", "train.csv: empty, a line of column names is expected"),
        ("image;label\na.jpg;x\n", "no column 'image'; is the file separated by ';'\\? save it"),
        ("image\tlabel\na.jpg\tx\n", r"is the file separated by '\\t'\? save it with commas"),
        ("Image,LABEL\na.jpg,x\n", "no column 'image', it has .* did you mean 'Image'"),
        ("image,label\na.jpg,x,z\nb.jpg,y,z\n", "line 2: 3 values, the header names 2 columns"),
        ("image,label\na.jpg\n", "line 2: 1 values, the header names 2 columns"),
        (
            'image,label\na.jpg,"x\nb.jpg,y\n',
            "train.csv line 2: unexpected end of data; is a quote",
        ),
        ('image,label\n\n\na.jpg,"x\ny"\n\nb.jpg,\n', "line 7: empty label"),
        ("image,label\r\rimages/1,\r", "line 3: empty label"),
        ("image,label\na.jpg,x\nb.jpg,a\0b\n", "train.csv line 3: not text in UTF-8; save it as"),
    ],
)
def test_bad_files(train: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as error:
        rows(tmp_path, train)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_other_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes("image,label\na.jpg,é\n".encode(encoding))
    said = r"train.csv line [12]: not text in UTF-8; save it as UTF-8"
    with pytest.raises(UserError, match=said):
        read_csv(tmp_path / "train.csv", ["image"])


def test_a_folder_is_no_csv(tmp_path: Path) -> None:
    (tmp_path / "test.csv").mkdir()
    with pytest.raises(UserError, match=r"test\.csv: a folder, no CSV file"):
        read_csv(tmp_path / "test.csv", [])


def test_long_values_and_many_problems_are_cut(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    with pytest.raises(UserError) as error:
        rows(tmp_path, f"image,label\n../{long},x\n" + "a.jpg,x\n" * 12_345)
    lines = str(error.value).splitlines()
    assert lines[-1] == "... and 12,325 more"
    assert max(map(len, lines)) < 400


def test_every_text_comes_back_from_a_csv(tmp_path: Path) -> None:
    texts = [
        "a\rb",
        "\r",
        "c\r\nd",
        "e\nf",
        'q"x',
        '"',
        " lead ",
        "x,y",
        "\x1a",
        "NA",
        "é\u2028",
        "",
    ]
    table = pd.DataFrame({"a": texts, "b\r": texts[::-1]})
    write_csv(table, tmp_path / "t.csv")
    read = read_csv(tmp_path / "t.csv", [])
    assert list(read) == list(table)
    assert read.to_numpy().tolist() == table.to_numpy().tolist()


def test_lines_of_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n1,2\n\n3,"x\n\ny"\n   \n4,5\n')
    table, lines = read_lines(tmp_path / "t.csv", ["b"])
    assert lines == [2, 4, 8]
    assert list(table.b) == ["2", "x\n\ny", "5"]


def futile(folder: Path, train: str, sample: str, **changes: object) -> str:
    table = rows(folder, train, **changes)
    (folder / "sample_submission.csv").write_text(sample)
    with pytest.raises(UserError) as error:
        refuse_futile(Competition(name="x", **changes), folder, table)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_no_submission_could_answer_is_told_at_once(tmp_path: Path) -> None:
    refuse_futile(Competition(name="x"), tmp_path, rows(tmp_path, TWO))  # no sample yet
    (tmp_path / "sample_submission.csv").write_text("image,label\nz.jpg,x\n")
    refuse_futile(Competition(name="x"), tmp_path, rows(tmp_path, TWO))
    share = {"submission": "probability", "label": "label"}
    said = futile(
        tmp_path, "image,label\na.jpg,0\nb.jpg,1\n", "image,has_cactus\nz.jpg,0.5\n", **share
    )
    assert "asks for ['has_cactus'] beside 'image', and ['0', '1'] is what can be answered" in said
    assert "let `sample:` in the competition's YAML name it" in said
    said = futile(tmp_path, TWO, "Id,label\nz.jpg,x\n")
    assert "no column 'image', it has ['Id', 'label'], which Kaggle wants; rename the" in said
    assert "in test.csv and train.csv to the sample's, and set id: to that" in said
    with pytest.raises(UserError, match=r"of ids in train\.csv to the sample's"):
        rows(tmp_path, TWO, "Id,label\nz.jpg,x\n", sample="test.csv")
    assert "save it with commas" in futile(tmp_path, TWO, "image;label\nz.jpg;x\n")
    assert "asks for ['answer']" in futile(tmp_path, TWO, "image,answer\nz.jpg,w v\n")
    said = futile(tmp_path, TWO, "image,label\nz.jpg,x\nq.jpg,x\n")
    assert "1 ids differ from those of test.csv, first 'q.jpg', which only the sample has" in said
    said = futile(tmp_path, TWO, "image,label\nz.jpg,x\nz.jpg,x\n")
    assert "sample_submission.csv: id 'z.jpg' stands twice" in said
    said = futile(tmp_path, "image,label\na.jpg,x\nb.jpg,x\n", "image,label\nz.jpg,x\n")
    assert "all rows are labelled 'x': there is nothing to tell apart" in said


@pytest.mark.parametrize(
    ("rules", "answer"),
    [({}, "y"), ({"k": 2}, "y new"), ({"task": "multi-label", "separator": "|"}, "new|x")],
)
def test_a_sample_may_give_its_one_answer_another_name(
    rules: dict, answer: str, tmp_path: Path
) -> None:
    """As happywhale does: individual_id, of which predictions are asked."""
    table = rows(tmp_path, TWO + f"c.jpg,{'x|y' if 'task' in rules else 'x'}\n", **rules)
    (tmp_path / "sample_submission.csv").write_text(f"image,predictions\nz.jpg,{answer}\n")
    refuse_futile(Competition(name="x", **rules), tmp_path, table)


def test_a_column_whose_name_holds_that_of_another_is_no_joined_label(tmp_path: Path) -> None:
    rules = {"task": "multi-label", "submission": "probability", "label": ["edema", "edema severe"]}
    table = rows(tmp_path, "image,edema,edema severe\na.jpg,1,0\nb.jpg,0,1\n", **rules)
    refuse_futile(Competition(name="x", **rules), tmp_path, table)


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
