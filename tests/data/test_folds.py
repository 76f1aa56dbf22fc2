"""Folds: nothing leaks, nothing is lost, and the order of rows means nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.config import Folds
from pipeline.data.splits import check_folds, folds_digest, twin_groups
from pipeline.folds import make_folds


def labelled(n: int = 400, classes: int = 11, twins: int = 60) -> pd.DataFrame:
    """A long tail of classes; the first `twins` images are pairs of pixel-identical ones."""
    rng = np.random.default_rng(3)
    label = np.minimum(rng.geometric(0.25, n), classes)
    ids = np.array([f"{i:04d}" for i in rng.permutation(n)])
    group = ids.copy()
    group[1:twins:2] = group[0:twins:2]
    label[1 : twins - 8 : 2] = label[0 : twins - 8 : 2]  # the last four pairs contradict
    return pd.DataFrame({"id": ids, "label": label.astype(str), "group": group})


def test_split_is_fair_and_leaks_nothing() -> None:
    table = make_folds(labelled(), Folds(n=5))
    assert table.image.is_unique
    assert len(table) == 400
    assert table.groupby("group").fold.nunique().max() == 1
    sizes = table.fold.value_counts()
    assert sizes.max() - sizes.min() <= 0.02 * 400 / 5 + 1
    per_class = table.groupby(["label", "fold"]).size().unstack(fill_value=0)
    assert (per_class.max(axis=1) - per_class.min(axis=1)).max() <= 2


def test_order_of_rows_means_nothing_and_the_seed_does() -> None:
    train = labelled()
    table = make_folds(train, Folds(n=5))
    again = make_folds(train.sample(frac=1, random_state=1), Folds(n=5))
    pd.testing.assert_frame_equal(table, again)
    assert folds_digest(table) == folds_digest(again.sample(frac=1, random_state=2))
    other = make_folds(train, Folds(n=5, seed=43))
    assert (other.fold != table.fold).mean() > 0.5


def test_class_with_one_group_is_always_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    train = labelled()
    train.loc[len(train)] = ["zz", "rare", "zz"]
    table = make_folds(train, Folds(n=5)).set_index("image")
    assert table.fold["zz"] == -1
    assert (table.fold == -1).sum() == 1
    assert "rare (1)" in capsys.readouterr().err


def test_of_two_classes_each_fold_holds_out_both() -> None:
    """Patients of one class: two of three folds have no positive, and no AUC."""
    label = pd.Series(["1", "0", "0", "0"] * 6)
    ids = pd.Series([f"{i:02d}" for i in range(24)])
    two = ids.where(label == "0", "p" + (ids.astype(int) // 12).astype(str))
    train = pd.DataFrame({"id": ids, "label": label, "group": two})
    form = Competition(task="binary").form
    make_folds(train, Folds(n=2), form)
    with pytest.raises(UserError, match=r"no '1', which 2 groups have: .*; set folds.n: 2 or less"):
        make_folds(train, Folds(n=3), form)
    with pytest.raises(UserError, match=r"which 1 groups have: .*; mend the groups, or take folds"):
        make_folds(train.assign(group=two.str.replace("p1", "p0")), Folds(n=3), form)
    make_folds(train, Folds(n=3))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (3, "3 groups cannot make 5 folds: set folds.n: 3 or less"),
        (1, "0 groups .*: take folds: all"),
    ],
)
def test_few_groups_make_few_folds(groups: int, said: str) -> None:
    ids = [f"{i:02d}" for i in range(24)]
    group = [f"g{i % groups}" for i in range(24)]
    train = pd.DataFrame({"id": ids, "label": ["x"] * 12 + ["y"] * 12, "group": group})
    with pytest.raises(UserError, match=said):
        make_folds(train, Folds(n=5))


def test_class_with_fewer_images_than_folds_is_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = labelled()
    for name in ("y1", "y2"):
        train.loc[len(train)] = [name, "scarce", name]
    table = make_folds(train, Folds(n=5))
    assert table[table.label == "scarce"].fold.nunique() == 2, "each model sees the other one"
    assert "scarce (2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "a"}, "image 'a' stands twice"),
        ({"group": "g2"}, "group 'g2' straddles 2 folds"),
        ({"fold": 3}, r"folds \[0, 1, 3\], expected 0 to 1"),
        ({"label": "x"}, "class 'y' has all its images in fold 1"),
    ],
)
def test_a_split_that_would_mislead_is_refused(change: dict, said: str) -> None:
    table = pd.DataFrame(
        {
            "image": ["a", "b", "c", "d"],
            "label": ["x", "y", "x", "y"],
            "group": ["g0", "g1", "g2", "g3"],
            "fold": [0, 0, 1, 1],
        }
    )
    check_folds(table, 2)
    for column, value in change.items():
        table.loc[1, column] = value
    with pytest.raises(UserError, match=said):
        check_folds(table, 2)


def test_where_every_class_is_smaller_than_the_folds_it_says_what_to_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = pd.DataFrame(
        {"id": [str(i) for i in range(36)], "label": [f"c{i % 12}" for i in range(36)]}
    )
    with pytest.raises(UserError, match=r"no class has 5 images, .* set folds.n: 3 or less"):
        make_folds(train.assign(group=train.id), Folds(n=5))
    assert "and 2 more. Some folds" in capsys.readouterr().err


def test_twins_share_a_fold_and_a_changed_split_is_refused(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    experiment = write()
    split(experiment)
    path = space / "folds" / "demo-2-seed42.csv"
    before = path.read_bytes()
    table = pd.read_csv(path, dtype=str)
    assert table.groupby("group").size().max() >= 2, "the drawn competition has twins"
    assert table.groupby("group").fold.nunique().max() == 1
    assert "up to date" in run("folds", experiment)

    train = pd.read_csv(space / "data/demo/train.csv")
    train.iloc[:-1].to_csv(space / "data/demo/train.csv", index=False)
    run("prepare", experiment)
    assert "set folds.name to a new name" in run("folds", experiment, expect=2)
    assert path.read_bytes() == before
    run("folds", write("named", folds={"name": "second"}))
    assert len(pd.read_csv(space / "folds" / "second.csv")) == len(table) - 1


def test_rows_in_another_order_give_the_same_file(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    experiment = write()
    split(experiment)
    path = space / "folds" / "demo-2-seed42.csv"
    before = path.read_bytes()
    train = pd.read_csv(space / "data/demo/train.csv")
    train.sample(frac=1, random_state=5).to_csv(space / "data/demo/train.csv", index=False)
    run("prepare", experiment)
    assert "up to date" in run("folds", experiment)
    path.unlink()
    run("folds", experiment)
    assert path.read_bytes() == before


def test_a_split_that_another_process_records_meanwhile_is_kept(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both found none, and the second drew its own over the one that a person had made."""
    experiment, path = split(write()), space / "folds" / "demo-2-seed42.csv"
    table = pd.read_csv(path, dtype=str)
    table.assign(fold=table.fold.replace({"0": "1", "1": "0"})).to_csv(path, index=False)
    assert "taken as it is" in run("folds", experiment)
    kept = [file.rename(file.with_suffix(".kept")) for file in (path, records.record_path(path))]
    mine = kept[0].read_bytes()

    @contextmanager
    def waited(folder: Path) -> Iterator[None]:
        kept[0].rename(path)
        kept[1].rename(records.record_path(path))
        yield

    monkeypatch.setattr("pipeline.folds.locked", waited)
    assert "up to date" in run("folds", experiment)
    assert path.read_bytes() == mine


def test_group_column_keeps_a_plant_in_one_fold(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    """Several photographs of one plant: the column and the pixel twins join."""
    path = space / "data/demo/train.csv"
    train = pd.read_csv(path)
    train["plant"] = train.groupby("label").cumcount() // 3
    train["plant"] = train.label + train.plant.astype(str)
    train.to_csv(path, index=False)
    (space / "plants.yaml").write_text("group: plant\n")
    (space / "data/demo").rename(space / "data/plants")
    experiment = write("plants-tiny", competition=str(space / "plants.yaml"))
    split(experiment)
    table = pd.read_csv(space / "folds/plants-2-seed42.csv").set_index("image")
    table["plant"] = train.set_index("image").plant
    assert table.groupby("plant").fold.nunique().max() == 1
    assert table.groupby("group").fold.nunique().max() == 1
    assert table.groupby("group").plant.nunique().max() > 1, "twins tie plants together"


def test_twin_groups_join_across_pixels_and_column() -> None:
    ids = ["d", "b", "c", "a", "e"]
    digests = ["1", "1", "2", "3", "3"]
    groups = ["", "x", "x", "", ""]
    # d~b by pixels, b~c by column, a~e by pixels; each named by its smallest id
    assert twin_groups(digests, groups, ids) == ["b", "b", "b", "a", "a"]
    order = [4, 2, 0, 3, 1]
    again = twin_groups(*[[values[i] for i in order] for values in (digests, groups, ids)])
    assert again == ["a", "b", "b", "a", "b"]
