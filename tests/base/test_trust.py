"""Nothing is wrong in silence: two at a time, damaged files, edited files, upgrades, odd ends."""

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pytest

from pipeline.base import records
from pipeline.base.cli import explain, guarded, say
from pipeline.base.config import Train, load_experiment
from pipeline.base.forms import class_order
from pipeline.base.locks import locked
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, load_folds, split_rows
from pipeline.inference.predictions import Predictions
from pipeline.training import keys

Run = Callable[..., str]
Write = Callable[..., str]
Split = Callable[[str], str]
REPO = Path(__file__).parents[2]


def start(*command: str, **options: object) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command], **{**pipes, **options}, cwd=REPO)


# ---- two at a time


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Both had one temporary name: the second died, or the first vouched for the other's bytes."""
    code = (
        "import sys, time; from pathlib import Path; from pipeline.base import records\n"
        "def work():\n"
        "    with records.writing(out) as tmp:\n"
        "        tmp.write_text(sys.argv[2] * 9); time.sleep(0.5)\n"
        "    return {'by': sys.argv[2]}\n"
        "out = Path(sys.argv[1]); print(records.make(out, {'n': 1}, work))"
    )
    both = [start("-c", code, str(tmp_path / "x"), name) for name in "AB"]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    made = [text.endswith("True\n") for text in said]
    assert sorted(made) == [False, True], "the second finds it done"
    waited = said[made.index(False)]
    assert f"process {both[made.index(True)].pid} of" in waited
    assert "works there; waiting for it" in waited
    assert (tmp_path / "x").read_text() == records.load(tmp_path / "x")["by"] * 9


def test_the_lock_and_the_litter_of_a_killed_process_are_free(tmp_path: Path) -> None:
    out = tmp_path / "x"
    code = (
        "import os, sys; from pathlib import Path; from pipeline.base import records\n"
        "from pipeline.base.locks import locked\n"
        "out = Path(sys.argv[1])\n"
        "with locked(out.parent), records.writing(out) as tmp:\n"
        "    tmp.touch(); os.kill(os.getpid(), 9)"
    )
    assert start("-c", code, str(out)).wait() == -9
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    with locked(tmp_path, wait=False), records.writing(out) as tmp:
        tmp.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "x"]


def test_force_waits_for_the_process_that_trains(
    run: Run, write: Write, split: Split, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It deleted last.pt under a running train, resumed from what that wrote, and lied."""
    experiment, model = split(write(train={"epochs": 1})), "runs/tiny/fold0/model.safetensors"
    run("train", experiment, "--fold", "0")
    write(train={"epochs": 1, "lr": 0.05})
    lock, flock = ExitStack(), fcntl.flock
    lock.enter_context(locked(space / "runs/tiny/fold0"))  # two opens of one process conflict too

    def wait(file: IO[str], how: int) -> None:
        if how == fcntl.LOCK_EX:
            assert records.load(space / model)["key"]["train"]["lr"] == 0.001
            lock.close()
        flock(file, how)

    monkeypatch.setattr("fcntl.flock", wait)
    said = run("train", experiment, "--fold", "0", "--force")
    assert "works there; waiting for it" in said
    assert records.load(space / model)["key"]["train"]["lr"] == 0.05


# ---- damaged and edited files


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 64
    path.write_bytes(data)


def test_a_flipped_byte_of_pixels_is_not_trained_on(run: Run, write: Write, split: Split) -> None:
    experiment = split(write())
    pixels = load_prepared(load_experiment(experiment)).folder / "pixels.npy"
    whole = pixels.read_bytes()
    for change in (damage, lambda path: path.write_bytes(whole[:-9]), Path.unlink):
        change(pixels)
        assert str(pixels) in run("train", experiment, "--fold", "0", expect=2)
        assert "all pictures are read again" in run("prepare", experiment)
        assert pixels.read_bytes() == whole
    assert "up to date" in run("prepare", experiment)


def test_a_damaged_model_is_named_by_train_and_kept(run: Run, trained: str, space: Path) -> None:
    model = space / "runs/tiny/fold0/model.safetensors"
    damage(model)
    bad = model.read_bytes()
    assert f"{model}: not the weights" in run("train", trained, expect=2)
    assert model.read_bytes() == bad, "it may be all that is left of hours"
    run("train", trained, "--fold", "0", "--force")
    assert "up to date" in run("train", trained)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: p.__setitem__((1, 0), np.nan), "the row of 'b' holds no probabilities"),
        (lambda p: p.__setitem__((1, 1), np.inf), "the row of 'b' holds no probabilities"),
        (lambda p: p.__setitem__(2, [-0.5, 1.5]), "the row of 'c' holds no probabilities"),
        (lambda p: p.__setitem__(0, [0.4, 0.4]), "the row of 'a' holds no probabilities"),
    ],
)
def test_predictions_are_probabilities(tmp_path: Path, change: Callable, told: str) -> None:
    prob, path = np.full((3, 2), 0.5, np.float32), tmp_path / "oof.npz"
    Predictions(["a", "b", "c"], ["x", "y"], prob).save(path)
    assert Predictions.load(path).prob.tolist() == prob.tolist()
    change(prob)
    Predictions(["a", "b", "c"], ["x", "y"], prob).save(path)
    with pytest.raises(records.UserError, match=f"{path}: {told}; delete it"):
        Predictions.load(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"image": ["a", "a"], "classes": ["x"], "prob": np.ones((2, 1))},
        {"image": ["a", "b"], "classes": ["x"], "prob": np.ones((3, 1))},
        {"image": ["a", "b"], "classes": ["x"], "prob": np.ones(2)},
        {"image": ["a"], "classes": ["x"], "prob": [["1"]]},
        {"image": ["a"], "classes": ["x"]},
        {"image": np.array(3), "classes": ["x"], "prob": np.ones((1, 1))},
        {"image": np.array([{}]), "classes": ["x"], "prob": np.ones((1, 1))},
    ],
)
def test_a_foreign_archive_is_no_prediction_file(tmp_path: Path, arrays: dict) -> None:
    path = tmp_path / "oof.npz"
    np.savez(path, **arrays)
    with pytest.raises(records.UserError, match=f"{path}: .*; delete it and make it anew"):
        Predictions.load(path)


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04half", np.arange(3).tobytes()])
def test_a_file_that_is_no_archive_is_no_prediction_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "oof.npz").write_bytes(data)
    with pytest.raises(records.UserError, match="delete it and make it anew"):
        Predictions.load(tmp_path / "oof.npz")


DAMAGED = [b"{}", b"[]", b"null", b'"x"', b"7", b'{"key": "x"}', b"{", b"", b"\xff{}", b"[" * 9999]


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_record_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(records.UserError, match=f"^{tmp_path}/x.json: .*delete") as told:
        records.load(tmp_path / "x")
    assert "\n" not in str(told.value)


def test_a_record_that_lacks_something_says_what(tmp_path: Path) -> None:
    """One without a digest of its own, as records of earlier versions are."""
    (tmp_path / "x").touch()
    (tmp_path / "x.json").write_text('{"key": {"model": {}}}')
    record = records.load(tmp_path / "x")
    with pytest.raises(records.UserError, match="'reads' is missing; delete the file"):
        record["key"]["model"]["reads"]


def test_a_damaged_record_is_one_line_in_every_stage(run: Run, trained: str, space: Path) -> None:
    run("predict", trained)
    run("ensemble", trained)
    run("submit", "tiny")
    for output, stage in {
        "runs/_data/demo/40-stretch/images.csv": "prepare",
        "folds/demo-2-seed42.csv": "folds",
        "runs/tiny/fold0/model.safetensors": "train",
        "runs/tiny/fold1/oof.none.npz": "predict",
        "runs/tiny/test.npz": "ensemble",
        "submissions/tiny.csv": "submit",
    }.items():
        path = records.record_path(space / output)
        good = path.read_bytes()
        path.write_bytes(b"{}")
        said = run(stage, "tiny" if stage == "submit" else trained, expect=2)
        assert said.startswith(f"error: {path}: damaged, or edited by hand; delete it to make ")
        assert said.count("\n") == 1
        path.write_bytes(good)


def test_an_edited_record_is_not_believed(run: Run, trained: str, space: Path) -> None:
    path = space / "runs/tiny/fold1/model.safetensors.json"
    path.write_text(path.read_text().replace('"valid_score": ', '"valid_score": 1'))
    assert f"{path}: damaged, or edited by hand; delete it" in run("train", trained, expect=2)


def test_a_damaged_last_epoch_says_what_to_delete(
    run: Run, write: Write, split: Split, space: Path
) -> None:
    import torch

    experiment = split(write())
    run("train", experiment, "--fold", "0", "--hours", "0", expect=75)
    last = space / "runs/tiny/fold0/last.pt"
    torch.save({"epoch": 1, "log": []}, last)
    for data in (last.read_bytes(), b"", b"text", b"PK\x03\x04half"):
        last.write_bytes(data)
        said = run("train", experiment, "--fold", "0", expect=2)
        assert f"{last}: damaged" in said
        assert "delete it to train the fold from its beginning" in said


def test_too_little_memory_is_no_damaged_file(
    run: Run,
    write: Write,
    split: Split,
    space: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told to delete last.pt, a person would lose the hours that it holds."""

    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    experiment = split(write())
    run("train", experiment, "--fold", "0", "--hours", "0", expect=75)
    monkeypatch.setattr("torch.load", no_memory)
    said = run("train", experiment, "--fold", "0", expect=2)
    assert "error: not enough memory" in said
    assert "delete" not in said
    Predictions(["a"], ["x"], np.ones((1, 1), np.float32)).save(tmp_path / "oof.npz")
    monkeypatch.setattr("numpy.load", no_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        Predictions.load(tmp_path / "oof.npz")


def test_what_last_pt_was_made_with_must_be_known(
    run: Run, write: Write, split: Split, space: Path
) -> None:
    experiment = split(write())
    run("train", experiment, "--fold", "0", "--hours", "0", expect=75)
    (space / "runs/tiny/fold0/started.json").unlink()
    write(train={"lr": 0.5})
    said = run("train", experiment, "--fold", "0", expect=2)
    assert "started.json, which tells them, is missing" in said


def test_a_submission_edited_by_hand_is_kept(
    run: Run, write: Write, split: Split, space: Path, blended: Callable[..., str]
) -> None:
    blended(split(write()))
    run("submit", "tiny")
    path = space / "submissions/tiny.csv"
    edited = path.read_bytes() + b"images/60.jpg,acer_rubrum\n"
    path.write_bytes(edited)
    assert "was edited by hand: kept" in run("submit", "tiny")
    made = records.load(blend := space / "runs/tiny/test.npz")
    records.commit(blend, made["key"], 0.0, metric="top_5", scores=made["scores"])
    assert "was edited by hand: kept" in run("submit", "tiny"), "only its scores are others"
    (space / "data/demo/solution.csv").write_text("image,label\n")
    assert "was edited by hand: kept" in run("submit", "tiny"), "it tells no answers"
    sample = space / "data/demo/sample_submission.csv"
    pd.read_csv(sample)[::-1].to_csv(sample, index=False)
    assert "edited by hand, and what it was" in run("submit", "tiny", expect=2)
    assert path.read_bytes() == edited


def test_a_solution_that_cannot_score_does_not_unmake_a_submission(
    run: Run, write: Write, split: Split, space: Path, blended: Callable[..., str]
) -> None:
    blended(split(write()))
    assert "hidden test" in run("submit", "tiny")
    solution = space / "data/demo/solution.csv"
    rows = pd.read_csv(solution)
    rows.loc[0, "label"] = "zzz"
    rows.to_csv(solution, index=False)
    said = run("submit", "tiny")
    assert f"no hidden score: {solution}" in said
    assert "hidden" not in records.load(space / "submissions/tiny.csv")


# ---- folds


def test_a_split_of_ones_own_is_recorded_and_never_replaced(
    run: Run, write: Write, space: Path
) -> None:
    experiment = write(folds={"n": 2, "name": "mine"})
    run("prepare", experiment)
    run("folds", write("other"))
    ours = pd.read_csv(space / "folds/demo-2-seed42.csv", dtype=str)
    mine = ours.assign(fold=(1 - ours.fold.astype(int)).astype(str))
    path = space / "folds/mine.csv"
    mine.to_csv(path, index=False)
    before = path.read_bytes()
    assert "written or edited by hand, taken as it is" in run("folds", experiment)
    assert "up to date" in run("folds", experiment)
    assert path.read_bytes() == before
    assert records.load(path)["key"]["own"] is True
    run("train", experiment, "--fold", "0")
    mine.loc[mine.group == mine.group[3], "fold"] = str(1 - int(mine.fold[3]))
    mine.to_csv(path, index=False)
    assert "taken as it is" in run("folds", experiment), "an edit is noticed"
    assert "folds: " in run("train", experiment, "--fold", "0", expect=2)


def test_a_split_of_ones_own_where_none_can_be_drawn(run: Run, write: Write, space: Path) -> None:
    run("prepare", write())
    run("folds", write())
    table = pd.read_csv(space / "folds/demo-2-seed42.csv", dtype=str)
    experiment = write("many", folds={"n": 40})
    assert "no class has 40 images, one a fold" in run("folds", experiment, expect=2)
    table = table.assign(fold=pd.factorize(table.group)[0] % 40)
    table.to_csv(space / "folds/demo-40-seed42.csv", index=False)
    assert "written or edited by hand, taken as it is" in run("folds", experiment)
    assert "up to date" in run("folds", experiment)


def test_a_split_from_a_file(run: Run, write: Write, split: Split, space: Path) -> None:
    experiment = split(write())
    host = pd.read_csv(space / "folds/demo-2-seed42.csv", dtype=str)[["image", "fold"]]
    host["fold"] = (1 - host.fold.astype(int)).astype(str)
    host = host.sample(frac=1, random_state=1)
    host.to_csv(space / "host.csv", index=False)
    said = run("folds", experiment, "--from", str(space / "host.csv"), expect=2)
    assert "demo-2-seed42.csv: stands already; set folds.name" in said
    named = write("named", folds={"name": "host"})
    run("folds", named, "--from", str(space / "host.csv"))
    table = load_folds(load_experiment(named)).set_index("image")
    assert table.fold.astype(str).to_dict() == host.set_index("image").fold.to_dict()
    assert "up to date" in run("folds", named)
    twins = table.index[table.duplicated("group", keep=False)]
    host.loc[host.image == twins[0], "fold"] = str(1 - table.fold[twins[0]])
    host.to_csv(space / "host.csv", index=False)
    leaky = write("leaky", folds={"name": "leaky"})
    said = run("folds", leaky, "--from", str(space / "host.csv"), expect=2)
    assert "straddles 2 folds: it would leak" in said
    assert not (space / "folds/leaky.csv").exists()
    host[1:].to_csv(space / "host.csv", index=False)
    said = run("folds", leaky, "--from", str(space / "host.csv"), expect=2)
    assert f"host.csv: no fold for 1 images, first {host.image.iloc[0]!r}" in said


def test_a_fold_that_was_cut_short_is_still_ours(
    run: Run, write: Write, split: Split, space: Path
) -> None:
    experiment = split(write())
    path = space / "folds/demo-2-seed42.csv"
    records.record_path(path).unlink()  # killed between the file and its record
    run("folds", experiment)
    assert records.load(path)["key"]["seed"] == 42


def test_a_label_mended_after_folds_is_not_overlooked(
    run: Run, write: Write, split: Split, space: Path
) -> None:
    experiment = split(write())
    train = pd.read_csv(space / "data/demo/train.csv")
    old, new = train.label[0], next(label for label in train.label if label != train.label[0])
    train.loc[0, "label"] = new
    train.to_csv(space / "data/demo/train.csv", index=False)
    run("prepare", experiment)
    said = run("train", experiment, "--fold", "0", expect=2)
    assert (
        f"1 labels are not those of train.csv: {train.image[0]!r} is {old!r} there and {new!r} in"
        in said
    )


def test_a_split_that_leaks_by_the_groups_of_today_is_refused(write: Write, split: Split) -> None:
    """It was cut by those of then; by now there are twins, or a column of patients."""
    settings = load_experiment(split(write()))
    rows, table = load_prepared(settings).rows, load_folds(settings)
    split_rows(rows, table, classes_of(table), 0)
    ids = [table.image[table.fold == fold].iloc[0] for fold in (0, 1)]
    trained_on = table.assign(fold=table.fold.where(table.image != ids[1], -1))
    for column, what in {"hash": "pixels", "group": "group", "study": "id"}.items():
        leaky = rows.assign(study=rows.id)
        leaky.loc[rows.id.isin(ids), column] = "one"
        said = f"images with the {what} of '.*' straddle 2 folds: it would leak; set folds.name"
        for each in (table, trained_on):
            with pytest.raises(records.UserError, match=said):
                split_rows(leaky, each, classes_of(table), 0)


@pytest.mark.parametrize("fold", ["0.5", "inf", "", "x", "-2", "1e3"])
def test_a_fold_is_a_whole_number(
    run: Run, write: Write, split: Split, space: Path, fold: str
) -> None:
    experiment = split(write())
    path = space / "folds/demo-2-seed42.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[4, "fold"] = fold
    table.to_csv(path, index=False)
    for stage in ("folds", "train"):
        said = run(stage, experiment, expect=2)
        assert f"{path}: image {table.image[4]!r} has fold {fold!r}, expected" in said


def test_labels_equal_as_numbers_have_one_order() -> None:
    """The order of a set follows the hash seed, which every process draws anew."""
    labels = ["1", "01", "001", "-0", "0", "١"]
    assert class_order(set(labels)) == ["-0", "0", "001", "01", "1", "١"]
    code = "from pipeline.base.forms import class_order; print(class_order(set('{}'.split())))"
    orders = {
        subprocess.run(
            [sys.executable, "-c", code.format(" ".join(labels))],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            cwd=REPO,
        ).stdout
        for seed in range(3)
    }
    assert len(orders) == 1


# ---- upgrades


def test_a_run_made_before_a_setting_existed_is_still_up_to_date(
    run: Run, trained: str, space: Path
) -> None:
    path = records.record_path(space / "runs/tiny/fold0/model.safetensors")
    record = json.loads(path.read_text())
    for section, name in {"train": "ema", "model": "depthwise", "mix": "cutmix"}.items():
        del record["key"][section][name]
    for fact in ("digest", "stat", records.CHECK):
        del record[fact]
    path.write_text(json.dumps(record))
    assert "up to date" in run("train", trained)
    del record["key"]["train"]["lr"]  # not its default, .001, but 7e-5
    path.write_text(json.dumps(record))
    assert "train.lr: 7e-05 → 0.001" in run("train", trained, "--fold", "0", expect=2)


def test_keys_of_earlier_versions_mean_the_same() -> None:
    """Keys of shipped experiments as these commits wrote them; today's may hold more."""
    shipped = [REPO / "tests" / "keys" / f"{commit}.json" for commit in ("49bffca", "7f37f13")]
    old = {name: key for path in shipped for name, key in json.loads(path.read_text()).items()}
    for name, key in old.items():
        today = load_experiment(name).key()
        changes = keys.key_changes({**key, "teacher": {}, "names": None}, today)
        since = ["model.test_scale: 1.0 → 1.125", "model.kernel: false → true"]
        since = since[today["train"]["epochs"] == 0 :]  # an untrained model has one size
        assert changes == since, f"{name}: what recipes have since"
    changed = {**old["demo"], "train": {**old["demo"]["train"], "lr": 0.5}}
    today = load_experiment("demo").key()
    assert f"train.lr: 0.5 → {Train().lr}" in keys.key_changes(changed, today)
    taught = {**old["demo"], "teacher": {"oof1": "ab"}}
    taught["train"] = {**taught["train"], "distill": "other"}
    said = keys.key_changes(taught, today)[2:]
    assert said == ['train.distill: "other" → null', 'teacher: {"oof1": "ab"} → null'], "it was on"


# ---- how a stage ends


def test_a_label_that_the_terminals_encoding_lacks_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    guarded(lambda: say("folds", "class 枫"))()
    assert terminal.buffer.getvalue().endswith(b"class ?\n")


def test_sigterm_is_as_polite_as_ctrl_c(write: Write, split: Split, space: Path) -> None:
    """It reaches the launcher alone, whose folds must end in order all the same."""
    runtime = {"processes": 2, "device": "cpu"}  # whose launcher need not import torch
    experiment = split(write(train={"epochs": 500}, runtime=runtime))
    training = start("-m", "pipeline.train", experiment, start_new_session=True)
    lasts = [space / f"runs/tiny/fold{k}/last.pt" for k in (0, 1)]
    while not all(path.exists() for path in lasts):
        time.sleep(0.05)
        assert training.poll() is None, training.stdout.read()
    training.terminate()
    said = training.communicate()[0]
    assert training.returncode == 143
    assert "Traceback" not in said
    assert said.count("stopped; the same command goes on") == 3, "two folds and their launcher"
    assert not list(space.glob("runs/**/*.tmp"))


def test_a_signal_while_a_checkpoint_is_written_is_no_error_of_torch() -> None:
    """PyTorch's writer ends with an error of its own: "unexpected pos 1460224 vs 1460120"."""
    stage = (
        '"""A stage."""\nimport os, signal, torch\nfrom pipeline.base.cli import run_stage\n'
        "class File:\n"
        "    def write(self, data):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return len(data)\n"
        "def main() -> None:\n"
        '    torch.save({"x": torch.zeros(10**6)}, File())\n'
        "run_stage(main)\n"
    )
    stopped = start("-c", stage)
    said = stopped.communicate()[0]
    assert (stopped.returncode, said) == (143, "\nstopped; the same command goes on where it was\n")


@pytest.mark.parametrize(
    ("sent", "code", "last"), [(signal.SIGINT, 130, "typer"), (signal.SIGTERM, 143, "torch._C")]
)
def test_a_stage_that_still_imports_is_stopped_with_one_line(
    write: Write, sent: int, code: int, last: str
) -> None:
    """At first, and within torch, which an exception there would abort with a page of C++."""
    stage = start("-X", "importtime", "-m", "pipeline.prepare", write())
    assert any(last in line for line in stage.stdout)
    stage.send_signal(sent)
    said = stage.communicate()[0]
    assert "Traceback" not in said
    assert "stopped; the same command goes on" in said
    assert stage.returncode == code


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_one_line(write: Write, split: Split, space: Path) -> None:
    experiment = split(write())
    full = space / "runs/tiny"
    full.mkdir(parents=True)
    train = f"{sys.executable} -m pipeline.train {experiment} --fold 0"
    command = f"mount -t tmpfs -o size=1m tmpfs {full} && exec {train}"
    said = subprocess.run(
        ["unshare", "-m", "bash", "-c", command], capture_output=True, text=True, cwd=REPO
    )
    if "unshare" in said.stderr or "mount:" in said.stderr:
        pytest.skip("no mounts here")
    assert said.returncode == 2, said.stderr
    assert said.stderr.endswith("error: the disk is full; free some space, then the same command\n")


def test_a_place_that_cannot_be_written_is_one_line(
    run: Run, write: Write, split: Split, space: Path
) -> None:
    experiment = split(write())
    (space / "runs" / "tiny").touch()
    assert f"{space}/runs/tiny/fold0: a file lies where a folder should be" in run(
        "train", experiment, "--fold", "0", expect=2
    )
    (space / "runs" / "tiny").unlink()
    (space / "folds" / "demo-2-seed42.csv").unlink()
    (space / "folds" / "demo-2-seed42.csv").mkdir()
    assert "demo-2-seed42.csv: " in run("folds", experiment, expect=2)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/x"),
            "/runs/x: Permission denied",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/runs"), "/runs: Read-only file system"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "a" * 9),
            "aaaaaaaaa: File name too long",
        ),
        (OSError(errno.EDQUOT, "Quota"), "the disk is full"),
        (RuntimeError("Error: No space left on device (os error 28)"), "the disk is full"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "lower train.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower train.batch_size"),
    ],
)
def test_errors_of_the_machine_are_one_line(error: Exception, told: str) -> None:
    assert told in explain(error)
    assert "\n" not in explain(error)


def test_defects_of_the_program_keep_their_traceback() -> None:
    assert explain(ValueError("x")) is None
    assert explain(ConnectionResetError(errno.ECONNRESET, "reset")) is None


def test_answers_to_replaced_pictures_are_not_blended(run: Run, trained: str, space: Path) -> None:
    run("predict", trained)
    run("ensemble", trained)
    test = pd.read_csv(space / "data/demo/test.csv").image
    (space / "data/demo" / test[0]).write_bytes((space / "data/demo" / test[1]).read_bytes())
    run("prepare", trained)
    said = run("ensemble", trained, expect=2)
    assert (
        "test.none.npz: the test pictures have changed since; run python -m pipeline.predict"
        in said
    )


def test_a_disk_without_locks_is_told_of_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path):
        assert "no locks there (No locks available): run one at a time" in capsys.readouterr().err


def test_committed_splits_are_those_of_their_records() -> None:
    splits = sorted((REPO / "folds").glob("*.csv"))
    assert splits
    for path in splits:
        record = records.load(path)
        assert record["digest"] == records.file_digest(path), path
