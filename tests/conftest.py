"""A tiny competition, drawn once, and a workspace of its own for every test."""

import fcntl
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from kaggle_stub import KaggleStub

from pipeline.base import records
from pipeline.base.cli import run_stage
from pipeline.base.config import Experiment, load_experiment, root
from pipeline.base.runs import model_path, prediction_path
from pipeline.base.yaml_files import laid_over
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import classes_of, folds_digest, load_folds
from pipeline.demo import draw_competition
from pipeline.inference.predictions import Predictions

pytest_plugins = ["browser"]  # tests/pages

TINY = {
    "competition": "demo",
    "folds": {"n": 2},
    "model": {
        "backbone": "test_resnet",
        "weights": "none",
        "size": 32,
        "features": "last",
        "head_init": "random",
        "batchnorm": "train",
    },
    "train": {"epochs": 2, "batch_size": 8, "lr": 0.001},
}

INSTANT = {  # laid over TINY
    "model": {**TINY["model"], "features": "blocks", "head_init": "lda"},
    "train": {"epochs": 0},
}

# Names report.html among the files that the stages write.
REPORTED = "test_second_run_does_nothing_and_changes_reach_as_far_as_they_must"

# More than about 1.5 s each on an idle core; all others are marked `quick`.
SLOW = {
    "test_20_000_pictures_scroll",
    "test_a_blend_shows_what_its_members_say",
    "test_a_change_whose_answer_was_lost_is_not_made_twice",
    "test_a_changed_variant_is_refused_not_reported_from_its_old_run",
    "test_a_full_disk_is_one_line",
    "test_a_killed_fold_and_a_killed_worker_are_made_up_for",
    "test_a_server_that_is_killed_between_key_and_answer",
    "test_a_stage_that_still_imports_is_stopped_with_one_line",
    "test_a_variant_may_start_from_one_above_it",
    "test_another_run_as_first_weights",
    "test_area_shares_equal_measured_areas",
    "test_each_key_writes_one_line",
    "test_each_row_comes_once_and_rank_0_gives_its_model_to_all",
    "test_every_epoch_is_a_resume_point",
    "test_every_kind_trains_predicts_and_travels",
    "test_every_variant_and_seed_once",
    "test_files_replaced_after_prepare_are_not_trained_on",
    "test_first_weights_are_made_to_fit_the_size",
    "test_folders_as_the_client_wants_them",
    "test_folds_leave_nothing_behind",
    "test_force_waits_for_the_process_that_trains",
    "test_from_pictures_to_answers",
    "test_hostile_names_are_text_at_any_width",
    "test_it_lies_where_the_head_looks",
    "test_kaggle_falls_ill_in_the_middle_of_the_night",
    "test_killed_at_any_moment_it_ends_in_the_same_weights",
    "test_labels_of_several_lines_are_trained_on",
    "test_no_network",
    "test_no_recipe_ends_below_its_start",
    "test_one_at_a_time_on_a_cpu_and_processes_of_them_where_asked",
    "test_one_pass_serves_all_folds_and_their_predictions",
    "test_ranks_are_not_told_as_probabilities",
    "test_resumes_without_training_again",
    "test_sessions_end_in_the_weights_of_an_uninterrupted_training",
    "test_sigterm_is_as_polite_as_ctrl_c",
    "test_the_command_exports_takes_over_and_says_what_it_cannot",
    "test_the_local_answers_at_every_size",
    "test_the_map_shows_the_picture_under_the_pointer",
    "test_the_notebook_runs_as_on_kaggle",
    "test_the_real_pieces_are_measured_and_training_goes_by_what_was_chosen",
    "test_the_same_probabilities_as_from_pictures",
    "test_trained_weights_are_not_predicted_from_first_ones",
    "test_training_draws_and_outlives_what_cannot_be_drawn",
    "test_training_tells_its_tracker",
    "test_training_tells_the_epoch",
    "test_two_folds_train_side_by_side_and_the_failed_one_is_made_up_for",
    "test_two_processes_lose_nothing",
    "test_two_processes_train_the_weights_of_one",
    "test_two_tabs_lose_nothing",
    "test_validation_and_test_pictures_see_none_of_it",
    "test_what_hangs_is_given_up",
    "test_what_kaggle_refuses_is_one_line_and_the_rest_goes_on",
    "test_what_the_stages_left_is_examined",
    "test_without_its_package_the_notebook_says_so_and_the_sample_stays",
    "test_without_ray_one_line_says_what_to_install",
}


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark as `quick` what neither is in SLOW nor trains folds in a fixture.

    Files of slow tests come first: one of them at the end would leave the other process idle.
    """
    slow, total = Counter[Path](), Counter(item.path for item in items)
    for item in items:
        if item.originalname in SLOW or {"trained", "bundled"} & {*item.fixturenames}:
            slow[item.path] += 1
        else:
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: slow[item.path] / total[item.path], reverse=True)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Thousands of files are synced, some milliseconds each, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(autouse=True)
def nothing_to_look_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No curves and no page in this process, a second each, but where a test is about them."""
    looked_at = request.node.originalname == REPORTED
    if not looked_at and not {"pages", "figures"} & {*request.path.parts}:
        no_curves(monkeypatch)
        monkeypatch.setattr("pipeline.ensemble.tell", lambda name: None)


def no_curves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("pipeline.figures.curves.LiveCurves.__call__", lambda self, done: None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`made_once(name, make)`: a folder that `make` has filled, in one process for all that test.

    Do not change it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        home, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(home, ignore_errors=True)  # another process may have failed
                home.mkdir()
                make(home)
                done.touch()
        return home

    return folder


@pytest.fixture(scope="session")
def drawn(made_once: Callable[..., Path]) -> Path:
    """60 training and 12 test pictures of 4 species, with twins and contradictory labels."""

    def draw(home: Path) -> None:
        draw_competition(home / "demo", train=60, test=12, species=4, size=48, workers=1)

    return made_once("drawn", draw) / "demo"


@pytest.fixture
def space(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project: data/demo is a copy of the drawn competition."""
    shutil.copytree(drawn, tmp_path / "data" / "demo")
    enter(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def write(space: Path) -> Callable[..., str]:
    """Write an experiment: `write(train={"lr": 0.1})` changes the tiny one; returns its path."""

    def write_experiment(name: str = "tiny", **changes: object) -> str:
        path = space / f"{name}.yaml"
        path.write_text(yaml.safe_dump(laid_over(TINY, changes)))
        return str(path)

    return write_experiment


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a stage in this process as the command line would; returns what it printed."""

    def run_command(stage: str, *args: str, expect: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", [stage, *args])
        capsys.readouterr()
        code = 0
        try:
            run_stage(import_module(f"pipeline.{stage}").main)
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        text = captured.out + captured.err
        assert code == expect, f"{stage} {args} ended with {code}:\n{text}"
        return text

    return run_command


@pytest.fixture
def split(run: Callable[..., str]) -> Callable[[str], str]:
    """Prepare an experiment and cut its folds; returns it."""

    def prepare_and_split(experiment: str) -> str:
        run("prepare", experiment)
        run("folds", experiment)
        return experiment

    return prepare_and_split


@pytest.fixture(scope="session")
def trained_once(drawn: Path, made_once: Callable[..., Path]) -> Path:
    """A project whose tiny experiment is trained: do not change it."""

    def train(home: Path) -> None:
        shutil.copytree(drawn, home / "data" / "demo")
        with pytest.MonkeyPatch.context() as patch:
            enter(patch, home)
            no_curves(patch)
            tiny = experiment(home / "tiny.yaml", TINY)
            stage("prepare")(tiny)
            stage("folds")(tiny)
            for fold in (0, 1):
                stage("train")(tiny, [fold])

    return made_once("trained", train)


@pytest.fixture
def trained(trained_once: Path, write: Callable[..., str], space: Path) -> str:
    """The tiny experiment with both folds trained."""
    for part in ("runs", "folds"):
        shutil.copytree(trained_once / part, space / part, dirs_exist_ok=True)
    (images,) = (space / "runs" / "_data").rglob("images.csv")
    record = records.load(images) | {"data": str((space / "data" / "demo").resolve())}
    records.write_json(
        records.record_path(images), record | {records.CHECK: records.digest(record)}
    )
    return write()


@pytest.fixture
def finished(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str]
) -> Callable[..., str]:
    """Stands in for training: a run's records and answers, out of fold right on three of four
    pictures; `ensemble` blends them in earnest. Returns the name of the run."""

    def make(name: str = "tiny", seed: int = 0, **changes: object) -> str:
        pretend_run(load_experiment(split(write(name, **changes))), seed)
        return name

    return make


def pretend_run(settings: Experiment, seed: int = 0) -> None:
    """Records and answers of all folds."""
    prepared, table = load_prepared(settings), load_folds(settings)
    rows, draw, folds = prepared.rows, np.random.default_rng(seed), folds_digest(table)
    for fold in range(settings.folds.n):
        pretend_model(settings, fold)
        oof, test = table[table.fold == fold], rows[rows.split == "test"]
        for part, ids, labels in (("oof", oof.image, oof.label), ("test", test.id, None)):
            answers = pretend_answers(list(ids), labels, classes_of(table), draw)
            out = prediction_path(settings.name, fold, part, settings.predict.views_name)
            answers.save(out)
            pixels = prepared.record["digests"]["train" if part == "oof" else "test"]
            records.commit(out, {"pixels": pixels}, time.monotonic(), folds=folds)


def pretend_model(settings: Experiment, fold: int) -> None:
    """A log of two rows, and a record of weights that are none."""
    model = model_path(settings.name, fold)
    with records.writing(model) as tmp:
        tmp.write_bytes(b"weights")
    log = "epoch,lr,train_loss,valid_loss,valid_score,images_per_s,seconds\n"
    log += f"0,0,,{1.5 + fold},0.4,,1\n1,0.001,0.9,0.8,0.75,50,2\n"
    (model.parent / "log.csv").write_text(log)
    key = {**settings.key(), "fold": fold}
    records.commit(model, key, time.monotonic(), images={"train": 30, "valid": 30})


def pretend_answers(
    ids: list[str], labels: pd.Series | None, classes: list[str], draw: np.random.Generator
) -> Predictions:
    """Sure of one class each, by chance; with labels three of four are right."""
    prob = draw.dirichlet(np.ones(len(classes)), len(ids)) / 4
    sure = draw.integers(0, len(classes), len(ids))
    if labels is not None:
        right = [classes.index(label) for label in labels]
        sure = np.where(draw.random(len(ids)) < 0.75, right, sure)
    prob[np.arange(len(ids)), sure] += 0.75
    return Predictions(ids, classes, prob.astype(np.float32))


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleStub]:
    """A Kaggle of its own, to which the real client is sent with a good token; nobody waits."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with KaggleStub() as stub:
        sent = {"HOME": str(tmp_path), "KAGGLE_API_TOKEN": stub.token, **stub.environment}
        for name, value in sent.items():
            monkeypatch.setenv(name, value)
        yield stub


@pytest.fixture
def blended() -> Callable[..., str]:
    """Stands in for train, predict and ensemble: answers to the test pictures, by chance."""

    def blend(experiment: str, name: str = "tiny") -> str:
        settings = load_experiment(experiment)
        rows = load_prepared(settings).rows
        test, classes = list(rows.id[rows.split == "test"]), classes_of(load_folds(settings))
        prob = np.random.default_rng(0).dirichlet(np.ones(len(classes)), len(test))
        out = root("runs") / name / "test.npz"
        Predictions(test, classes, prob.astype(np.float32)).save(out)
        key = {"competition": settings.competition, "members": {}, "weights": {}}
        scores = {name: {"folds": [0.5, 0.75], "all": 0.625}}
        records.commit(out, key, 0.0, metric="accuracy", scores=scores)
        return name

    return blend


@pytest.fixture(scope="session")
def bundled(drawn: Path, made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """form -> a project whose ensemble `blend` was submitted and bundled: do not change it.

    `label` blends two runs of two folds, the first seen in two views, the second on pictures that
    are not square; `probability` is the first.
    Another form is the name of a competition: one run on its tiny copy.
    """

    def make(form: str, home: Path) -> None:
        write_runs = own_runs if form in ("label", "probability") else runs_of_a_copy
        with pytest.MonkeyPatch.context() as patch:
            enter(patch, home)
            no_curves(patch)
            blend(*write_runs(form, home, drawn))

    return lambda form: made_once(f"bundled-{form}", partial(make, form))


def runs_of_a_copy(form: str, home: Path, _: Path) -> list[str]:
    from test_competitions import COPIES, tiny_copy  # late: they import half of the tests
    from test_task_copies import drawn_copy

    if form in COPIES:
        tiny_copy(form, home / "data" / form)
        settings = TINY | {"competition": form}
    else:
        settings = TINY | INSTANT | {"competition": drawn_copy(form, home)}
    return [experiment(home / "one.yaml", settings)]


def own_runs(form: str, home: Path, drawn: Path) -> list[str]:
    data = home / "data" / "leaves"
    shutil.copytree(drawn, data)
    if form == "probability":
        classes = sorted(set(pd.read_csv(data / "train.csv").label))
        sample = pd.read_csv(data / "sample_submission.csv")[["image"]]
        sample.assign(**dict.fromkeys(classes, 0.25)).to_csv(
            data / "sample_submission.csv", index=False
        )
    competition = {"slug": "leaves", "submission": form}
    (home / "leaves.yaml").write_text(yaml.safe_dump(competition))
    settings = TINY | {"competition": str(home / "leaves.yaml")}
    hflip = {"predict": {"tta": "hflip"}}
    runs = [experiment(home / "one.yaml", settings, **INSTANT, **hflip)]
    if form == "label":
        wide = {"model": {**TINY["model"], "size": [32, 40]}}
        runs.append(experiment(home / "two.yaml", settings, **wide))
    return runs


def blend(*runs: str) -> None:
    """All stages of two-fold runs, the last of double weight, to the bundle of `blend`."""
    stage("prepare")(runs[0])
    stage("folds")(runs[0])
    for run in runs:
        stage("prepare")(run)
        for fold in (0, 1):
            stage("train")(run, [fold])
        stage("predict")(run)
    members = [runs[0], *(f"{run}:2" for run in runs[1:])]
    stage("ensemble")(members, "blend", no_report=True)
    stage("submit")("blend")
    stage("bundle")("blend")


def experiment(path: Path, settings: dict[str, object], **changes: object) -> str:
    path.write_text(yaml.safe_dump({**settings, **changes}))
    return str(path)


def stage(name: str) -> Callable[..., None]:
    return import_module(f"pipeline.{name}").main


def enter(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Make a folder the project that all stages work in."""
    for name in ("data", "runs", "folds", "labels", "submissions", "weights"):
        patch.setenv(f"{name.upper()}_DIR", str(home / name))
