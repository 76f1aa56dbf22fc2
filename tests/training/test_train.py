"""Training: resumes bit for bit, refuses to mix settings, leaves a model that explains itself."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from test_graph import NECK

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Extra, Train, load_experiment
from pipeline.base.runs import model_path
from pipeline.data.loader import EpochBatches
from pipeline.data.splits import folds_digest, load_folds
from pipeline.model.freeze import training_norms
from pipeline.train import tell_recipe
from pipeline.training import checkpoint
from pipeline.training.discriminant import Fitted
from pipeline.training.head_end import seconds_of_end
from pipeline.training.head_init import settle_batchnorm
from pipeline.training.keys import first_weights_digest
from pipeline.training.log import training_lost
from pipeline.training.optim import make_ema, make_schedule
from pipeline.training.trainer import Trainer

pytestmark = pytest.mark.precision
HARD = {  # everything that draws random numbers or carries state from step to step
    "augment": [{"RandomResizedCrop": {"scale": [0.5, 1.0]}}, "SquareSymmetry"],
    "mix": {"mixup": 0.4, "cutmix": 1.0, "prob": 0.8, "off_epochs": 1},
    "model": {
        "features": "blocks",
        "head_init": "lda",
        "drop_rate": 0.2,
        "drop_path_rate": 0.1,
        "freeze": "layer2",
        "freeze_epochs": 1,
        "kernel": True,
        "test_scale": 1.25,
    },
    "train": {
        "epochs": 3,
        "ema": 0.3,
        "clip_grad": 1.0,
        "label_smoothing": 0.1,
        "accumulate": 3,  # of 4 batches: the second step of an epoch has one
        "sampler": "balanced",
        "class_weights": "inverse",
        "conflicts": "soft",
        "refit": True,
    },
}


def weights(space: Path, name: str = "tiny", fold: int = 0) -> dict[str, torch.Tensor]:
    return load_file(space / "runs" / name / f"fold{fold}" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_killed_at_any_moment_it_ends_in_the_same_weights(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    whole, killed = write("whole", **HARD), write("killed", **HARD)
    split(whole)
    run("train", whole, "--fold", "0")
    command = [sys.executable, "-m", "pipeline.train", killed, "--fold", "0"]
    folder = space / "runs" / "killed" / "fold0"
    kill_when(command, lambda: (folder / "last.pt").exists())
    assert not (folder / "model.safetensors").exists()
    assert "goes on after epoch" in run("train", killed, "--fold", "0")
    assert same(weights(space, "whole"), weights(space, "killed"))
    log = pd.read_csv(folder / "log.csv")
    assert list(log.epoch) == [0, 1, 2, 3]
    whole_log = pd.read_csv(space / "runs" / "whole" / "fold0" / "log.csv")
    pd.testing.assert_series_equal(log.train_loss, whole_log.train_loss, rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        "log.csv",
        "model.safetensors",
        "model.safetensors.json",
    ]


def kill_when(command: list[str], ready: Callable[[], bool]) -> None:
    """Start a real process and SIGKILL it at the first moment that `ready` says yes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_every_epoch_is_a_resume_point(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after each epoch in turn, also between the last epoch and the model file."""
    other = {"train": HARD["train"] | {"optimizer": "lamb", "grad_checkpointing": True}}
    names = ("whole", "stopped", "limited")
    whole, stopped, limited = (write(name, **HARD | other) for name in names)
    split(whole)
    run("train", whole, "--fold", "0")
    for epoch in (1, 2):
        said = run("train", limited, "--fold", "0", "--hours", "0", expect=75)
        assert f"stops after epoch {epoch}" in said
    last = space / "runs/limited/fold0/last.pt"
    state = torch.load(last, weights_only=True)
    torch.save(state | {"spent": state["spent"] + 1000}, last)
    run("train", limited, "--fold", "0", "--hours", "0")
    assert same(weights(space, "whole"), weights(space, "limited"))
    assert 1000 < records.load(model_path("limited", 0))["seconds"] < 1900, "of all processes"
    assert "limited: fold 0, accuracy" in run("train", limited, "--fold", "0", "--hours", "0")
    original, epochs = Trainer.train_epoch, []

    def one_epoch_then_stop(self: Trainer) -> tuple[float, float]:
        if len(epochs) % 2:
            epochs.append("stop")
            raise KeyboardInterrupt
        epochs.append(self.epoch)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", one_epoch_then_stop)
        for _ in range(2):
            said = run("train", stopped, "--fold", "0", expect=130)
            assert "the same command goes on" in said
        patch.setattr("pipeline.training.checkpoint.save_weights", interrupt)
        run("train", stopped, "--fold", "0", expect=130)
    run("train", stopped, "--fold", "0")
    assert epochs == [0, "stop", 1, "stop", 2]
    assert same(weights(space, "whole"), weights(space, "stopped"))
    sizes = {records.load(model_path(name, 0))["preprocessing"]["size"] for name in names}
    assert sizes == {40}, "1.25 times that of training"


def test_a_kill_between_the_last_epoch_and_its_log_loses_no_row(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment, told = split(write(train={"epochs": 1})), []
    monkeypatch.setattr(
        "pipeline.figures.curves.LiveCurves.__call__", lambda _, done: told.append(done)
    )

    def save_log(trainer: Trainer, last: Path) -> None:
        if trainer.epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.checkpoint.save_log", save_log)
        run("train", experiment, "--fold", "0", expect=130)
    assert (space / "runs/tiny/fold0/last.pt").exists() and not told
    run("train", experiment, "--fold", "0")
    assert list(pd.read_csv(space / "runs/tiny/fold0/log.csv").epoch) == [1]
    assert told == [True], "who watches hears that it was the last"


def test_the_last_epoch_is_not_begun_where_the_end_of_the_head_does_not_fit(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = split(write(train={"epochs": 3}))
    monkeypatch.setattr("pipeline.training.trainer.seconds_of_end", lambda *_: 3000.0)
    said = run("train", experiment, "--fold", "0", "--hours", "1", expect=75)
    assert "stops after epoch 2" in said, "with a quarter more than an hour"


def test_the_first_epoch_of_all_layers_is_expected_to_take_longer(
    write: Callable[..., str], space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of 8 s, which are forward passes as long as the backbone is frozen, and 2 s more."""
    model = {"freeze": "backbone", "freeze_epochs": 1}
    one, now, asked = trainer(write(model=model, train={"epochs": 3})), [0.0], []

    def train_epoch() -> tuple[float, float]:
        now[0] += 8
        return 1.0, 1.0

    def validate(label: str) -> np.ndarray:
        now[0] += 2
        return np.full((22, 3), 1 / 3)

    monkeypatch.setattr(one, "train_epoch", train_epoch)
    monkeypatch.setattr(one, "validate", validate)
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("pipeline.training.trainer.time", clock)
    fits = SimpleNamespace(seconds=np.inf, fits=lambda s: asked.append(s) or True)
    one.run(space / "last.pt", fits)
    assert asked == [26, 10, 10]


def test_what_the_end_of_a_head_takes(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four turns of 22 pictures at 1.25 times the size, and a larger validation."""
    model = {"features": "blocks", "head_init": "lda", "kernel": True, "test_scale": 1.25}
    one = trainer(write(model=model, augment="d4"))
    monkeypatch.setattr("pipeline.training.head_end.seconds_of_kernel", lambda *_: 100.0)
    one.fitted = Fitted(0.1, 1.0)
    assert seconds_of_end(one, epoch=33, validation=11) == 0, "the linear head alone was better"
    one.fitted = Fitted(0.1, 1.0, share=0.5)
    passes, larger = 1.25**2 * 4 * 22 * 0.5, (1.25**2 - 1) * 11
    assert seconds_of_end(one, epoch=33, validation=11) == pytest.approx(passes + larger + 150)
    one.valid = one.valid[:0]
    assert seconds_of_end(one, epoch=33, validation=0) == pytest.approx(passes + 150)
    one.accelerator = SimpleNamespace(num_processes=2)
    assert seconds_of_end(one, epoch=33, validation=0) == pytest.approx(2 * passes + 150)


def test_the_steps_that_are_told_are_those_that_are_made(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """850 pictures at 64 make 13 batches, not 14."""
    settings = load_experiment(write(train={"epochs": 2, "batch_size": 64}))
    table = pd.DataFrame({"fold": [1] * 850 + [0] * 200})
    tell_recipe(settings, table, 0)
    assert len(EpochBatches(850, 64, 0)) == 13
    assert "2 epochs, 26 steps a fold\n" in capsys.readouterr().out
    more = {"extra": Extra(csv="more.csv"), "recipe": "long"}
    tell_recipe(settings.model_copy(update=more), table, 0)
    said = capsys.readouterr()
    assert said.out.endswith("2 epochs\n") and not said.err


def test_changed_settings_are_refused_by_name(
    run: Callable[..., str], write: Callable[..., str], trained: str, space: Path
) -> None:
    before = weights(space)
    assert "tiny/fold" not in run("train", trained, "--fold", "0"), "nothing to do"
    write(train={"lr": 0.0005})
    said = run("train", trained, "--fold", "0", expect=2)
    assert "train.lr: 0.001 → 0.0005" in said
    assert len(said.strip().splitlines()) == 1
    assert same(before, weights(space))
    run("train", trained, "--fold", "0", "--force")
    assert not same(before, weights(space))
    assert "train.lr: 0.001 → 0.0005" in run("train", trained, "--fold", "1", expect=2)


def test_half_a_run_of_other_settings_is_refused_too(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = write()
    split(experiment)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.checkpoint.save_weights", interrupt)
        run("train", experiment, "--fold", "0", expect=130)
    assert (space / "runs/tiny/fold0/last.pt").exists()
    write(train={"seed": 9})
    assert "train.seed: 0 → 9" in run("train", experiment, "--fold", "0", expect=2)
    told = run("train", experiment, "--fold", "0", "--force", "--hours", "0", expect=75)
    assert "stops after epoch 1" in told and "goes on after epoch" not in told


def test_a_fold_that_was_trained_meanwhile_is_not_trained_again(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment, events = split(write()), []

    @contextmanager
    def lock(folder: Path, wait: bool) -> Iterator[None]:
        events.append("locked")
        yield

    def look(*_: object) -> bool:
        events.append("looked")
        return "locked" in events

    monkeypatch.setattr("pipeline.train.locked", lock)
    monkeypatch.setattr("pipeline.train.is_trained", look)
    monkeypatch.setattr("pipeline.train.make_trainer", lambda *_: pytest.fail("trained again"))
    run("train", experiment, "--fold", "0")
    assert events == ["looked", "locked", "looked"]


def test_half_a_fold_is_of_its_classes_in_their_order(
    write: Callable[..., str], space: Path
) -> None:
    """`positive:` is in no key: its head would be taught the other class from here on."""
    one, last = trainer(write()), space / "last.pt"
    checkpoint.save(one, last)
    checkpoint.resume(one, last)
    one.classes = ["a", "c", "b"]
    with pytest.raises(UserError, match=r"begun with the classes \['a', 'b', 'c'\], which are"):
        checkpoint.resume(one, last)


def test_half_a_fold_scored_by_a_number_of_numpys_goes_on(
    write: Callable[..., str], space: Path
) -> None:
    """As metrics of the user's own once gave them: the file was called damaged."""
    one, last = trainer(write()), space / "last.pt"
    one.log.append({"epoch": 1, "valid_score": np.float64(0.5)})
    checkpoint.save(one, last)
    one.log = []
    checkpoint.resume(one, last)
    assert one.log == [{"epoch": 1, "valid_score": 0.5}]


def test_half_a_fold_scored_by_single_pictures_goes_on_with_a_warning(
    write: Callable[..., str], space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, last = trainer(write()), space / "last.pt"
    one.valid = one.valid.assign(study="a")
    checkpoint.save(one, last)
    checkpoint.resume(one, last)
    assert "warning" not in capsys.readouterr().err
    state = torch.load(last, weights_only=True)
    del state["scored"]
    torch.save(state, last)
    checkpoint.resume(one, last)
    assert "may score single pictures; from here on it scores ids" in capsys.readouterr().err


def test_the_model_explains_itself(trained: str, space: Path) -> None:
    path = space / "runs/tiny/fold1/model.safetensors"
    record = records.load(path)
    assert record["classes"] == sorted(record["classes"])
    assert len(record["classes"]) == 4
    assert record["preprocessing"]["size"] == 32
    assert len(record["preprocessing"]["mean"]) == 3
    assert record["digest"] == records.file_digest(path)
    assert record["key"]["fold"] == 1
    assert record["images"] == {"train": 30, "valid": 30}
    assert record["peak"]["ram_gb"] > 0.1
    assert record["scores"]["valid_score"] == pd.read_csv(path.with_name("log.csv")).valid_score[1]


def test_folds_and_seeds_give_different_weights(
    run: Callable[..., str], write: Callable[..., str], trained: str, space: Path
) -> None:
    assert not same(weights(space, fold=0), weights(space, fold=1))
    run("train", write("other", train={"seed": 1}), "--fold", "0")
    assert not same(weights(space), weights(space, "other"))


def test_workers_do_not_change_the_weights(
    run: Callable[..., str], write: Callable[..., str], trained: str, space: Path
) -> None:
    run("train", write("workers", runtime={"workers": 2}), "--fold", "0")
    assert same(weights(space), weights(space, "workers"))


@pytest.mark.parametrize(("batch_size", "name"), [(8, "the loss"), (64, "the sum of held-out")])
def test_weights_that_are_lost_stop_with_advice(
    batch_size: int,
    name: str,
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
) -> None:
    """In the middle of an epoch, or in its last step (of one), which the loss cannot know of."""
    train = {"lr": 1e30, "batch_size": batch_size, "epochs": 1}
    said = run("train", split(write(train=train)), "--fold", "0", expect=2)
    assert f"error: fold 0  epoch 1/1: {name}" in said and "lower train.lr" in said
    assert not (space / "runs/tiny/fold0/last.pt").exists(), "the last good epoch, if any, stays"


def test_batchnorm_that_trains_does_not_throw_the_closed_form_away(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    """At a rate that changes nothing the head scores after an epoch what it did at its start."""
    model = {"features": "blocks", "head_init": "lda"}
    experiment = split(write(model=model, train={"lr": 1e-12, "epochs": 1, "batch_size": 15}))
    run("train", experiment, "--fold", "0")
    log = pd.read_csv(space / "runs/tiny/fold0/log.csv", index_col="epoch")
    assert abs(log.valid_loss[1] - log.valid_loss[0]) < 0.1
    assert log.train_loss[1] < log.valid_loss[0]


def test_training_that_loses_to_its_start_is_told(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str]
) -> None:
    model = {"features": "blocks", "head_init": "lda"}
    experiment = split(write(model=model, train={"lr": 0.3, "epochs": 1}))
    said = run("train", experiment, "--fold", "0")
    lines = [line for line in said.splitlines() if "warning: the head scored" in line]
    assert len(lines) == 1 and lines[0].startswith("train     fold 0  warning: the head scored 0.")
    assert "set train.epochs: 0, lower train.lr" in lines[0]


def test_which_training_lost() -> None:
    assert training_lost([0.9, 0.8], [0.8, 0.91], "accuracy", 768) == ""
    text = "the head scored 0.8500 before training and 0.8350 after it: "
    few, many = (training_lost([0.9, 0.8], [0.77, 0.9], "accuracy", n) for n in (500, 1000))
    assert few == f"{text}within a standard error, 0.0166"
    assert many.startswith(f"warning: {text}set train.epochs: 0")
    assert training_lost([0.9], [0.8], "log_loss", 9) == ""
    assert training_lost([0.8], [0.9], "log_loss", 9).startswith("warning: the head scored 0.8000")
    assert training_lost([0.8], [0.8], "auc", 9) == training_lost([0.8], [np.nan], "auc", 9) == ""


@pytest.mark.parametrize("fold", ["2", "-1"])
def test_no_such_fold(
    fold: str, run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str]
) -> None:
    experiment = write()
    split(experiment)
    assert "the folds are 0 to 1" in run("train", experiment, "--fold", fold, expect=2)


def test_stages_before_are_named(run: Callable[..., str], write: Callable[..., str]) -> None:
    experiment = write()
    assert "run python -m pipeline.prepare" in run("train", experiment, expect=2)
    run("prepare", experiment)
    assert "run python -m pipeline.folds" in run("train", experiment, expect=2)


@pytest.mark.parametrize("reads", ["last", "blocks"])
def test_another_run_as_first_weights(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[..., str],
    space: Path,
    reads: str,
) -> None:
    run("train", split(write(model={"features": reads})), "--fold", "1")
    still = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1}
    begun = {"weights": "run:tiny", "features": reads}
    run("train", write("second", model=begun, train=still), "--fold", "1")
    first, second = weights(space, fold=1), weights(space, "second", fold=1)
    deep = "layer4.0.conv1.weight" if reads == "last" else "backbone.layer4.0.conv1.weight"
    head = "fc.weight" if reads == "last" else "head.weight"
    assert torch.allclose(first[deep], second[deep])
    assert not torch.allclose(first[head], second[head]), "the head is new"
    if reads == "blocks":
        begun["features"] = "last"
        other = write("cut", model=begun)
        assert "set features: blocks" in run("train", other, "--fold", "1", expect=2)
    other = write("third", model={"weights": "run:tiny"}, folds={"seed": 1})
    run("folds", other)
    assert "it would leak" in run("train", other, "--fold", "1", expect=2)
    one_fold = write("path", model={"weights": str(model_path("tiny", 1))})
    said = run("train", one_fold, "--fold", "0", expect=2)
    assert "has seen what fold 0 holds out: it would leak; run:NAME takes" in said
    folds = folds_digest(load_folds(load_experiment(one_fold)))
    assert first_weights_digest(load_experiment(one_fold), 1, folds)
    none = write("fourth", model={"weights": "run:nothing"})
    assert "has no finished fold 0" in run("train", none, "--fold", "0", expect=2)


def test_a_class_absent_from_a_training_part_is_refused(
    run: Callable[..., str], trained: str, space: Path
) -> None:
    path = space / "folds/demo-2-seed42.csv"
    table = pd.read_csv(path)
    table.loc[table.label == table.label[0], "fold"] = 1
    table.to_csv(path, index=False)
    said = run("train", trained, expect=2)
    assert f"class '{table.label[0]}' has all its images in fold 1" in said


def test_schedule_warms_up_and_falls_to_zero_in_every_group() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "lr_scale": s} for p, s in zip(parameters, (1.0, 10.0), strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    schedule = make_schedule(optimizer, Train(warmup=0.2, lr=0.1), steps=50)
    rates = []
    for step in range(50):
        schedule.step_update(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    body, head = np.array(rates).T
    np.testing.assert_allclose(head, 10 * body)
    assert body[0] == 0
    assert body[:10].tolist() == sorted(body[:10])
    assert body.max() == pytest.approx(0.1)
    assert body.argmax() == 10
    assert body[-1] < 0.002


def test_ema_window_follows_the_number_of_steps() -> None:
    model = torch.nn.Linear(1, 1)
    short, long = (make_ema(model, Train(ema=0.1), steps=n) for n in (100, 10_000))
    assert short.decay == pytest.approx(np.exp(-1 / 10))
    assert long.decay == pytest.approx(np.exp(-1 / 1000))
    assert make_ema(model, Train(), steps=100) is None


def test_ema_warms_up_from_the_model_itself(
    run: Callable[..., str], write: Callable[..., str], trained: str, space: Path
) -> None:
    """One step: the average is the stepped model, not a mixture with the random start."""
    once = {"epochs": 1, "batch_size": 64}
    run("train", write("plain", train=once), "--fold", "0")
    run("train", write("average", train={**once, "ema": 1.0}), "--fold", "0")
    assert same(weights(space, "plain"), weights(space, "average"))
    run("train", write("longer", train={"ema": 0.5}), "--fold", "0")
    assert not same(weights(space), weights(space, "longer"))


def test_without_epochs_the_average_is_the_fitted_head(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    fitted = {"model": {"head_init": "lda"}}
    split(plain := write("plain", **fitted, train={"epochs": 0}))
    average = write("average", **fitted, train={"epochs": 0, "ema": 0.5})
    for experiment in (plain, average):
        run("train", experiment, "--fold", "0")
    assert same(weights(space, "plain"), weights(space, "average"))


def trainer(experiment: str, n: int = 22, fold: int = 0) -> Trainer:
    """Of made-up pixels; only the head learns, since BatchNorm depends on the batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), np.uint8)
    rows = pd.DataFrame({"row": np.arange(n), "target": np.arange(n) % 3})
    settings = load_experiment(experiment)
    targets = rows.target.to_numpy()
    return Trainer(settings, fold, list("abc"), pixels, rows, rows, "accuracy", targets)


def test_a_batch_of_one_is_refused_where_batchnorm_trains(
    write: Callable[..., str], space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it does: in the backbone, or in a head of one's own on a frozen one."""
    monkeypatch.chdir(space)
    with pytest.raises(UserError, match="BatchNorm that trains needs 2 in each"):
        trainer(write("moving"), n=1)
    save_file(timm.create_model("test_resnet").state_dict(), "first.safetensors")
    still = {"weights": "first.safetensors", "batchnorm": "frozen"}
    assert trainer(write("still", model=still), n=1).steps == 2
    (space / "mine.py").write_text(NECK)
    own = {"model": {**still, "classifier": "neck"}, "plugins": "mine.py"}
    with pytest.raises(UserError, match="BatchNorm that trains needs 2 in each"):
        trainer(write("own", **own), n=1)


def test_folds_of_equal_pictures_draw_other_random_numbers(write: Callable[..., str]) -> None:
    """Folds differ by their pictures anyway: it takes equal ones to see whether seeds do."""
    one, other, again = (trainer(write(), fold=fold) for fold in (0, 1, 0))
    orders = [[spec.rows for spec in t.batches] for t in (one, other, again)]
    assert orders[0] == orders[2] != orders[1]
    heads = [t.model.get_classifier().weight for t in (one, other, again)]
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])


def test_accumulated_batches_are_one_big_batch(write: Callable[..., str]) -> None:
    """Sizes 8, 7, 7 in steps of two: 15 images, then the 7 that are left."""
    train = {"class_weights": "inverse", "label_smoothing": 0.1, "clip_grad": 0.5, "warmup": 0}
    settings = {"model": {"freeze": "backbone"}, "augment": [], "runtime": {"precision": "no"}}
    small = trainer(write("small", **settings, train={**train, "accumulate": 2}))
    big = trainer(write("big", **settings, train=train))
    for one in (small, big):
        one.set_mode()
    batches = list(small.loader)
    assert [len(target) for _, target in batches] == [8, 7, 7]
    whole = tuple(torch.cat(parts) for parts in zip(*batches[:2], strict=True))
    for group, batch in ((batches[:2], whole), (batches[2:], batches[2])):
        losses = [one.step(some, len(batch[0])) for one, some in ((small, group), (big, [batch]))]
        torch.testing.assert_close(*losses)
        for one, other in zip(small.model.parameters(), big.model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
            torch.testing.assert_close(one, other)


HEAD_ALONE = {"model": {"freeze": "backbone"}, "augment": [], "runtime": {"precision": "no"}}


@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "focal"])
def test_the_loss_is_of_the_labels_as_mixed(kind: str, write: Callable[..., str]) -> None:
    one = trainer(write(**HEAD_ALONE, mix={"mixup": 1.0}, train={"loss": kind}))
    one.set_mode()
    pixels, target = batch = next(iter(one.loader))
    np.random.seed(1)
    images, rows = one.mixer(one.normalise(pixels), target)
    assert (rows.max(1).values < 1).any()
    wanted = one.loss(one.model(images), rows).detach()
    np.random.seed(1)
    torch.testing.assert_close(one.step([batch], len(target)), wanted)


def test_each_epoch_draws_its_own_random_numbers(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, drawn = trainer(write()), []

    def draw(group: list, size: int) -> torch.Tensor:
        drawn[-1] += [np.random.rand(), torch.rand(1).item()]
        return torch.zeros(())

    monkeypatch.setattr(one, "step", draw)
    for one.epoch in (0, 1, 0):
        drawn.append([])
        one.train_epoch()
    assert drawn[0] == drawn[2] and not {*drawn[0]} & {*drawn[1]}


def test_gradients_are_clipped(write: Callable[..., str]) -> None:
    one = trainer(write(**HEAD_ALONE, train={"clip_grad": 0.01}))
    one.set_mode()
    batch = next(iter(one.loader))
    one.step([batch], len(batch[1]))
    grads = [weight.grad.flatten() for weight in one.model.parameters() if weight.grad is not None]
    assert torch.cat(grads).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_unfrozen_layers_warm_up(write: Callable[..., str]) -> None:
    """3 of 6 steps: the first after the thaw is of full rate in the head, a quarter elsewhere."""
    one = trainer(write(model={"freeze": "layer2", "freeze_epochs": 1}, train={"warmup": 0.5}))
    one.epoch = 1
    one.set_rate(one.epoch_steps)
    rates = {True: set(), False: set()}
    for group in one.optimizer.param_groups:
        rates[group["head"]].add(round(group["lr"] / group.get("lr_scale", 1), 9))
    ((head,), (rest,)) = rates[True], rates[False]
    assert rest == pytest.approx(head / 4)


def test_what_there_is_no_memory_for_is_done_in_parts_to_the_same_weights(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"model": {"freeze": "backbone"}, "augment": [], "runtime": {"precision": "no"}}
    settings["mix"], settings["train"] = (
        {"mixup": 0.5},
        {"class_weights": "inverse", "clip_grad": 1},
    )
    roomy, tight = trainer(write("roomy", **settings)), trainer(write("tight", **settings))
    real, seen = tight.model.forward, []

    def forward(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > 4:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(images)

    monkeypatch.setattr(tight.model, "forward", forward)
    losses = [one.train_epoch()[0] for one in (roomy, tight)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert seen == [8, 4, *[2] * 4, 2, 2, 2, 1, 2, 2, 2, 1], "halved twice, and from then on"
    assert capsys.readouterr().err.count("in smaller parts, to the same gradients") == 2
    assert (trainer(write("tight", **settings)).parts.n, roomy.parts.n) == (4, 1), "remembered"
    assert "takes its pictures in 4 parts, as " in capsys.readouterr().out
    settings["model"] = {"freeze": None}
    assert trainer(write("other", **settings)).parts.n == 1
    for one, other in zip(roomy.model.parameters(), tight.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr(tight.model, "forward", lambda images: forward(images.repeat(4, 1, 1, 1)))
    with pytest.raises(torch.OutOfMemoryError):
        tight.train_epoch()
    settings["model"] = {"freeze": "backbone"}
    assert trainer(write("tight", **settings)).parts.n == 4, "what did not help is not kept"


def test_statistics_that_train_are_those_of_parts_alone(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A try that ends without memory has moved some already; and the gradients are others."""
    one, other = trainer(write("one")), trainer(write("other"))
    [batch, *_] = one.loader
    for each in (one, other):
        each.set_mode()
    other.parts.n, real = 2, one.model.forward

    def forward(images: torch.Tensor) -> torch.Tensor:
        logits = real(images)
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return logits

    monkeypatch.setattr(one.model, "forward", forward)
    for each in (one, other):
        each.step([batch], 8)
    said = capsys.readouterr().err
    assert "in smaller parts, each normalised by itself (model.batchnorm: train)" in said
    for name, norm in one.model.named_modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            expected = other.model.get_submodule(name)
            torch.testing.assert_close(norm.running_mean, expected.running_mean)
            torch.testing.assert_close(norm.running_var, expected.running_var)


def test_statistics_before_a_fitted_head_are_taken_in_the_parts_of_training(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that fails has moved those of the first layers already, and counted its batch."""
    tight, other = trainer(write("tight")), trainer(write("other"))
    other.parts.n, real, seen = 2, tight.model.forward, []

    def forward(images: torch.Tensor) -> torch.Tensor:
        logits = real(images)
        seen.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return logits

    monkeypatch.setattr(tight.model, "forward", forward)
    momenta = [norm.momentum for norm in training_norms(tight.model)]
    for each in (tight, other):
        settle_batchnorm(each)
    assert seen == [8, 4, 4, 4, 3, 4, 3] and tight.parts.n == 2
    torch.testing.assert_close(tight.model.state_dict(), other.model.state_dict())
    assert [norm.momentum for norm in training_norms(tight.model)] == momenta != [None] * 4
    assert trainer(write("tight")).parts.n == 2, "remembered"
    seen.clear()
    monkeypatch.setattr(type(tight.accelerator), "num_processes", 2)
    tight.parts.n = 4
    settle_batchnorm(tight)
    assert seen == [2, 2, 4, 4], "as many on the other rank, which has 4, 3 and 3"


def test_a_part_is_of_no_single_picture_where_statistics_train(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, most, seen = trainer(write(), n=10), [3], []
    [batch], real = one.loader, one.model.forward
    one.set_mode()

    def forward(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(images)

    monkeypatch.setattr(one.model, "forward", forward)
    one.step([batch], 10)
    assert seen == [10, 5, 3, 3, 2, 2]
    most[0] = 1
    with pytest.raises(torch.OutOfMemoryError):
        one.step([batch], 10)
    assert seen[6:] == [3, 2]


def test_ranks_take_as_many_parts_however_their_shares_differ(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 17 pictures the one has 9, the other 8: it waited for gradients that never came."""
    one, seen = trainer(write(model={"freeze": "backbone"}), n=17), []
    batches, real = list(one.loader), one.model.forward
    one.set_mode()
    monkeypatch.setattr(
        one.model, "forward", lambda images: seen.append(len(images)) or real(images)
    )
    monkeypatch.setattr(type(one.accelerator), "num_processes", 2)
    for one.parts.n in (4, 16):
        for batch in batches:
            one.step([batch], 17)
    assert seen == [3, 2, 2, 2] + [2] * 4 + [2] + [1] * 7 + [1] * 8


def test_a_step_that_has_moved_weights_is_not_taken_again(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients in fp16 were not unscaled the second time, and SGD moved weights by thousands."""
    one, taken = trainer(write()), []

    def step() -> None:
        taken.append(1)
        if len(taken) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(one.optimizer, "step", step)
    one.set_mode()
    batch = next(iter(one.loader))
    with pytest.raises(torch.OutOfMemoryError):
        one.step([batch], len(batch[1]))
    assert taken == [1] and one.parts.n == 1


def test_schedule_and_average_count_optimizer_steps(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trainer(write(train={"accumulate": 2, "ema": 0.5, "epochs": 3}))
    scheduled, averaged, stepped = [], [], []
    monkeypatch.setattr(one.schedule, "step_update", scheduled.append)
    monkeypatch.setattr(one.ema, "update", lambda model, step: averaged.append(step))
    monkeypatch.setattr(one, "step", lambda group, size: stepped.append(size) or torch.ones(()))
    assert one.steps == 6
    for one.epoch in range(3):
        assert one.train_epoch()[0] == 1
    assert scheduled == averaged == list(range(6))
    assert stepped == [15, 7] * 3


def test_statistics_are_taken_for_a_fitted_head_alone(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass more, and other weights than the same settings gave before, for nothing."""
    taken = []
    monkeypatch.setattr("pipeline.training.head_init.settle_batchnorm", lambda *_: taken.append(1))
    run("train", split(write(train={"epochs": 1})), "--fold", "0")
    assert not taken
    fitted = {"features": "blocks", "head_init": "lda"}
    run("train", write("fitted", model=fitted, train={"epochs": 1}), "--fold", "0")
    assert taken


def test_training_from_pictures_on_a_device_is_that_from_loader_processes(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same pictures in the same order: after two epochs the losses are those of the others."""

    def losses(name: str) -> np.ndarray:
        run("train", split(write(name, augment="d4")), "--fold", "0")
        return pd.read_csv(space / f"runs/{name}/fold0/log.csv")[
            ["train_loss", "valid_loss"]
        ].to_numpy()

    usual = losses("usual")
    monkeypatch.setattr(
        "pipeline.data.loader.resident", lambda pixels, _: torch.from_numpy(np.array(pixels))
    )
    assert losses("there") == pytest.approx(usual, abs=0.01)
    assert abs(usual[0, 0] - usual[1, 0]) > 0.02
