"""All stages, twice: what changed is made again, and nothing else."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

REPO = Path(__file__).parents[1]
STAGES = ("prepare", "folds", "train", "predict", "ensemble", "submit")


def files(space: Path) -> dict[str, int]:
    """Every file made, by its time of writing."""
    made = [*space.glob("runs/**/*"), *space.glob("folds/*"), *space.glob("submissions/*")]
    return {
        str(p.relative_to(space)): p.stat().st_mtime_ns
        for p in made
        if p.is_file() and p.name != ".lock"
    }


def run_all(run: Callable[..., str], experiment: str) -> list[str]:
    name = Path(experiment).stem
    return [run(stage, name if stage == "submit" else experiment) for stage in STAGES]


def test_second_run_does_nothing_and_changes_reach_as_far_as_they_must(
    run: Callable[..., str], write: Callable[..., str], trained: str, space: Path
) -> None:
    first = run_all(run, trained)
    assert "hidden test 0." in first[-1]
    made = files(space)
    again = run_all(run, trained)
    assert all("up to date" in said for said in again), again
    assert files(space) == made

    write(predict={"tta": "hflip"})
    said = run_all(run, trained)
    assert ["up to date" in text for text in said] == [True, True, True, False, False, False]
    touched = {name for name, when in files(space).items() if made.get(name) != when}
    assert {re.sub(r"fold\d", "fold", name) for name in touched} == {
        "runs/tiny/fold/oof.hflip.npz",
        "runs/tiny/fold/oof.hflip.npz.json",
        "runs/tiny/fold/test.hflip.npz",
        "runs/tiny/fold/test.hflip.npz.json",
        "runs/tiny/oof.npz",
        "runs/tiny/test.npz",
        "runs/tiny/test.npz.json",
        "runs/tiny/report.html",
        "runs/tiny/report.html.json",
        "submissions/tiny.csv",
        "submissions/tiny.csv.json",
    }


def test_submission_is_right_and_its_record_tells_how(
    run: Callable[..., str], trained: str, space: Path
) -> None:
    run_all(run, trained)
    table = pd.read_csv(space / "submissions/tiny.csv")
    sample = pd.read_csv(space / "data/demo/sample_submission.csv")
    solution = pd.read_csv(space / "data/demo/solution.csv").set_index("image").label
    assert list(table.columns) == list(sample.columns)
    assert list(table.image) == list(sample.image)
    record = json.loads((space / "submissions/tiny.csv.json").read_text())
    assert record["hidden"] == pytest.approx(
        (table.label == list(solution[table.image])).mean(), abs=1e-4
    )
    assert record["members"]["tiny"]["tta"] == "none"
    assert len(record["cv"]["folds"]) == 2
    assert {"git", "versions", "seconds"} <= set(record)


def test_a_sample_changed_is_a_submission_changed(
    run: Callable[..., str], trained: str, space: Path
) -> None:
    run_all(run, trained)
    path = space / "data/demo/sample_submission.csv"
    sample = pd.read_csv(path)
    sample[::-1].to_csv(path, index=False)
    assert "up to date" not in run("submit", "tiny")
    assert list(pd.read_csv(space / "submissions/tiny.csv").image) == list(sample.image[::-1])
    sample[:-1].to_csv(path, index=False)
    before = (space / "submissions/tiny.csv").read_bytes()
    assert "foreign image names" in run("submit", "tiny", expect=2)
    assert (space / "submissions/tiny.csv").read_bytes() == before


def test_probability_competition_with_other_names(
    run: Callable[..., str], write: Callable[..., str], space: Path
) -> None:
    """dog-breed's form: ids without suffix, one column a class, log loss; a YAML of its own."""
    dogs = space / "data" / "dogs"
    shutil.copytree(space / "data/demo/images", dogs / "train")
    (space / "data/demo").rename(space / "data/away")
    for name in ("train", "test"):
        table = pd.read_csv(space / f"data/away/{name}.csv")
        table["id"] = table.pop("image").str.extract(r"(\d+)")[0]
        table.rename(columns={"label": "breed"}).to_csv(dogs / f"{name}.csv", index=False)
    classes = sorted(pd.read_csv(dogs / "train.csv").breed.unique())
    sample = pd.read_csv(dogs / "test.csv", dtype=str)
    sample[classes[::-1]] = 0.25
    sample.to_csv(dogs / "sample_submission.csv", index=False)
    competition = {"id": "id", "label": "breed", "image": "train/{id}.jpg"}
    competition |= {"submission": "probability", "metric": "log_loss"}
    (space / "dogs.yaml").write_text(yaml.safe_dump(competition))
    experiment = write("dogs-tiny", competition=str(space / "dogs.yaml"), train={"epochs": 1})
    for stage in ("prepare", "folds"):
        run(stage, experiment)
    for fold in ("0", "1"):
        run("train", experiment, "--fold", fold)
    said = run_all(run, experiment)
    assert "log_loss CV " in said[-1]
    table = pd.read_csv(space / "submissions/dogs-tiny.csv", dtype={"id": str})
    assert list(table.columns) == ["id", *classes[::-1]]
    assert list(table.id) == list(sample.id)
    assert ((table[classes].sum(axis=1) - 1).abs() < 1e-4).all()


def test_list_of_stages_appears_at_once() -> None:
    fastest = min(timed([sys.executable, "-m", "pipeline"])[0] for _ in range(3))
    assert fastest < 0.5
    said = timed([sys.executable, "-m", "pipeline"])[1]
    for stage in STAGES:
        assert re.search(rf"^  {stage}\s+Stage \d: \w", said, re.MULTILINE), said


@pytest.mark.parametrize("stage", STAGES)
def test_help_says_what_is_read_and_written(run: Callable[..., str], stage: str) -> None:
    said = run(stage, "--help")
    assert "reads   " in said
    assert "writes  " in said


def test_help_of_a_real_command_line() -> None:
    said = timed([sys.executable, "-m", "pipeline", "train", "--help"])[1]
    assert "reads   " in said
    assert "writes  " in said


def timed(command: list[str]) -> tuple[float, str]:
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=True)
    return time.monotonic() - started, done.stdout


def test_real_command_line_ends_with_2_and_one_line(space: Path) -> None:
    command = [sys.executable, "-m", "pipeline.prepare", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no experiment 'nothing'")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["tiny.yaml", "--tta", "diagonal"], "'diagonal' is not one of"),
        (["tiny.yaml", "--fp16"], "No such option: --fp16"),
        ([], "Missing argument"),
    ],
)
def test_wrong_options_are_one_line(
    words: list[str], reason: str, run: Callable[..., str], space: Path
) -> None:
    said = run("predict", *words, expect=2)
    assert said.startswith("error: ")
    assert reason in said
    assert said.endswith("(--help tells more)\n")
    assert said.count("\n") == 1


def test_mistyped_stage_ends_with_2() -> None:
    command = [sys.executable, "-m", "pipeline", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 2
    assert done.stderr == "error: no stage 'trian'\n"


NOTES = """#!/bin/sh
echo "$@" >> {asked}
[ "$2" = venv ] && mkdir "$3/bin" && cp "$0" "$3/bin/python"
exit {code}
"""
Ended = tuple[subprocess.CompletedProcess[str], list[str]]
RunSh = Callable[..., Ended]


def write_python(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def run_sh(space: Path) -> RunSh:
    """run.sh with a Python that only notes what it is asked for: how it ended, and the notes."""
    stamp = hashlib.sha256((REPO / "requirements.txt").read_bytes()).hexdigest()[:16]
    venv, asked = space / "venv", space / "asked"
    write_python(venv / "bin" / "python", NOTES.format(asked=asked, code=0))
    (venv / f"{stamp}.installed").touch()
    asked.touch()

    def start(*words: str, **environment: str) -> Ended:
        variables = os.environ | {"VENV": str(venv)} | environment
        how = {"cwd": space, "env": variables, "capture_output": True, "text": True}
        done = subprocess.run(["bash", REPO / "run.sh", *words], **how)
        return done, asked.read_text().splitlines()

    return start


def test_run_sh_takes_a_mistyped_path_for_no_other_experiment(run_sh: RunSh, space: Path) -> None:
    _, asked = run_sh("nowhere/x.yaml")
    assert f"-m pipeline.fetch --experiment {space}/nowhere/x.yaml" in asked
    assert not any("pipeline.demo" in line for line in asked)


def test_run_sh_takes_yml_too(run_sh: RunSh, space: Path) -> None:
    done, asked = run_sh("mine.yml")
    assert done.returncode == 0
    assert f"-m pipeline.ensemble {space}/mine.yml" in asked
    assert asked[-1] == "-m pipeline.submit mine"


def test_run_sh_tells_what_it_is_for(run_sh: RunSh) -> None:
    done, asked = run_sh("--help")
    assert done.stdout.startswith("The reference pipeline") and "./run.sh test" in done.stdout
    assert "set -" not in done.stdout and done.returncode == 0 and asked == []


def test_run_sh_installs_anew_for_another_python(run_sh: RunSh, space: Path) -> None:
    """Whose packages are others, though the requirements were installed for the one before."""
    venv, another = space / "venv", space / "another"
    write_python(venv / "bin" / "python", "#!/bin/sh\nexit 1\n")  # of a Python without packages
    (venv / "pyvenv.cfg").touch()
    (venv / "lib").mkdir()
    write_python(another, NOTES.format(asked=space / "asked", code=1))
    done, asked = run_sh("demo", "submit", PYTHON=str(another))
    assert done.returncode == 2 and "another is not Python 3.11 or newer" in done.stderr
    assert (venv / "lib").is_dir() and len(asked) == 1

    write_python(another, NOTES.format(asked=space / "asked", code=0))
    done, asked = run_sh("demo", "submit", PYTHON=str(another))
    assert done.returncode == 0 and not (venv / "lib").exists()
    assert [line.partition(" --")[0] for line in asked[2:]] == [
        f"-m venv {venv}",
        "-m pip install",
        "-m pipeline.demo",
        "-m pipeline.submit demo",
    ]
    assert len(list(venv.glob("*.installed"))) == 1


def test_run_sh_knows_its_stages() -> None:
    script = (REPO / "run.sh").read_text()
    assert f"stages=({' '.join(STAGES)})" in script
    assert "set -euo pipefail" in script


def test_a_python_without_the_requirements_says_where_they_are() -> None:
    command = [sys.executable, "-S", "-m", "pipeline.train", "demo"]  # -S: no site-packages
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "source .venv/bin/activate" in done.stderr
