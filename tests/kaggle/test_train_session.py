"""Training on Kaggle: sessions that end in time, go on from their output, and lose nothing."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import enter
from kaggle_stub import KaggleStub, Trouble
from tiny_forms import tiny_form

from pipeline.base import records, yaml_files
from pipeline.base.cli import UserError
from pipeline.base.config import Model, load_experiment, read_experiment
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import load_folds
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.bundle.notebook_file import BOOK
from pipeline.kaggle.bundle.offline import execute
from pipeline.kaggle.bundle.push import PushedBundle
from pipeline.kaggle.bundle.rehearsal import mount
from pipeline.kaggle.notebook import train_session
from pipeline.kaggle.notebook.mounts import working_root
from pipeline.model.backbone import build_backbone, kept_weights
from pipeline.model.build import save_weights
from pipeline.training.keys import train_key

MINE = """
from torch.nn import functional as F
from pipeline.plugins import loss, metric

@loss
def wary(logits, target):
    return F.binary_cross_entropy_with_logits(logits, 0.9 * target, reduction="none").sum(1)

@metric
def hits(target, prob):
    return float((prob[target] >= 0.5).mean())
"""


def write_first_weights() -> None:
    """What the hub would give, as a file that needs none."""
    first = Model(backbone="test_resnet", weights="hub", size=32, batchnorm="train")
    start = first.model_copy(update={"weights": "none"})
    save_weights(build_backbone(start, 0), kept_weights(first))


@pytest.fixture
def leaves(space: Path, write: Callable[..., str], split: Callable[[str], str]) -> str:
    """A prepared experiment with first weights of the hub, of a competition given by a path."""
    (space / "data" / "demo").rename(space / "data" / "leaves")
    (space / "leaves.yaml").write_text(yaml.safe_dump({"slug": "leaves"}))
    write_first_weights()
    return split(write(competition=str(space / "leaves.yaml"), model={"weights": "hub"}))


@pytest.fixture
def spots(
    space: Path,
    write: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The same of several labels a picture, pictures that are no squares, a fitted head, and a
    loss and a metric of one's own."""
    monkeypatch.chdir(space)
    (space / "mine.py").write_text(MINE)
    own = {"metric": "hits", "plugins": "mine.py"}
    rules = {"slug": "leaves", **tiny_form("joined", space / "data" / "leaves"), **own}
    (space / "leaves.yaml").write_text(yaml.safe_dump(rules))
    write_first_weights()
    model = {"weights": "hub", "size": [32, 40], "features": "blocks", "head_init": "lda"}
    changes = {"model": model, "train": {"loss": "wary"}, "plugins": "mine.py"}
    return split(write("spots", competition=str(space / "leaves.yaml"), **changes))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def job_of(bundle: Path) -> train_session.Job:
    return train_session.Job(**records.load(bundle)["key"]["job"])


def model_of(bundle: Path, fold: int) -> dict[str, bytes]:
    """Files of a notebook's output: a model that a bundle asks for."""
    record = {"key": records.load(bundle)["key"]["folds"][str(fold)]}
    files = {"model.safetensors": b"w", "model.safetensors.json": json.dumps(record).encode()}
    return {f"runs/tiny/fold{fold}/{name}": data for name, data in files.items()}


def begun_of(bundle: Path, fold: int, epoch: int) -> dict[str, bytes]:
    """The same of a fold that has come to an epoch."""
    key = records.load(bundle)["key"]["folds"][str(fold)]
    files = {"last.pt": b"1", "log.csv": f"epoch\n{epoch}\n".encode()}
    files["started.json"] = json.dumps(key).encode()
    return {f"runs/tiny/fold{fold}/{name}": data for name, data in files.items()}


def push_and_stop(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Begin a session, and do not wait for its end."""

    def stop(self: PushedBundle) -> str:
        raise UserError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(PushedBundle, "failure", stop)
        assert "stopped" in run("bundle", *words, "--train", "--push", expect=2)


def session_here(
    job: train_session.Job, project: Path, run: Callable[..., str], capsys: pytest.CaptureFixture
) -> str:
    """What a notebook does first, its stages too, in this process: an epoch, then it stops."""
    told = []

    def stage(command: list[str], project: Path, seconds: float) -> int:
        told.extend(capsys.readouterr())
        code = 75 if command[0] == "train" else 0
        with pytest.MonkeyPatch.context() as patch:
            enter(patch, project)
            patch.chdir(project)
            patch.setattr(yaml_files, "HERE", project / "pipeline" / "configs")
            told.append(run(*command, expect=code))
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_session, "PROJECT", project)
        patch.setattr(train_session, "run_stage", stage)
        train_session.run(job)
    return "".join([*told, *capsys.readouterr()])


def test_sessions_end_in_the_weights_of_an_uninterrupted_training(
    spots: str,
    run: Callable[..., str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second session, that goes on, is a notebook in a kernel."""
    for fold in ("0", "1"):
        run("train", spots, "--fold", fold)
    home = space / "runs" / "spots" / "fold0"
    weights = (home / "model.safetensors").read_bytes()
    run("bundle", spots, "--train", "--fold", "0", "--hours", "0.25")  # all of it is reserve
    bundle = space / "runs" / "spots" / "train-bundle"
    inputs, output, scratch = (space / name for name in ("input", "working", "temp"))
    scratch.mkdir()
    mount(bundle, inputs)
    shutil.copytree(space / "data" / "leaves", inputs / "competitions" / "leaves")
    (inputs / "competitions" / "leaves" / "train.csv").unlink()  # made at home
    last = inputs / "notebooks" / job_of(bundle).kernel
    monkeypatch.setenv("KAGGLE_INPUT_DIR", str(inputs))
    monkeypatch.setenv("KAGGLE_WORKING_DIR", str(output))
    monkeypatch.setattr(train_session.tempfile, "tempdir", str(scratch))

    said = session_here(job_of(bundle), bundle / "code" / "project", run, capsys)
    assert "fold 0  stops after epoch 1" in said and "folds begin anew" in said
    assert "fold 0 goes on after epoch 1" in said and "!!!!!!" not in said
    last.parent.mkdir(parents=True)
    output.rename(last)
    output.mkdir()
    said = execute(bundle / "notebook" / "notebook.ipynb", inputs, output, scratch)
    assert "!!!!!!" not in said
    assert "fold 0  goes on after epoch 1" in said and "cp -r away/runs/. runs/" in said
    away = output / "runs" / "spots" / "fold0"
    assert (away / "model.safetensors").read_bytes() == weights
    key = records.load(bundle)["key"]["folds"]["0"]
    assert records.load(away / "model.safetensors")["key"] == key
    shutil.rmtree(home)
    away.rename(home)
    assert sorted(path.name for path in home.glob("[!.]*")) == [
        "log.csv",
        "model.safetensors",
        "model.safetensors.json",
    ]
    assert "up to date" in run("train", spots)
    run("predict", spots)
    assert "hits " in run("ensemble", spots)
    assert re.search(r"hits CV \d", run("submit", "spots"))
    made = records.load(space / "submissions" / "spots.csv")
    oof = Predictions.load(space / "runs" / "spots" / "oof.npz")
    truth = load_prepared(load_experiment(spots)).rows.set_index("id").label[oof.image]
    given = [[name in label.split() for name in oof.classes] for label in truth]
    assert made["cv"]["all"] == pytest.approx((oof.prob[np.array(given)] >= 0.5).mean(), abs=1e-5)


def test_what_the_bundle_holds(leaves: str, run: Callable[..., str], space: Path) -> None:
    assert "folds [0, 1], 12 h a session" in run("bundle", leaves, "--train")
    assert "up to date" in run("bundle", leaves, "--train")
    bundle = space / "runs" / "tiny" / "train-bundle"
    package = bundle / "code" / "project" / "pipeline"
    shipped = read_experiment(str(package / "configs" / "experiments" / "tiny.yaml"))
    assert shipped.competition == "leaves" and shipped.key() == load_experiment(leaves).key()
    assert yaml.safe_load((package / "configs" / "competitions" / "leaves.yaml").read_text()) == {
        "slug": "leaves",
        "metric": "accuracy",
    }
    assert sorted(path.name for path in (package.parent / "folds").iterdir()) == [
        "leaves-2-seed42.csv",
        "leaves-2-seed42.csv.json",
    ]
    assert (package.parent / "weights" / "test_resnet.hub.safetensors").is_file()
    kernel = read(bundle / "notebook" / "kernel-metadata.json")
    assert kernel["id"] == "owner/leaves-tiny-train"
    assert kernel["dataset_sources"] == [f"{kernel['id']}-files"]
    assert kernel["competition_sources"] == ["leaves"] and not kernel["enable_internet"]
    tables = sorted(path.name for path in (package.parent / train_session.DATA).iterdir())
    assert tables == ["sample_submission.csv", "test.csv", "train.csv"]
    refused = run("bundle", "x", "--train", "--rows", "3", expect=2)
    assert "--rows means nothing with --train" in refused
    refused = run("bundle", "x", "--train", "--rehearse", expect=2)
    assert "--rehearse means nothing with --train" in refused
    assert "--fold means nothing without" in run("bundle", "x", "--fold", "0", expect=2)
    assert "the folds are 0 to 1" in run("bundle", leaves, "--train", "--fold", "7", expect=2)


def test_a_table_that_changed_travels_once_prepare_has_read_it(
    leaves: str, run: Callable[..., str], space: Path
) -> None:
    run("bundle", leaves, "--train")
    data, bundle = space / "data" / "leaves", space / "runs" / "tiny" / "train-bundle"
    sample = data / "sample_submission.csv"
    sample.write_text(sample.read_text() + "\n")
    assert "up to date" not in run("bundle", leaves, "--train")
    copy = bundle / "code" / "project" / train_session.DATA / sample.name
    assert copy.read_bytes() == sample.read_bytes()
    first, last = (data / "train.csv").read_text().split("\n", 1)
    (data / "train.csv").write_text(f"{first}\n{last.replace('images/', 'pictures/', 1)}")
    refused = run("bundle", leaves, "--train", expect=2)
    assert "leaves: the CSVs changed after `prepare`: run that stage again" in refused
    shutil.rmtree(data)
    assert "train.csv is gone: Kaggle's own is read there" in run("bundle", leaves, "--train")
    assert not copy.exists()


def test_a_competition_of_another_name_than_its_file_goes_by_the_file(
    leaves: str, run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    (space / "leaves.yaml").rename(space / "pets.yaml")
    (space / "pets.yaml").write_text("slug: leaves\nname: leaves\n")
    experiment = write(competition=str(space / "pets.yaml"), model={"weights": "hub"})
    run("prepare", experiment)
    run("folds", experiment)
    run("bundle", experiment, "--train", "--fold", "0")
    project = space / "runs" / "tiny" / "train-bundle" / "code" / "project"
    configs = project / "pipeline" / "configs"
    assert read_experiment(str(configs / "experiments" / "tiny.yaml")).competition == "pets"
    rules = yaml.safe_load((configs / "competitions" / "pets.yaml").read_text())
    assert rules == {"name": "leaves", "slug": "leaves", "metric": "accuracy"}
    assert (project / "folds" / "pets-2-seed42.csv").is_file()


def test_slugs_of_a_long_name_are_no_longer_than_kaggle_allows(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    name = "a-name-that-is-longer-than-all-that-kaggle-allows"
    experiment = split(write(name))
    run("bundle", experiment, "--train")
    notebook = space / "runs" / name / "train-bundle" / "notebook"
    assert f"pipeline.bundle {experiment} --train" in (notebook / BOOK).read_text()
    kernel = read(notebook / "kernel-metadata.json")
    slugs = [ref.partition("/")[2] for ref in (kernel["id"], *kernel["dataset_sources"])]
    assert len(set(slugs)) == 2 and max(map(len, slugs)) <= 50


def test_of_several_seeds_the_others_are_named(
    run: Callable[..., str],
    write: Callable[..., str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.bundle.current_training", lambda *_: (space, None))
    assert "seed" not in run("bundle", write(), "--train")
    said = run("bundle", write("two", train={"seed": [0, 3]}), "--train")
    assert "with its first seed; bundle two-seed3 --train, too" in said
    assert load_experiment("two-seed3").train.seed == 3


def test_a_file_that_only_this_machine_has_is_refused(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], space: Path
) -> None:
    file = space / "first.safetensors"
    file.write_bytes(b"0")
    experiment = split(write(model={"weights": str(file)}))
    assert "name it relative to the project" in run("bundle", experiment, "--train", expect=2)


def test_a_fold_of_other_settings_is_not_taken_for_trained(
    trained: str, run: Callable[..., str], write: Callable[..., str]
) -> None:
    refused = run("bundle", write(train={"lr": 0.002}), "--train", expect=2)
    assert "was trained with other settings: train.lr: 0.001 → 0.002" in refused


def test_a_teachers_predictions_travel(
    trained: str, run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    run("predict", trained)
    run("ensemble", trained)
    second = write("second", pseudo={"run": "tiny", "threshold": 0.1})
    run("bundle", second, "--train", "--fold", "1")
    project = space / "runs" / "second" / "train-bundle" / "code" / "project"
    there = sorted(str(path.relative_to(project)) for path in (project / "runs").rglob("*.npz"))
    assert there == ["runs/tiny/fold1/test.none.npz", "runs/tiny/test.npz"]
    assert all((project / f"{name}.json").is_file() for name in there)


def test_a_runs_weights_travel(
    trained: str,
    run: Callable[..., str],
    write: Callable[..., str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = space / "package"
    for folder in ("experiments", "competitions", "augmentations", "recipes"):
        shutil.copytree(yaml_files.HERE / folder, package / folder)
    shutil.copy(trained, package / "experiments")
    monkeypatch.setattr(yaml_files, "HERE", package)
    # of many epochs, which another recipe would be for
    changes = {"recipe": "short", "train": {"epochs": 12}, "runtime": {"tracker": "wandb"}}
    second = write("second", model={"weights": "run:tiny"}, **changes)
    run("bundle", second, "--train", "--fold", "1")
    bundle, there = space / "runs" / "second" / "train-bundle", space / "there"
    shutil.copytree(bundle / "code" / "project", there)
    (there / "runs" / "_data").symlink_to(space / "runs" / "_data")
    enter(monkeypatch, there)
    monkeypatch.setattr(yaml_files, "HERE", there / "pipeline" / "configs")
    settings = load_experiment("second")
    key = train_key(settings, 1, load_prepared(settings), load_folds(settings))
    assert records.plain(key) == records.load(bundle)["key"]["folds"]["1"]
    assert key["first_weights"]
    assert settings.runtime.tracker == "none", "no network and no key there"


@pytest.fixture
def mounted(
    leaves: str, run: Callable[..., str], space: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[train_session.Job, Path]:
    """The job of a bundle that is mounted with its competition and an earlier output."""
    run("bundle", leaves, "--train")
    bundle, inputs = space / "runs" / "tiny" / "train-bundle", space / "input"
    monkeypatch.setattr(train_session, "PROJECT", bundle / "code" / "project")
    shutil.copytree(space / "data" / "leaves", inputs / "leaves")
    job = job_of(bundle)
    early = inputs / job.kernel.partition("/")[2] / "runs" / "tiny" / "fold1"
    early.mkdir(parents=True)
    (early / "log.csv").write_text("epoch\n0\n1\n")
    monkeypatch.setenv("KAGGLE_INPUT_DIR", str(inputs))
    monkeypatch.setenv("KAGGLE_WORKING_DIR", str(space / "working"))
    monkeypatch.setattr(train_session.tempfile, "tempdir", str(space))
    return job, inputs


def test_a_session_finds_everything_in_its_place(
    mounted: tuple[train_session.Job, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, inputs = mounted
    (inputs / "leaves" / "train.csv").write_text("another")
    stages = []

    def stage(command: list[str], project: Path, seconds: float) -> int:
        stages.append(command)
        data = project / train_session.DATA
        assert (data / "train.csv").read_text().startswith("image,label")
        assert (data / "images").resolve() == inputs / "leaves" / "images"
        assert (project / "folds" / "leaves-2-seed42.csv").is_file()
        assert (project / "weights" / "test_resnet.hub.safetensors").is_file()
        assert (project / "runs" / "tiny" / "fold1" / "log.csv").is_file()
        (project / "runs" / "tiny" / "new").touch()
        return 0

    monkeypatch.setattr(train_session, "run_stage", stage)
    train_session.run(job)
    assert stages[0][:3] == ["prepare", "tiny", "--data"]
    assert Path(stages[0][3]).name == train_session.DATA
    assert stages[1][:6] == ["train", "tiny", "--fold", "0", "--fold", "1"]
    kept = working_root() / "runs" / "tiny"
    assert (kept / "fold1" / "log.csv").is_file() and (kept / "new").is_file()


@pytest.mark.parametrize("tables", [False, True])
def test_pictures_that_are_mounted_in_a_zip_are_packed(
    mounted: tuple[train_session.Job, Path], monkeypatch: pytest.MonkeyPatch, tables: bool
) -> None:
    """With or without the tables in zips of their own."""
    job, inputs = mounted
    for name in ["images", *["train.csv", "sample_submission.csv"] * tables]:
        shutil.make_archive(str(inputs / "leaves" / name), "zip", inputs / "leaves", name)
        if name != "images":
            (inputs / "leaves" / name).unlink()
    shutil.rmtree(inputs / "leaves" / "images")
    stages = []

    def stage(command: list[str], project: Path, seconds: float) -> int:
        stages.append(command[0])
        data = Path(command[-1])
        assert command[0] == "train" or (data / "train.csv").is_file()
        return 0 if command[0] == "train" or any((data / "images").glob("*.jpg")) else 2

    monkeypatch.setattr(train_session, "run_stage", stage)
    train_session.run(job)
    assert stages == ["prepare", "prepare", "train"]


def test_pictures_in_a_7z_are_told(
    mounted: tuple[train_session.Job, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, inputs = mounted
    shutil.rmtree(inputs / "leaves" / "images")
    (inputs / "leaves" / "images.7z").touch()
    monkeypatch.setattr(train_session, "run_stage", lambda *_: 2)
    train_session.run(job)
    said = capsys.readouterr().err
    assert "images.7z: a 7z cannot be read on Kaggle" in said and "prepare ended with 2" in said


@pytest.mark.parametrize("damage", ["prepare", "competition"])
def test_what_is_missing_is_said_and_the_earlier_output_is_kept(
    mounted: tuple[train_session.Job, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    job, inputs = mounted
    monkeypatch.setattr(train_session, "run_stage", lambda *_: 2)
    if damage == "competition":
        shutil.rmtree(inputs / "leaves")
    train_session.run(job)
    said = capsys.readouterr()
    lost = "the training failed" if damage == "competition" else "prepare ended with 2"
    assert f"!!!!!! {lost}" in said.err
    assert ("no competition" in said.err) is (damage == "competition")
    assert "fold 0 is to begin" in said.out and "fold 1 goes on after epoch 1" in said.out
    assert (working_root() / "runs" / "tiny" / "fold1" / "log.csv").is_file()


@pytest.mark.parametrize("same", [True, False])
def test_pictures_that_differ_from_those_at_home_are_told(
    mounted: tuple[train_session.Job, Path],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    same: bool,
) -> None:
    job = mounted[0] if same else mounted[0].model_copy(update={"pixels": "others"})

    def stage(command: list[str], project: Path, seconds: float) -> int:
        if command[0] == "prepare":
            shutil.copytree(space / "runs" / "_data", project / "runs" / "_data")
        return 0

    monkeypatch.setattr(train_session, "run_stage", stage)
    train_session.run(job)
    assert ("pictures differ from those at home" in capsys.readouterr().err) is not same


def test_a_stage_that_never_ends_is_ended(space: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (space / "pipeline").mkdir()
    hang = "import subprocess, sys, time\nprint('begun', flush=True)\n"
    hang += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    (space / "pipeline" / "train.py").write_text(hang)
    started = time.monotonic()
    code = train_session.run_stage(["train"], space, 1.0)
    assert code == train_session.KILLED and time.monotonic() - started < 20
    assert "begun" in capfd.readouterr().out


def test_a_push_trains_session_after_session_until_all_folds_are_home(
    leaves: str,
    run: Callable[..., str],
    kaggle: KaggleStub,
    space: Path,
) -> None:
    run("bundle", leaves, "--train")
    bundle = space / "runs" / "tiny" / "train-bundle"
    fold0, fold1 = (model_of(bundle, k) for k in (0, 1))
    part = {"runs/tiny/fold1/.lock": b""} | begun_of(bundle, 1, epoch=1)
    kaggle.outputs = {"v1": fold0, "v2": fold0 | part, "v3": fold0 | fold1}
    tracked = space / "runs" / "tiny" / "fold1" / "wandb"  # of a fold that was begun here
    tracked.mkdir(parents=True)
    kaggle.trouble["ListKernelSessionOutput"] = Trouble(503, first=2, times=3)
    kaggle.trouble["GET"] = Trouble("reset", first=2, times=2)
    said = run("bundle", leaves, "--train", "--push")
    assert "trained and here: folds [0] of [0, 1]" in said
    assert "folds [0, 1] are trained and here" in said
    home = space / "runs" / "tiny"
    assert (home / "fold1" / "model.safetensors").read_bytes() == b"w"
    assert not (home / "fold1" / "last.pt").exists() and not tracked.exists()
    ((ref, versions),) = kaggle.kernels.items()
    sources = [version.get("kernelDataSources", []) for version in versions]
    assert sources == [[], [ref], [ref]], "a session goes on from the output of the last"
    assert {version["sessionTimeoutSeconds"] for version in versions} == {12 * 3600}
    assert len(kaggle.datasets) == 1 and all(len(made) == 1 for made in kaggle.datasets.values())
    assert "are trained and here" in run("bundle", leaves, "--train", "--push")
    assert len(versions) == 3


def test_a_session_that_finished_no_epoch_is_the_last(
    leaves: str,
    run: Callable[..., str],
    kaggle: KaggleStub,
    space: Path,
) -> None:
    fold1 = space / "runs" / "tiny" / "fold1"
    fold1.mkdir(parents=True)
    run("bundle", leaves, "--train")
    (record,) = list(model_of(fold1.with_name("train-bundle"), 1).values())[1:]
    (fold1 / "model.safetensors").write_bytes(b"ours")
    (fold1 / "model.safetensors.json").write_bytes(record)
    kaggle.output = {"runs/tiny/fold0/log.csv": b"epoch\n1\n"}
    kaggle.output["runs/tiny/fold1/log.csv"] = b"epoch\n9\n"
    said = run("bundle", leaves, "--train", "--push", expect=2)
    assert "version 2 brought no fold an epoch further" in said
    ((_, versions),) = kaggle.kernels.items()
    assert len(versions) == 2
    assert (fold1 / "model.safetensors").read_bytes() == b"ours"


def test_a_session_that_failed_is_begun_again(
    leaves: str, run: Callable[..., str], kaggle: KaggleStub
) -> None:
    kaggle.answer["GetKernelSessionStatus"] = {"status": "ERROR", "failureMessage": "no GPU"}
    said = run("bundle", leaves, "--train", "--push", expect=2)
    assert "version 1 failed on Kaggle: no GPU" in said
    del kaggle.answer["GetKernelSessionStatus"]
    kaggle.answer["ListKernelSessionOutput"] = {"files": [], "log": "!!!!!! prepare ended"}
    assert "version 2 had trouble" in run("bundle", leaves, "--train", "--push", expect=2)


def test_a_command_that_was_stopped_goes_on_waiting_for_its_session(
    leaves: str,
    run: Callable[..., str],
    kaggle: KaggleStub,
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push_and_stop(run, monkeypatch, leaves)
    bundle = space / "runs" / "tiny" / "train-bundle"
    kaggle.output = model_of(bundle, 0) | model_of(bundle, 1)
    assert "are trained and here" in run("bundle", leaves, "--train", "--push")
    ((_, versions),) = kaggle.kernels.items()
    assert len(versions) == 1


def test_a_session_of_other_settings_is_not_gone_on_from(
    leaves: str,
    run: Callable[..., str],
    write: Callable[..., str],
    kaggle: KaggleStub,
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its folds would be refused there, and here replace those that are begun anew."""
    bundle = space / "runs" / "tiny" / "train-bundle"
    push_and_stop(run, monkeypatch, leaves)
    kaggle.outputs = {"v1": begun_of(bundle, 0, epoch=3)}
    changes = {"model": {"weights": "hub"}, "train": {"lr": 0.002}}
    changed = write(competition=str(space / "leaves.yaml"), **changes)
    run("bundle", changed, "--train")
    fold0, fold1 = (model_of(bundle, k) for k in (0, 1))
    kaggle.outputs |= {"v2": fold0, "v3": fold0 | fold1}
    said = run("bundle", changed, "--train", "--push")
    assert "fold0 is of other settings and stays there" in said
    assert "folds [0, 1] are trained and here" in said
    ((ref, versions),) = kaggle.kernels.items()
    assert [made.get("kernelDataSources", []) for made in versions] == [[], [], [ref]]


def test_folds_that_were_asked_for_before_come_home_first(
    leaves: str,
    run: Callable[..., str],
    kaggle: KaggleStub,
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = space / "runs" / "tiny"
    records.write_json(home / "train-pushed.json", {"output": True})  # by an earlier version
    push_and_stop(run, monkeypatch, leaves, "--fold", "0")
    fold0 = model_of(home / "train-bundle", 0)
    run("bundle", leaves, "--train", "--fold", "1")
    kaggle.outputs = {"v1": fold0, "v2": fold0 | model_of(home / "train-bundle", 1)}
    said = run("bundle", leaves, "--train", "--fold", "1", "--push")
    assert "folds [1] are trained and here" in said
    assert (home / "fold0" / "model.safetensors").read_bytes() == b"w"
    ((ref, versions),) = kaggle.kernels.items()
    sources = [made.get("kernelDataSources", []) for made in versions]
    assert sources == [[], [ref]], "whose output is of unknown settings is not gone on from"
