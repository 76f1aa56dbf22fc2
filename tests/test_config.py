"""Settings: every shipped YAML loads, and a mistake is one line that names file and key."""

from pathlib import Path

import pytest

from pipeline.parts.cli import UserError
from pipeline.parts.competition import load_competition
from pipeline.parts.config import load_experiment
from pipeline.parts.yaml_files import HERE

EXPERIMENTS = sorted(path.stem for path in (HERE / "experiments").glob("*.yaml"))


def fails(text: str, folder: Path) -> str:
    path = folder / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_experiment(str(path))
    return str(error.value)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_shipped_experiment_loads(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.model.size % 2 == 0
    assert load_competition(experiment.competition).name == experiment.competition


def test_no_two_experiments_are_the_same() -> None:
    settings = {}
    for name in EXPERIMENTS:
        plain = load_experiment(name).model_dump_json(exclude={"name", "runtime"})
        assert plain not in settings, f"{name} and {settings[plain]} resolve to equal settings"
        settings[plain] = name


def test_every_experiment_opens_with_a_comment() -> None:
    for name in EXPERIMENTS:
        assert (HERE / "experiments" / f"{name}.yaml").read_text().startswith("# "), name


def test_unknown_key_names_file_key_and_neighbour(tmp_path: Path) -> None:
    message = fails("competition: demo\ntrain: {epoch: 3}\n", tmp_path)
    assert message.count("\n") == 0
    assert "broken.yaml" in message
    assert "'train.epoch'" in message
    assert "did you mean 'epochs'" in message


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    message = fails("competition: demo\ntrain: {lr: fast, epochs: -1}\nmodle: {}\n", tmp_path)
    assert len(message.splitlines()) == 3
    assert "train.lr" in message
    assert "'fast'" in message
    assert "did you mean 'model'" in message


def test_yaml_reads_3e_4_as_text_and_we_mend_it(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("competition: demo\nmodel: {size: 64}\ntrain: {lr: 3e-4}\n")
    assert load_experiment(str(tmp_path / "e.yaml")).train.lr == 0.0003


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\n", "not YAML"),
        ("just words\n", "expected `key: value`"),
        ("model: {size: 64}\n", "'competition' is missing"),
        ("competition: demo\naugment: [{A: {}, B: {}}]\n", "augment.0"),
        ("competition: demo\nmodel: {backbone: resnet50x}\n", "did you mean"),
        ("competition: demo\npredict: {tta: hflp}\n", "'hflp'"),
        ("competition: demo\nmodel: {size: 64, weights: none}\n", "none needs batchnorm: train"),
        ("competition: demo\nmodel: {size: 64, head: names}\n", "names needs reads: last"),
        ("competition: demo\nmodel: {size: 64, freeze_epochs: 2}\n", "needs freeze:"),
        (
            "competition: demo\nmodel: {size: 64, head: random}\ntrain: {epochs: 0}\n",
            "epochs: 0 needs model.head",
        ),
        (
            "competition: demo\npredict: {sizes: [64, 32, 64]}\n",
            "predict.sizes: each size may stand",
        ),
        ("competition: demo\npredict: {sizes: []}\n", "predict.sizes: List should have at least 1"),
        ("competition: demo\npredict: {sizes: [8]}\n", "predict.sizes.0: it should be greater"),
        ("competition: demo\npredict: {sizes: 64}\n", "predict.sizes: it should be a valid list"),
    ],
)
def test_bad_files(text: str, said: str, tmp_path: Path) -> None:
    assert said in fails(text, tmp_path)


def test_unknown_experiment_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'demo'"):
        load_experiment("dmeo")


def test_size_comes_from_the_backbone_where_none_is_given(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("competition: demo\nmodel: {backbone: test_resnet}\n")
    assert load_experiment(str(tmp_path / "e.yaml")).model.size == 160


def test_runtime_is_outside_the_key(tmp_path: Path) -> None:
    base = "competition: demo\nmodel: {size: 64}\n"
    (tmp_path / "a.yaml").write_text(base)
    (tmp_path / "b.yaml").write_text(base + "runtime: {workers: 3, device: cpu}\n")
    (tmp_path / "c.yaml").write_text(base + "train: {seed: 1}\n")
    a, b, c = (load_experiment(str(tmp_path / f"{name}.yaml")).key() for name in "abc")
    assert a == b
    assert a != c


def test_settings_that_do_not_go_together_are_told_without_the_whole_file(tmp_path: Path) -> None:
    text = "competition: demo\nmodel: {size: 64, head: random}\ntrain: {epochs: 0}\n"
    told = fails(text, tmp_path)
    assert told.endswith("broken.yaml: train.epochs: 0 needs model.head: lda or names")
