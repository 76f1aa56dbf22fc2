"""Prepare: packs what it decodes, names all that it cannot, and loses nothing."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from torch._utils import ExceptionWrapper

from pipeline.base.cli import explain
from pipeline.base.config import load_experiment
from pipeline.data.images import BadImageError, decode, shaped
from pipeline.data.prepared import load_prepared
from pipeline.inference.predictions import Predictions


def test_packed_pixels_are_the_decoded_ones(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    experiment = write()
    said = run("prepare", experiment)
    assert "60 train + 12 test images, 4 classes" in said
    prepared = load_prepared(load_experiment(experiment))
    assert prepared.pixels.shape == (72, 40, 40, 3)
    for row in (0, 41, 71):
        path = space / "data/demo" / prepared.rows.path[row]
        assert (prepared.pixels[row] == shaped(decode(path).rgb, 40, "stretch")).all()
    truth = pd.read_csv(space / "data/demo/train.csv")
    assert list(prepared.rows.label[:60]) == list(truth.label)
    assert prepared.record["audit"]["twins"] == 4
    assert prepared.record["audit"]["conflicts"] == 2
    assert prepared.record["audit"]["test_with_train_twin"] == 1
    assert "up to date" in run("prepare", experiment)


def test_a_replaced_picture_is_noticed(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    experiment = write()
    run("prepare", experiment)
    before = load_prepared(load_experiment(experiment)).record["digests"]
    images = space / "data/demo/images"
    (images / "5.jpg").write_bytes((images / "7.jpg").read_bytes())
    assert "pictures are not those of last time" in run("prepare", experiment)
    after = load_prepared(load_experiment(experiment)).record["digests"]
    assert after["train"] != before["train"]
    assert after["test"] == before["test"], "a changed training picture is no new test set"


def invert(space: Path, csv: str) -> None:
    """Other pictures under the same names, as of another download."""
    for name in pd.read_csv(space / "data/demo" / csv).image:
        picture = Image.open(space / "data/demo" / name).convert("RGB")
        ImageOps.invert(picture).save(space / "data/demo" / name)


def test_swapped_pictures_reach_all_later_stages(
    run: Callable[..., str], trained: str, space: Path
) -> None:
    run("predict", trained)
    oof, test = (space / "runs/tiny/fold0" / f"{part}.none.npz" for part in ("oof", "test"))
    before = {path: Predictions.load(path).prob for path in (oof, test)}
    invert(space, "test.csv")
    run("prepare", trained)
    assert "up to date" in run("train", trained), "the training pictures are the same"
    run("predict", trained)
    assert (Predictions.load(oof).prob == before[oof]).all()
    assert (Predictions.load(test).prob != before[test]).any(axis=1).all()
    invert(space, "train.csv")
    run("prepare", trained)
    assert "up to date" in run("folds", trained), "twins are still twins"
    assert "was trained with other settings: pixels: " in run("train", trained, expect=2)


def test_all_bad_pictures_are_named_and_the_old_pack_stays(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    experiment = write()
    run("prepare", experiment)
    old = np.array(load_prepared(load_experiment(experiment)).pixels)
    images = space / "data/demo/images"
    (images / "3.jpg").unlink()
    (images / "8.jpg").write_bytes(b"")
    whole = (images / "70.jpg").read_bytes()
    (images / "70.jpg").write_bytes(whole[: len(whole) // 2])
    said = run("prepare", experiment, expect=2)
    assert "3.jpg: no such file" in said
    assert "8.jpg: empty file" in said
    assert "70.jpg: broken" in said
    assert "3 of 72 pictures cannot be used" in said
    assert (np.array(load_prepared(load_experiment(experiment)).pixels) == old).all()
    assert not list(space.glob("runs/_data/**/*.tmp"))


def test_over_the_budget_files_are_read_instead(
    run: Callable[..., str], write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = write()
    run("prepare", packed)
    expected = np.array(load_prepared(load_experiment(packed)).pixels)
    unpacked = write("unpacked", runtime={"pack_gb": 0}, model={"size": 32, "resize": "pad"})
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.reading.shaped", None)  # for nobody
        assert "decoded at each epoch" in run("prepare", unpacked)
    pixels = load_prepared(load_experiment(unpacked)).pixels
    assert not isinstance(pixels, np.ndarray)
    assert (pixels[17] == expected[17]).all(), "square pictures: pad and stretch agree"
    roomier = write("unpacked", model={"size": 32, "resize": "pad"})
    assert "pixels fit into runtime.pack_gb now" in run("prepare", roomier)
    assert load_prepared(load_experiment(roomier)).record["packed"]
    assert "up to date" in run(
        "prepare", write("unpacked", runtime={"pack_gb": 0}, model={"size": 32, "resize": "pad"})
    )


def test_a_table_that_was_cut_short_is_made_anew(
    run: Callable[..., str], write: Callable[..., str]
) -> None:
    run("prepare", experiment := write(runtime={"pack_gb": 0}))
    table = load_prepared(load_experiment(experiment)).folder / "images.csv"
    whole = table.read_text()
    table.write_text(whole.rpartition(",")[0])
    assert "python -m pipeline.prepare" in run("folds", experiment, expect=2)
    run("prepare", experiment)
    assert table.read_text() == whole
    run("folds", experiment)


def test_pixels_that_another_process_makes_anew_meanwhile_are_kept(
    run: Callable[..., str], write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("prepare", experiment := write())
    pixels = load_prepared(load_experiment(experiment)).folder / "pixels.npy"
    whole = pixels.rename(pixels.with_suffix(".whole"))

    @contextmanager
    def waited(folder: Path) -> Iterator[None]:
        whole.rename(pixels)
        yield

    monkeypatch.setattr("pipeline.prepare.locked", waited, raising=False)
    said = run("prepare", experiment)
    assert "up to date" in said and "read again" not in said


def test_files_replaced_after_prepare_are_not_trained_on(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    experiment = split(write(runtime={"pack_gb": 0}))
    picture = space / "data/demo/images/5.jpg"
    ImageOps.invert(Image.open(picture).convert("RGB")).save(picture)
    said = run("train", experiment, "--fold", "0", expect=2)
    assert "files changed after `prepare`: run that stage again" in said
    run("prepare", experiment)
    run("train", experiment, "--fold", "0")


def test_an_error_of_a_loaders_worker_is_told_without_its_traceback() -> None:
    try:
        raise BadImageError("a.jpg: no such file\nb.jpg: empty")
    except BadImageError:
        packed = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(BadImageError) as error:
        packed.reraise()
    assert "Traceback" in str(error.value)
    assert explain(error.value).splitlines() == ["a.jpg: no such file", "b.jpg: empty"]


def test_what_was_mended_is_said_once(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    images = space / "data/demo/images"
    grey = Image.open(images / "3.jpg").convert("L")
    grey.save(images / "3.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("4.jpg", "5.jpg"):
        Image.open(images / name).save(images / name, exif=exif)
    dark = np.asarray(grey).astype(np.uint16) << 4
    Image.fromarray(dark).save(images / "6.jpg", format="png")
    said = run("prepare", experiment := write())
    told = "made so: 2 rotated, 1 grey, 1 over 8 bit almost black"
    assert [told in line for line in said.splitlines()].count(True) == 1
    assert "warning: 1 pictures are almost black, no pixel over 15 of 255; 12 bits" in said
    assert "made so" not in run("prepare", experiment)


def test_labels_of_several_lines_are_trained_on(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    train = space / "data/demo/train.csv"
    table = pd.read_csv(train)
    first, second = sorted(set(table.label))[:2]
    table.label = table.label.replace({first: "a\rb", second: 'c\n"d", e'})
    table.to_csv(train, index=False, quoting=csv.QUOTE_ALL)
    experiment = split(write())
    assert {"a\rb", 'c\n"d", e'} < set(load_prepared(load_experiment(experiment)).rows.label)
    run("train", experiment, "--fold", "0")


def test_what_nothing_can_come_of_stops_before_any_picture_is_read(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    sample = space / "data/demo/sample_submission.csv"
    pd.read_csv(sample)[["image"]].assign(answer="?").to_csv(sample, index=False)
    assert "asks for ['answer'] beside 'image'" in run("prepare", write(), expect=2)
    (space / "data/demo/test.csv").write_text("image\n")
    assert "test.csv: no rows below the column names" in run("prepare", write(), expect=2)
    assert not (space / "runs").exists()


def test_a_backbone_that_cannot_take_the_size_is_refused_before_a_picture_is_read(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    model = {"backbone": "efficientformer_l1", "size": 100}
    said = run("prepare", write(model=model), expect=2)
    assert "model.size: efficientformer_l1 takes no pictures of 100 px" in said
    assert said.count("\n") == 1 and not list((space / "runs").rglob("*.npy"))


def test_kappa_says_the_order_of_its_classes(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    (space / "graded.yaml").write_text("metric: quadratic_kappa\n")
    (space / "data/demo").rename(space / "data/graded")
    experiment = write(competition=str(space / "graded.yaml"))
    assert "quadratic_kappa takes the classes in the order of the alphabet: " in run(
        "prepare", experiment
    )


@pytest.mark.parametrize("missing", ["train.csv", "test.csv"])
def test_missing_csv(
    missing: str, run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    (space / "data/demo" / missing).unlink()
    assert f"{missing}: no such file" in run("prepare", write(), expect=2)


def test_a_training_table_of_another_name_is_told(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    (space / "data/demo/train.csv").rename(space / "data/demo/train_labels.csv")
    said = run("prepare", write(), expect=2)
    assert "let `train:` in demo.yaml name the right one of ['sample_submission.csv'" in said
    assert "'train_labels.csv'" in said


def test_data_option_points_elsewhere(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    experiment = write()
    run("prepare", experiment)
    moved = (space / "data/demo").rename(space / "elsewhere")
    assert "train.csv: no such file; point with --data" in run("prepare", experiment, expect=2)
    run("prepare", experiment, "--data", str(moved))
    assert load_prepared(load_experiment(experiment)).data == moved
    assert "up to date" in run("prepare", experiment, "--data", str(moved))
