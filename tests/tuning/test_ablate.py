"""The ablation: every variant once per seed, resumed without retraining, held-out scores."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_forms import tiny_form

from pipeline import ablate, train
from pipeline.base import records
from pipeline.base.config import Experiment
from pipeline.base.runs import cv_of, model_path
from pipeline.data import on_device

PLANS = sorted((Path(ablate.__file__).parent / "configs" / "ablations").glob("*.yaml"))


@pytest.fixture
def plan(write: Callable[..., str], space: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its folds are trained in this process: to start one of their own takes seconds each."""

    def train_here(jobs: list[tuple[str, int]], *_: object) -> None:
        for experiment, fold in jobs:
            train.main(experiment, fold=[fold])

    monkeypatch.setattr(ablate, "train_folds", train_here)
    head = {"features": "blocks", "head_init": "lda"}
    base = write(model=head, train={"epochs": 1}, predict={"tta": "hflip"})
    path = space / "tiny-plan.yaml"
    variants = {"as it is": None, "closed form": {"train": {"epochs": 0}}}
    path.write_text(yaml.safe_dump({"base": base, "variants": variants}))
    return str(path)


def test_every_variant_and_seed_once(
    plan: str,
    run: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = []
    monkeypatch.setattr(on_device, "release", lambda: released.append(True))
    split(yaml.safe_load(Path(plan).read_text())["base"])
    text = run("ablate", plan, "--seeds", "2")
    rows = pd.read_csv(space / "runs" / "tiny-tiny-plan" / "results.csv")
    assert list(rows.variant) == ["as it is", "closed form"] * 2
    assert list(rows.seed) == [0, 0, 1, 1]
    assert rows.tta.between(0, 1).all()
    assert len(released) == 4, "a GPU's memory, before others train on it"
    logs = [
        pd.read_csv(model_path(f"tiny-{variant}-0", 0).with_name("log.csv"))
        for variant in ("as-it-is", "closed-form")
    ]
    assert [list(log.epoch) for log in logs] == [[0, 1], [0]]
    assert rows.plain[1] == logs[1].valid_score[0]
    assert "| closed form |" in text
    told = [line for line in text.splitlines() if line.startswith("ablate    trains ")]
    assert told == [
        f"ablate    trains tiny-{variant}-{seed}"
        for seed in range(2)
        for variant in ("as-it-is", "closed-form")
    ]


def test_resumes_without_training_again(
    plan: str,
    run: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split(yaml.safe_load(Path(plan).read_text())["base"])
    first = run("ablate", plan, "--seeds", "1")
    monkeypatch.setattr(ablate, "train_folds", lambda *_: pytest.fail("trained again"))
    again = run("ablate", plan, "--seeds", "1")
    assert again.partition("ablate ")[0] == first[first.index("| |") :].partition("ablate ")[0]


def test_another_base_and_some_variants_only(
    plan: str,
    write: Callable[..., str],
    run: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
) -> None:
    other = write("other", train={"epochs": 1, "lr": 0.002})
    split(other)
    run("ablate", plan, "--base", other, "--only", "it is", "--seeds", "1")
    out = space / "runs" / "other-tiny-plan"
    assert list(pd.read_csv(out / "results.csv").variant) == ["as it is"]
    assert yaml.safe_load((out / "other-as-it-is-0.yaml").read_text())["train"]["lr"] == 0.002
    assert "no variant's name holds 'EMA'" in run("ablate", plan, "--only", "EMA", expect=2)


def test_without_a_held_out_fold_nothing_is_trained(
    plan: str, write: Callable[..., str], run: Callable[..., str]
) -> None:
    said = run("ablate", plan, "--base", write("other", folds="all"), "--only", "it is", expect=2)
    assert "other-as-it-is-0.yaml: folds: all holds nothing out, so no variant has a" in said


def test_an_id_of_several_pictures_is_scored_once(
    plan: str, write: Callable[..., str], run: Callable[..., str], split: Callable[[str], str]
) -> None:
    space = Path(plan).parent
    studies = space / "studies.yaml"
    studies.write_text(yaml.safe_dump(tiny_form("studies", space / "data" / "studies")))
    base = yaml.safe_load((space / "tiny.yaml").read_text())
    split(write(**base | {"competition": str(studies), "train": {"epochs": 0}}))
    run("ablate", plan, "--only", "as it is", "--seeds", "1")
    (found,) = pd.read_csv(space / "runs" / "tiny-tiny-plan" / "results.csv").to_dict("records")
    own = str(space / "runs" / "tiny-tiny-plan" / "tiny-as-it-is-0.yaml")
    for column, views in {"plain": "none", "tta": "hflip"}.items():
        run("predict", own, "--fold", "0", "--tta", views)
        run("ensemble", own, "--fold", "0", "--tta", views, "--name", column, "--no-report")
        cv = cv_of(records.load(space / "runs" / column / "test.npz"))
        assert cv["rows"] == {"all": 10} and found[column] == cv["all"]


def test_a_variant_that_cannot_be_trained_is_told_before_others_are(
    plan: str, run: Callable[..., str], split: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(Path(plan).read_text())
    split(content["base"])
    monkeypatch.setattr(ablate, "train_folds", lambda *_: pytest.fail("trained"))
    for changes, said in (
        ({"train": {"epoch": 1}}, "unknown key 'train.epoch'"),
        ({"model": {"size": 48}}, "no pictures; run python -m pipeline.prepare"),
        (0.1, "variants: late: expected settings, as {train: {lr: 1e-4}}, not 0.1"),
    ):
        content["variants"]["late"] = changes
        Path(plan).write_text(yaml.safe_dump(content))
        assert said in run("ablate", plan, expect=2)
    content["variants"] = {"ema 0.1": None, "EMA (0.1)": None}
    Path(plan).write_text(yaml.safe_dump(content))
    assert "'EMA (0.1)' and 'ema 0.1' would be runs of one name" in run("ablate", plan, expect=2)


def test_bold_is_the_best_mean() -> None:
    rows = pd.DataFrame(
        {
            "variant": ["a", "b", "a", "b"],
            "seed": [0, 0, 1, 1],
            "plain": [0.5, 0.9, 0.7, 0.1],
            "tta": [0.5, 0.9, 0.5, 0.9],
            "minutes": [1.0, 2.0, 3.0, 4.0],
        }
    )
    assert ablate.table(rows, "accuracy").splitlines()[2:] == [
        "| a | **0.600 ± 0.141** | 0.500 ± 0.000 | 2.0 |",
        "| b | 0.500 ± 0.566 | **0.900 ± 0.000** | 3.0 |",
    ]
    assert "| b | **0.500 ± 0.566** | 0.900 ± 0.000 |" in ablate.table(rows, "log_loss")
    undefined = ablate.table(rows[:2].assign(tta=np.nan), "auc").splitlines()
    assert undefined[2:] == ["| a | 0.500 | nan | 1.0 |", "| b | **0.900** | nan | 2.0 |"]


def test_a_plan_without_variants_is_refused(run: Callable[..., str], space: Path) -> None:
    (space / "bad.yaml").write_text("base: demo\n")
    assert "expected base: EXPERIMENT" in run("ablate", str(space / "bad.yaml"), expect=2)
    assert "no ablation 'leafs'" in run("ablate", "leafs", expect=2)


def test_a_changed_variant_is_refused_not_reported_from_its_old_run(
    plan: str, run: Callable[..., str], split: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(Path(plan).read_text())
    split(content["base"])
    run("ablate", plan, "--seeds", "1")
    content["variants"] = {"another": None, "as it is": {"train": {"lr": 0.5}}}
    Path(plan).write_text(yaml.safe_dump(content))
    with monkeypatch.context() as patch:
        patch.setattr(ablate, "train_folds", lambda *_: pytest.fail("trained"))
        told = run("ablate", plan, "--seeds", "1", expect=2)
    assert "train.lr: 0.001 → 0.5; take a new name, or delete its folder (train, ablate: -" in told
    run("ablate", plan, "--seeds", "1", "--force")
    assert records.load(model_path("tiny-as-it-is-0", 0))["key"]["train"]["lr"] == 0.5


def test_a_variant_may_start_from_one_above_it(
    plan: str, run: Callable[..., str], split: Callable[[str], str]
) -> None:
    content = yaml.safe_load(Path(plan).read_text())
    split(content["base"])
    first = {"as it is": content["variants"]["closed form"]}
    again = {"train": {"epochs": 1}, "model": {"weights": "run:tiny-as-it-is-0"}}
    for variants, code, said in (
        ({"again": again, **first}, 2, "run:tiny-as-it-is-0 has no finished fold 0"),
        ({**first, "again": again}, 0, "| again |"),
    ):
        Path(plan).write_text(yaml.safe_dump({**content, "variants": variants}, sort_keys=False))
        assert said in run("ablate", plan, "--seeds", "1", expect=code)
    first, again = (records.load(model_path(f"tiny-{x}-0", 0)) for x in ("as-it-is", "again"))
    assert again["key"]["first_weights"] == first["digest"]


def test_variants_train_side_by_side_where_there_is_room(
    plan: str, run: Callable[..., str], split: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for one that starts from another's run, and one that asks for other GPUs."""
    content = yaml.safe_load(Path(plan).read_text())
    split(content["base"])
    settings = yaml.safe_load(Path(content["base"]).read_text())
    Path(content["base"]).write_text(yaml.safe_dump(settings | {"runtime": {"processes": 2}}))
    content["variants"]["again"] = {"model": {"weights": "run:tiny-as-it-is-0"}}
    content["variants"]["two"] = {"runtime": {"gpus_per_fold": 2, "processes": None}}
    Path(plan).write_text(yaml.safe_dump(content, sort_keys=False))
    calls = []

    def train(jobs: dict[tuple[str, int], object], *_: object) -> None:
        calls.append([Path(experiment).stem for experiment, _ in jobs])

    def measure(settings: Experiment, path: Path, force: bool) -> dict[str, float]:
        calls.append(settings.name)
        return {"plain": 0.5, "tta": 0.5, "minutes": 1.0}

    monkeypatch.setattr(ablate, "train_folds", train)
    monkeypatch.setattr(ablate, "measure", measure)
    run("ablate", plan, "--seeds", "2")
    names = ["tiny-as-it-is", "tiny-closed-form", "tiny-again", "tiny-two"]
    first, second = ([f"{name}-{seed}" for name in names] for seed in range(2))
    assert calls == [first[:2], *first, second[:2], *second]


@pytest.mark.parametrize(
    "text",
    [
        "base: demo\nvariants: [a",
        "base: demo\nvariants: [a]\n",
        "base: demo\nvariants: {}\n",
        "base:\nvariants: {a: {}}\n",
    ],
)
def test_a_broken_plan_is_one_line(text: str, run: Callable[..., str], space: Path) -> None:
    (space / "bad.yaml").write_text(text)
    said = run("ablate", str(space / "bad.yaml"), expect=2)
    assert len(said.splitlines()) == 1
    assert "bad.yaml: " in said


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_no_two_variants_of_a_shipped_plan_are_the_same(plan: Path, space: Path) -> None:
    found = ablate.load_plan(plan.stem)
    settings = {}
    for variant, changes in found["variants"].items():
        tried, _ = ablate.write_experiment(found["base"], space, variant, changes, seed=0)
        settings[variant] = tried.model_dump_json(exclude={"name", "recipe"})
    again = [name for name, text in settings.items() if [*settings.values()].count(text) > 1]
    assert not again
