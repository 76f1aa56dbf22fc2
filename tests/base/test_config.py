"""Settings: every shipped YAML loads, and a mistake is one line that names file and key."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base import recipes
from pipeline.base.cli import UserError
from pipeline.base.competition import load_competition
from pipeline.base.config import TTA, Experiment, load_experiment, with_tta
from pipeline.base.yaml_files import HERE

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


@pytest.mark.parametrize(
    ("text", "recipe", "epochs", "lr", "refit"),
    [
        ("", "short", 5, 7e-5, False),
        ("train: {epochs: 0}", "instant", 0, 7e-5, False),
        ("train: {epochs: 9}", "short", 9, 7e-5, False),
        ("train: {epochs: 10}", "long", 10, 2e-3, True),
        ("train: {epochs: 12, lr: 1e-4}", "long", 12, 1e-4, True),
        ("train: {epochs: '20'}", "long", 20, 2e-3, True),
        ("train: {epochs: 20.0}", "long", 20, 2e-3, True),
        ("recipe: long", "long", 15, 2e-3, True),
        ("recipe: short\ntrain: {epochs: 20}", "short", 20, 7e-5, False),
    ],
)
def test_a_recipe_follows_from_the_epochs_and_lies_under_what_is_set(
    text: str, recipe: str, epochs: int, lr: float, refit: bool, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(f"competition: demo\nmodel: {{size: 64}}\n{text}\n")
    found = load_experiment(str(tmp_path / "mine.yaml"))
    assert (found.recipe, found.train.epochs, found.train.lr) == (recipe, epochs, lr)
    assert found.train.refit is refit is (found.model.head_init == "random")
    assert found.model.size == 64, "beside what the recipe says of the model"


def test_a_long_training_without_batchnorm_takes_published_rates(tmp_path: Path) -> None:
    for backbone, recipe, rates in (
        ("vit_tiny_patch16_224", "long-layernorm", (1e-4, 0.8)),
        ("resnet18.a1_in1k", "long", (2e-3, 1.0)),
    ):
        text = f"competition: demo\nmodel: {{backbone: {backbone}}}\ntrain: {{epochs: 12}}\n"
        (tmp_path / "mine.yaml").write_text(text)
        found = load_experiment(str(tmp_path / "mine.yaml"))
        assert (found.recipe, found.train.lr, found.train.layer_decay) == (recipe, *rates)
        assert (found.mix.cutmix, found.train.refit) == (1.0, True), "the rest is that of long"
        assert found.base is None


@pytest.mark.parametrize(
    ("model", "depthwise"),
    [
        ("size: 64", "frozen"),
        ("backbone: resnet18.a1_in1k", "frozen"),
        ("depthwise: train", "train"),
        ("backbone: convnext_atto", "train"),
        ("weights: none, batchnorm: train", "train"),
    ],
)
def test_short_training_leaves_depthwise_kernels_of_a_pretrained_cnn(
    model: str, depthwise: str, tmp_path: Path
) -> None:
    for epochs, expected in ((5, depthwise), (12, "train")):
        text = f"competition: demo\nmodel: {{{model}}}\ntrain: {{epochs: {epochs}}}\n"
        (tmp_path / "mine.yaml").write_text(text)
        assert load_experiment(str(tmp_path / "mine.yaml")).model.depthwise == expected


def test_a_recipe_that_there_is_not(tmp_path: Path) -> None:
    said = fails("competition: demo\nrecipe: lang", tmp_path)
    assert "no recipe 'lang'" in said and "did you mean 'long'" in said


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
        ("competition: demo\nmodel: {backbone: resnet50.a9_in1k}\n", "did you mean 'resnet50."),
        ("competition: demo\nname: big\n", "name: 'big' is not the file's, by which"),
        ("competition: demo\npredict: {tta: hflp}\n", "'hflp'"),
        (
            "competition: demo\npseudo: {run: blend, thresold: 0.9}\n",
            "'pseudo.thresold'; did you mean 'threshold'?",
        ),
        ("competition: demo\nextra: {csv: a.csv, shares: 0.2}\n", "did you mean 'share'?"),
        ("competition: demo\nmodel: {size: 64, weights: none}\n", "none needs batchnorm: train"),
        ("competition: demo\nmodel: {size: 64, freeze_epochs: 2}\n", "needs freeze:"),
        (
            "competition: demo\nmodel: {size: 64, head_init: random}\ntrain: {epochs: 0}\n",
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


HEAD = "competition: demo\nmodel: {size: 64}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"{HEAD}train: {{lr: 0.1}}\ntrain: {{epochs: 2}}\n",
            "4: the key 'train' stands twice",
        ),
        (f"{HEAD}train:\n  lr: 1\n  lr: 2\n", "line 5: the key 'lr' stands twice; keep one"),
        (f"{HEAD}3: 4\n", "line 3: a key is a text, which 3 is not; put it in quotes?"),
        (f"{HEAD}train: {{null: 4}}\n", "line 3: a key is a text, which null is not"),
        (f"{HEAD}on: 4\n", "line 3: a key is a text, which on is not"),
        (f"{HEAD}? [a]\n: 4\n", "line 3: a key is a text, which a list is not"),
        (f"{HEAD}x: {'[' * 30_000}", "not YAML: maximum recursion depth exceeded"),
        (f"{HEAD}x: &x [*x]\n", "unknown key 'x'"),
        (f'{HEAD}name: "a\\0"\n', "name: a name may not hold '\\x00'"),
        (f'{HEAD}name: "\\ud800"\n', "name: a name may not hold '\\ud800'"),
        (f"{HEAD}x: 2024-99-01\n", "not YAML: month must be in 1..12"),
        (f"{HEAD}x: !!timestamp soon\n", "not YAML: "),
        (f"{HEAD}x: {'9' * 5000}\n", "not YAML: Exceeds the limit"),
        (
            f"{HEAD}train: {{lr: true}}\n",
            "train.lr: it is no true or false, as which YAML",
        ),
        (f"{HEAD}train: {{epochs: yes}}\n", "train.epochs: it is no true or false"),
        (f"{HEAD}runtime: {{tune: off}}\n", "runtime.tune: it is no true or false"),
        (f"{HEAD}mix: {{mixup: .inf}}\n", "mix.mixup: it should be a finite number, not inf"),
        (f"{HEAD}train: {{weight_decay: .inf}}\n", "train.weight_decay: it should be a finite"),
        (f"{HEAD}train: {{head_lr_mult: .nan}}\n", "train.head_lr_mult: it should be a finite"),
        (f"{HEAD}train: {{head_lr_mult: 1.0e+30}}\n", "train.head_lr_mult: it should be less than"),
        (f"{HEAD}train: {{lr: '1e999'}}\n", "train.lr: it should be a finite number"),
        (f"{HEAD}folds: {{seed: -1}}\n", "folds.seed: it should be greater than or equal to 0"),
        (
            f"{HEAD}folds: {{seed: 1099511627776}}\n",
            "folds.seed: it should be less than 4294967296",
        ),
        (
            "competition: demo\nmodel: {size: 100000}\n",
            "model.size: it should be less than or",
        ),
        (
            f"{HEAD}predict: {{sizes: [64, 5000]}}\n",
            "predict.sizes.1: it should be less than or",
        ),
        (f"{HEAD}runtime: {{workers: 1000000000000}}\n", "runtime.workers: it should be less than"),
        (
            f"{HEAD}folds: {{name: ../../evil}}\n",
            "folds.name: a name begins with a letter",
        ),
        (f"{HEAD}folds: {{name: a/b}}\n", "folds.name: a name may not hold '/'"),
        (f"{HEAD}folds: {{name: '{'x' * 300}'}}\n", "folds.name: a name has at most 200 bytes"),
        (f"{HEAD}name: ''\n", "name: a name begins with a letter or digit"),
        (f"{HEAD}name: _data\n", "name: a name begins with a letter or digit"),
        (f"{HEAD}name: ../outside\n", "name: a name begins with a letter or digit"),
        ("competition: ../..\nmodel: {size: 64}\n", "competition: a name begins with a letter"),
    ],
)
def test_nonsense_is_one_short_line(text: str, said: str, tmp_path: Path) -> None:
    message = fails(text, tmp_path)
    assert said in message
    assert "\n" not in message and len(message) < 500


def test_values_in_messages_are_cut(tmp_path: Path) -> None:
    bomb = "&a [" + "x, " * 9 + "x]"
    text = f"{HEAD}train: {{lr: {{a: {bomb}, b: [{'*a, ' * 2000}*a]}}}}\n{'y' * 5000}: 1\n"
    assert max(map(len, fails(text, tmp_path).splitlines())) < 900
    keys = "".join(f"k{i}: 1\n" for i in range(1000))
    assert fails(HEAD + keys, tmp_path).splitlines()[-1] == "... and 980 more"


@pytest.mark.parametrize("data", [b"\xe9", "a: é".encode("utf-16"), bytes(range(256)), b"a: \0"])
def test_other_encodings(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_bytes(b"competition: demo\n# " + data)
    with pytest.raises(UserError, match=r"e.yaml line \d: not text in UTF-8; save it as UTF-8"):
        load_experiment(str(tmp_path / "e.yaml"))


def test_aliases_and_merges_of_a_few_values_are_fine(tmp_path: Path) -> None:
    text = "competition: demo\nmodel: &m {size: 64}\ntrain: {<<: {lr: 0.5, epochs: 3}, epochs: 2}\n"
    (tmp_path / "e.yaml").write_text(text)
    assert load_experiment(str(tmp_path / "e.yaml")).train.epochs == 2
    assert load_experiment(str(tmp_path / "e.yaml")).train.lr == 0.5


@pytest.mark.parametrize("key", ["train", "test", "sample", "solution", "image", "test_image"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.csv", "a/../../b", ""])
def test_a_competition_lies_in_its_folder(key: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"{key}: '{path}'\n")
    with pytest.raises(UserError, match=f"{key}: a path within the competition's folder"):
        load_competition(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "_data", ".x", " a", "a:2", "x" * 201, "a\n"]
)
def test_names_from_a_command_line_lead_nowhere(
    name: str, run: Callable[..., str], space: Path
) -> None:
    for command in (("ensemble", "demo", "--name", name), ("submit", name), ("bundle", name)):
        assert run(*command, expect=2).count("\n") == 1
    assert sorted(path.name for path in space.iterdir()) == ["data"]


def test_unknown_experiment_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'demo'"):
        load_experiment("dmeo")


def test_size_comes_from_the_backbone_where_none_is_given(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("competition: demo\nmodel: {backbone: test_resnet}\n")
    assert load_experiment(str(tmp_path / "e.yaml")).model.size == 160


def test_a_backbone_is_asked_of_timm_once_and_not_at_each_stage(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (space / "e.yaml").write_text("competition: demo\nmodel: {backbone: vit_tiny_patch16_224}\n")
    (space / "e.yaml").open("a").write("train: {epochs: 20}\n")
    seen = []
    for there in (True, False):
        recipes.has_batchnorm.cache_clear()
        recipes.own_size.cache_clear()
        if not there:
            monkeypatch.setitem(sys.modules, "timm", None)  # its import fails
        found = load_experiment(str(space / "e.yaml"))
        seen.append((found.recipe, found.model.size))
    assert seen == [("long-layernorm", 224)] * 2


def test_what_timm_says_need_not_be_kept(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (space / "e.yaml").write_text("competition: demo\nmodel: {backbone: test_resnet}\n")
    monkeypatch.setenv("RUNS_DIR", str(space / "e.yaml"))  # no folder to write into
    recipes.own_size.cache_clear()
    assert load_experiment(str(space / "e.yaml")).model.size == 160


def test_runtime_is_outside_the_key(tmp_path: Path) -> None:
    base = "competition: demo\nmodel: {size: 64}\n"
    (tmp_path / "a.yaml").write_text(base)
    (tmp_path / "b.yaml").write_text(base + "runtime: {workers: 3, device: cpu}\n")
    (tmp_path / "c.yaml").write_text(base + "train: {seed: 1}\n")
    a, b, c = (load_experiment(str(tmp_path / f"{name}.yaml")).key() for name in "abc")
    assert a == b
    assert a != c


def test_settings_that_do_not_go_together_are_told_without_the_whole_file(tmp_path: Path) -> None:
    text = "competition: demo\nmodel: {size: 64, head_init: random}\ntrain: {epochs: 0}\n"
    told = fails(text, tmp_path)
    assert told.endswith("broken.yaml: train.epochs: 0 needs model.head_init: lda")


def test_former_names_still_work_and_say_so(
    space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = space / "old.yaml"
    path.write_text("competition: demo\nmodel: {size: 64, reads: last, head: random, fit: pad}\n")
    settings = load_experiment(str(path))
    assert (settings.model.features, settings.model.head_init) == ("last", "random")
    said = capsys.readouterr().err
    assert said.count("warning") == 3
    assert "old.yaml: model.fit is called model.resize now" in said
    written = settings.key()["model"]
    assert (written["reads"], written["head"], written["fit"]) == ("last", "random", "pad")
    assert not {"features", "head_init", "resize"} & set(written), "keys of before stay valid"
    path.write_text("competition: demo\nmodel: {size: 64, reads: last, features: blocks}\n")
    with pytest.raises(UserError, match=r"model.features stands twice, also under its former"):
        load_experiment(str(path))


def test_a_former_name_wins_over_what_lies_below_and_gives_way_to_what_lies_above(
    space: Path,
) -> None:
    old, new = space / "old.yaml", space / "new.yaml"
    old.write_text("competition: demo\nmodel: {size: 64, head: lda, fit: pad}\ntrain: {epochs: 15}")
    settings = load_experiment(str(old))
    assert (settings.recipe, settings.model.head_init) == ("long", "lda"), "the recipe's is random"
    new.write_text("base: old\nmodel: {resize: stretch}\n")
    model = load_experiment(str(new)).model
    assert (model.resize, model.head_init, model.size) == ("stretch", "lda", 64)


def test_a_retired_setting_may_be_off_and_no_more(space: Path) -> None:
    path = space / "old.yaml"
    path.write_text("competition: demo\nmodel: {size: 64, names: null}\nmix: {mosaic: false}\n")
    load_experiment(str(path))
    path.write_text("competition: demo\nmodel: {size: 64}\ntrain: {distill: other}\n")
    with pytest.raises(UserError, match=r"train.distill is no more: remove it"):
        load_experiment(str(path))


def test_other_views_keep_their_sizes() -> None:
    settings = Experiment(competition="x", predict={"tta": "hflip", "sizes": [32, 40]})
    found = with_tta(settings, TTA("d4")).predict
    assert (found.tta, found.sizes) == ("d4", settings.predict.sizes) and found.sizes
    assert with_tta(settings, None) == settings
