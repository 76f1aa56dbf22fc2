"""An experiment over another: by `base:` in its file, by --set on a command line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import INSTANT

from pipeline.base.cli import UserError
from pipeline.base.config import load_experiment
from pipeline.base.derived import derived

EXPERIMENTS = {
    "a": {"name": "a", "competition": "demo", "augment": "d4"}
    | {"model": {"size": 32, "freeze": "blocks.2"}},
    "b": {"base": "a", "model": {"size": 48}, "train": {"lr": 0.5, "epochs": 2}},
    "c": {"base": "b.yaml", "model": {"freeze": None}, "train": {"lr": 0.25}},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    for name, values in EXPERIMENTS.items():
        write(tmp_path / f"{name}.yaml", values)
    return tmp_path


def write(path: Path, values: dict[str, object]) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_base_gives_what_a_file_does_not_say(home: Path) -> None:
    a, b, c = (load_experiment(str(home / f"{name}.yaml")) for name in "abc")
    assert (a.name, b.name, c.name) == ("a", "b", "c")
    assert [x.model.size for x in (a, b, c)] == [32, 48, 48]
    assert [x.model.freeze for x in (a, b, c)] == ["blocks.2", "blocks.2", None]
    assert [x.train.lr for x in (b, c)] == [0.5, 0.25]
    assert c.train.epochs == 2 and c.augment == a.augment != []
    whole = {"competition": "demo", "model": {"size": 48, "freeze": "blocks.2"}, "augment": "d4"}
    whole["train"] = {"lr": 0.5, "epochs": 2}
    written_out = load_experiment(write(home / "whole.yaml", whole))
    assert written_out.key() == b.key(), "a record holds all, whoever says it"
    assert "base" not in b.model_dump()


def test_a_base_that_leads_nowhere(home: Path) -> None:
    def load(**values: object) -> str:
        return refusal(lambda: load_experiment(write(home / "bad.yaml", values)))

    write(home / "a.yaml", {"base": "c"})
    assert "a.yaml: base: leads back to itself: a → c → b → a" in refusal(
        lambda: load_experiment(str(home / "a.yaml"))
    )
    assert "bad.yaml: base: no experiment 'dmeo'" in load(base="dmeo")
    assert "did you mean 'demo'" in load(base="dmeo")
    assert "bad.yaml: base: no experiment" in load(base="gone.yaml")
    assert "a name or a path is expected, not 3" in load(base=3)
    said = load(base="demo", train={"epoch": 1})
    assert "bad.yaml (base: demo): unknown key 'train.epoch'; did you mean 'epochs'" in said
    own = write(home / "demo.yaml", {"base": "demo", "train": {"seed": 7}})
    assert load_experiment(own).train.seed == 7, "its own name means the shipped one"


def test_set_makes_an_experiment_that_all_stages_know(home: Path) -> None:
    source = str(home / "b.yaml")
    assert derived(source, None, None) == source
    assert derived(source, ["train.lr=1e-4", "augment=none", "model.freeze="], "b-lr") == "b-lr"
    made = load_experiment("b-lr")
    assert (made.name, made.train.lr, made.train.epochs) == ("b-lr", 1e-4, 2)
    assert made.augment == [] and made.model.freeze is None
    assert derived("b-lr", ["train.seed=3"], "b-lr-3") == "b-lr-3"
    assert load_experiment("b-lr-3").train.model_dump() == {**made.train.model_dump(), "seed": 3}
    assert derived(source, ["train.lr=2e-4"], "b-lr") == "b-lr", "nothing was trained: no harm"
    (home / "runs/b-lr/fold0").mkdir()
    assert derived(source, ["train.lr=2e-4"], "b-lr") == "b-lr"
    said = refusal(lambda: derived(source, ["train.lr=3e-4"], "b-lr"))
    assert 'b-lr was set otherwise: train.lr: "2e-4" → "3e-4"' in said


def test_what_another_process_is_just_writing_is_no_other_run(home: Path) -> None:
    """Tasks of a cluster begin one run at once, and one may have been killed there."""
    (home / "runs/b-lr").mkdir(parents=True)
    for name in (".lock", ".b-lr.yaml.other-1.tmp"):
        (home / "runs/b-lr" / name).touch()
    assert derived(str(home / "b.yaml"), ["train.lr=1e-4"], "b-lr") == "b-lr"
    assert load_experiment("b-lr").train.lr == 1e-4


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        (["train.lr=1"], None, "needs a name: --name b-2"),
        (None, "x", "--name 'x': names what --set"),
        (["train.lr"], "x", "expected KEY=VALUE"),
        (["train.lr.x=1"], "x", "expected KEY=VALUE"),
        (["train.=1"], "x", "expected KEY=VALUE"),
        (["base=demo"], "x", "base: is no setting"),
        (["train.lr=[1"], "x", "is no YAML"),
        (["train.epoch=1"], "x", "did you mean 'epochs'"),
        (["train.lr=fast"], "x", "train.lr"),
        (["train=1"], "x", "train: it should be"),
        (["train.lr=1"], "demo", "an experiment has this name"),
        (["train.lr=1"], "../x", "--name '../x'"),
        (["train.lr=1"], "other", "holds another run"),
    ],
)
def test_what_set_refuses(
    home: Path, changes: list[str] | None, name: str | None, said: str
) -> None:
    (home / "runs/other/fold0").mkdir(parents=True)
    assert said in refusal(lambda: derived(str(home / "b.yaml"), changes, name))
    assert [path.name for path in (home / "runs").iterdir()] == ["other"]


@pytest.mark.parametrize("options", [[], ["--set", "train.seed=3", "--name", "b"]])
def test_a_hint_is_a_command_that_leads_on(
    write: Callable[..., str], run: Callable[..., str], options: list[str]
) -> None:
    """It names an experiment as the command was given it: by its path, or as --name called it."""
    experiment = write("a", **INSTANT)
    for stage in ("prepare", "folds"):
        said = run("predict", experiment, *options, expect=2)
        hint = re.search(r"run python -m pipeline\.(.+)", said)[1].split()
        assert hint == [stage, "b" if options else experiment]
        run(*hint)
