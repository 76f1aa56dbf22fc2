"""A file of the user's own: every kind of function works, is in the key, travels, and is told."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline.analysis.evidence import load_evidence
from pipeline.base import records
from pipeline.base.cli import UserError, explain
from pipeline.base.competition import Competition, load_competition
from pipeline.base.config import load_experiment
from pipeline.base.plugins import read_plugins
from pipeline.base.runs import model_path, own_file
from pipeline.inference.metrics import METRICS, sign_of
from pipeline.kaggle.bundle.submit_bundle import copy_model
from pipeline.kaggle.bundle.train_bundle import files_of_home
from pipeline.kaggle.notebook.manifest import BundledModel
from pipeline.model.build import load_model
from pipeline.pages.album import Album
from pipeline.pages.compose import augmented
from pipeline.train import make_trainer
from pipeline.training.trainer import Trainer

DOCS = Path(__file__).parents[1] / "docs" / "plugins.md"
MINE = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
MINE += (
    'import os\n\nassert os.environ["NO_ALBUMENTATIONS_UPDATE"], "it may import albumentations"\n'
)
OWN = {
    "plugins": "mine.py",
    "augment": [{"Stripe": {"rows": 3}}],
    "model": {"classifier": "GeM"},
    "train": {"loss": "poly", "optimizer": "descent", "epochs": 1, "lr": 0.1},
}


@pytest.fixture
def mine(space: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(space)
    path = space / "mine.py"
    path.write_text(MINE)
    rules = {"metric": "misses", "plugins": "mine.py"}
    (space / "ours.yaml").write_text(yaml.safe_dump(rules))
    return path


def test_every_kind_trains_predicts_and_travels(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], mine: Path
) -> None:
    (mine.parent / "data" / "demo").rename(mine.parent / "data" / "ours")
    experiment = split(write(competition="ours.yaml", **OWN))
    told = run("train", experiment, "--fold", "0")
    assert re.search(r"misses 0\.\d+", told), told
    record = records.load(path := model_path("tiny", 0))
    assert record["key"]["plugins"] == record["plugins"] == records.file_digest(mine)
    model = load_model(path)[0]
    assert model.head.fc.bias.abs().max() > 0.2, "it trained: it began within .102"
    settings = load_experiment(experiment)
    assert Path("mine.py") in files_of_home(settings, load_competition("ours.yaml"), [0])
    mine.write_text(MINE + "# other\n")
    told = run("train", experiment, "--fold", "0", expect=2)
    assert re.search(r"plugins: \"\w+\" → \"\w+\"; take a new name", told)
    run("predict", experiment, "--fold", "0", "--split", "test")
    mine.unlink()
    one = {"file": "tiny-fold0.safetensors", "run": "tiny", "fold": 0, "weight": 1, "pixels": 40}
    bundle = mine.parent / "bundle"
    bundle.mkdir()
    copy_model(BundledModel(**one, fit="stretch", predict={}), bundle)
    images = torch.randn(2, 3, 32, 32)
    again = load_model(bundle / one["file"])[0]
    assert torch.equal(again(images), model(images))
    mine.write_text(MINE)
    cosine = {"model": {"classifier": "Cosine"}, "train": {"loss": "arcface", "epochs": 1}}
    second = write("second", competition="ours.yaml", plugins="mine.py", **cosine)
    run("train", second, "--fold", "0")
    run("predict", second, "--fold", "0")
    assert re.search(
        r"misses +CV(.|\n)*second none +0\.\d+", run("ensemble", second, "--fold", "0")
    )
    (own := bundle / "tiny-fold0.plugins.py").write_text("raise SystemExit\n")
    with pytest.raises(UserError, match=f"{own}: not the plugins that the record"):
        load_model(bundle / one["file"])


def test_a_file_that_is_edited_while_it_trains_is_kept_as_it_was(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment, copy = split(write(**OWN)), own_file(model_path("tiny", 0))

    def then_edit(function: Callable) -> Callable:
        def call(*args: object) -> object:
            answer = function(*args)
            mine.write_text(MINE + "# other\n")
            return answer

        return call

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.train.make_trainer", then_edit(make_trainer))
        told = run("train", experiment, "--fold", "0", expect=2)
    assert "mine.py was edited just now; give the same command again" in told
    mine.write_text(MINE)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", then_edit(Trainer.train_epoch))
        run("train", experiment, "--fold", "0")
    assert copy.read_text() == MINE
    load_model(model_path("tiny", 0))
    plain = write(train={"epochs": 1})
    assert "plugins" in run("train", plain, "--fold", "0", expect=2)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.train.make_trainer", interrupt)
        run("train", plain, "--fold", "0", "--force", expect=130)
    assert not copy.exists(), "it goes with the model that it was of"
    copy.write_text("of a fold that was not trained to its end")
    monkeypatch.setattr(Trainer, "run", interrupt)
    run("train", plain, "--fold", "0", expect=130)
    assert not copy.exists()


def test_a_report_shows_an_own_transform_as_it_was_or_does_without(
    finished: Callable[..., str],
    run: Callable[..., str],
    mine: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = finished(plugins="mine.py", augment=OWN["augment"])
    experiment = mine.parent / f"{name}.yaml"
    run("ensemble", str(experiment), "--no-report")
    for path in (model_path(name, fold) for fold in (0, 1)):
        key = records.load(path)["key"] | {"plugins": records.file_digest(mine)}
        records.commit(path, key, 0.0)
    (mine.parent / "runs" / name / f"{name}.yaml").write_text(experiment.read_text())
    some = load_evidence(name)
    assert some.settings.plugins == "mine.py" and augmented(some, Album(some.prepared))
    mine.write_text(MINE + "# other\n")
    some = load_evidence(name)
    assert augmented(some, Album(some.prepared)) == []
    said = capsys.readouterr().err
    assert "not shown what training sees: augment: albumentations has no 'Stripe'" in said


HITS = """
from pipeline.plugins import metric

@metric
def hits(target, prob):
    return (prob.argmax(1) == target).sum()
"""


def test_a_metric_may_give_numbers_of_numpy(
    run: Callable[..., str], write: Callable[..., str], split: Callable[[str], str], mine: Path
) -> None:
    mine.write_text(HITS)
    (mine.parent / "ours.yaml").write_text(yaml.safe_dump({"metric": "hits", "plugins": "mine.py"}))
    (mine.parent / "data" / "demo").rename(mine.parent / "data" / "ours")
    command = "train", split(write(competition="ours.yaml")), "--fold", "0", "--hours", "0"
    assert "stops after epoch 1" in run(*command, expect=75)
    assert "goes on after epoch 1" in run(*command)
    assert type(records.load(model_path("tiny", 0))["scores"]["valid_score"]) is float


THEIRS = """
from pipeline.plugins import metric

@metric
def misses(target, prob):
    return 7

@metric(lower_is_better=True)
def macro_f1(target, prob):
    return 7
"""


def test_metrics_are_those_of_the_competition_that_was_loaded_last(
    write: Callable[..., str], mine: Path
) -> None:
    mine.with_name("theirs.py").write_text(THEIRS)
    mine.with_name("third.py").write_text(THEIRS.replace("macro_f1", "hits"))

    def found(name: str) -> tuple[float, int]:
        return METRICS[name](np.array([0, 1]), np.eye(2)), sign_of(name)

    load_experiment(write(competition="ours.yaml", plugins="theirs.py"))
    assert found("misses") == (0, -1) and found("macro_f1") == (1, 1), "not the experiment's"
    Competition(metric="misses", plugins="third.py")
    assert found("misses") == (7, 1) and found("hits") == (7, -1)
    load_competition("ours.yaml")
    assert found("misses") == (0, -1)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plugins": "no.py"}, "plugins: no file 'no.py'"),
        (
            {"train": {"loss": "step"}},
            "bce or focal; of your plugins: poly, arcface",
        ),
        ({"model": {"classifier": "Gem"}}, "did you mean 'GeM'?; there are: linear, GeM, Cosine"),
        ({"augment": ["Strip"]}, "no 'Strip'; did you mean 'Stripe'?; of your plugins: Stripe"),
        ({"train": {"optimizer": "descend"}}, "no 'descend'; did you mean 'descent'"),
        (
            {"model": {"classifier": "GeM", "head_init": "lda"}},
            "needs features: last and head_init: random",
        ),
    ],
)
def test_a_wrong_name_is_one_line_of_what_there_is(
    changes: dict, said: str, run: Callable, write: Callable, split: Callable, mine: Path
) -> None:
    split(write())
    assert said in run("train", write(**OWN | changes), "--fold", "0", expect=2)


@pytest.mark.parametrize("name", ["rmse", "map_at_77"])
def test_a_metric_under_a_name_of_ours_is_refused_not_ignored(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"from pipeline.plugins import metric\n\n@metric\ndef {name}(*_):\n    return 0.0\n"
    )
    with pytest.raises(ValueError, match=f"mine.py: metric {name} is one of ours"):
        Competition(task="regression", metric="rmse", plugins=str(path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("import torch\n", "import torch\nx = 1 / 0\n", "line 3, in <module>: ZeroDivisionError: "),
        ("def poly(", "def poly((", "line 10: "),
        ("(log + log.exp())", "torch.ones(7)", "line 13, in poly: RuntimeError: The size"),
        (
            "exp())).sum(1)",
            "exp()))",
            "poly gives torch.Size([2, 4]) for 2 rows, not a number a row",
        ),
        ("= 128", "= self.no", "line 32, in apply: AttributeError: 'Stripe' object has no"),
        ("self.fc(maps", "self.fc(map", "line 45, in forward: AttributeError: "),
    ],
)
def test_what_raises_is_told_by_its_line(
    old: str, new: str, said: str, run: Callable, write: Callable, split: Callable, mine: Path
) -> None:
    split(write())
    mine.write_text(MINE.replace(old, new, 1))
    told = run("train", write(**OWN), "--fold", "0", expect=2)
    assert (f"mine.py {said}" if said.startswith("line") else said) in told
    assert "Traceback" not in told


def test_a_line_is_told_from_a_loader_process(mine: Path) -> None:
    read_plugins(mine)
    text = f'Caught KeyError in DataLoader worker process 0.\nOriginal Traceback\n  File "{mine}", '
    error = KeyError(f"{text}line 32, in apply\n    x\nKeyError: 'rows'")
    error.args = (type("Message", (str,), {"__repr__": str.__str__})(error.args[0]),)
    assert explain(error) == f"{mine} line 32, in apply: KeyError: 'rows'"
    assert np.isclose(read_plugins(mine)["metric"]["misses"](np.array([1, 0]), np.eye(2)), 1)
