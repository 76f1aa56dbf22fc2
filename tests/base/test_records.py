"""Records: no record means not done, and a stopped write leaves the old output whole."""

import copy
import json
import time
from dataclasses import asdict, make_dataclass
from pathlib import Path

import pytest

from pipeline.base import records
from pipeline.base.cli import UserError


def make(path: Path, text: str, key: dict) -> None:
    with records.writing(path) as tmp:
        tmp.write_text(text)
    records.commit(path, key, time.monotonic())


def test_output_is_current_only_with_an_equal_key(tmp_path: Path) -> None:
    out, key = tmp_path / "x.csv", {"lr": 0.1, "size": (1, 2)}
    assert not records.is_current(out, key)
    make(out, "a", key)
    assert records.is_current(out, key), "a tuple must equal the list that JSON makes of it"
    assert not records.is_current(out, {**key, "lr": 0.2})
    out.unlink()
    assert not records.is_current(out, key), "a record without its output is nothing"


def test_replacing_an_output_retracts_its_record_first(tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    make(out, "a", {"n": 1})
    with records.writing(out) as tmp:
        tmp.write_text("b")
    assert not records.is_current(out, {"n": 1}), "killed here, the old record must not vouch"


def test_failed_write_leaves_the_old_output_and_no_litter(tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    make(out, "old", {"n": 1})
    with pytest.raises(RuntimeError), records.writing(out) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert out.read_text() == "old"
    assert records.is_current(out, {"n": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.csv.json"]


def test_records_are_utf_8_in_every_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("io.text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")
    make(tmp_path / "x", "a", {"classes": ["枫", "Ahorn, spät"]})
    assert records.load(tmp_path / "x")["key"] == {"classes": ["枫", "Ahorn, spät"]}


def test_differences_name_nested_leaves() -> None:
    old = {"train": {"lr": 0.001, "epochs": 5}, "seed": 0}
    new = {"train": {"lr": 0.0005, "epochs": 5}, "seed": 0, "extra": True}
    assert records.differences(old, new) == ["train.lr: 0.001 → 0.0005", "extra: null → true"]


def test_refusal_names_the_change(tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    make(out, "a", {"lr": 0.1})
    records.refuse_if_stale(out, {"lr": 0.1}, "")
    with pytest.raises(UserError, match=r"lr: 0.1 → 0.2; take another name"):
        records.refuse_if_stale(out, {"lr": 0.2}, "take another name")


def test_a_part_of_a_record_is_copied_as_any_dict(tmp_path: Path) -> None:
    make(tmp_path / "x", "x", {"weights": {"a": 0.5}})
    part = records.load(tmp_path / "x")["key"]["weights"]
    made = make_dataclass("Row", ["weights"])(part)
    assert asdict(made) == {"weights": {"a": 0.5}} == copy.deepcopy(vars(made))


def test_record_holds_provenance(tmp_path: Path) -> None:
    make(tmp_path / "x", "a", {})
    record = json.loads((tmp_path / "x.json").read_text())
    assert {"key", "seconds", "git", "versions", "date"} <= set(record)
    assert "torch" in record["versions"]
