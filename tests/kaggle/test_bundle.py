"""A bundle is what the ensemble was made of, in the form Kaggle's client takes, and it runs."""

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import enter

from pipeline.base import records
from pipeline.inference.predictions import Predictions
from pipeline.kaggle.bundle.notebook_file import RUN, SAMPLE, START, slug_of, write_code
from pipeline.kaggle.bundle.offline import execute
from pipeline.kaggle.bundle.rehearsal import mount
from pipeline.kaggle.notebook.manifest import Manifest


@pytest.fixture
def home(
    bundled: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """A copy of a bundled project that may be changed, and where all stages work from now on."""

    def copy(form: str = "label") -> Path:
        shutil.copytree(bundled(form), tmp_path / "home")
        enter(monkeypatch, tmp_path / "home")
        return tmp_path / "home"

    return copy


def bundle_of(home: Path) -> Path:
    return home / "runs" / "blend" / "bundle"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_folders_as_the_client_wants_them(home: Callable) -> None:
    bundle = bundle_of(home())
    for part in ("code", "weights"):
        metadata = read(bundle / part / "dataset-metadata.json")
        slug = metadata["id"].removeprefix("owner/")
        assert slug == f"leaves-blend-{part}" and metadata["title"] == slug
        assert len(metadata["licenses"]) == 1
    kernel = read(bundle / "notebook" / "kernel-metadata.json")
    assert kernel["enable_internet"] is False and kernel["enable_gpu"] is True
    assert kernel["competition_sources"] == ["leaves"]
    assert kernel["dataset_sources"] == ["owner/leaves-blend-code", "owner/leaves-blend-weights"]
    assert (bundle / "notebook" / kernel["code_file"]).is_file()
    assert (bundle / "code" / "pipeline" / "kaggle" / "notebook" / "submit_session.py").is_file()
    assert not list((bundle / "code").rglob("*.pyc"))


def test_the_manifest_holds_what_the_notebook_needs(home: Callable) -> None:
    weights = bundle_of(home()) / "weights"
    manifest = Manifest.load(weights)
    models = {(m.run, m.fold): (m.weight, m.predict.tta) for m in manifest.models}
    one, two = (pytest.approx(1 / 3), "hflip"), (pytest.approx(2 / 3), "none")
    assert models == {("one", 0): one, ("one", 1): one, ("two", 0): two, ("two", 1): two}
    assert sum(manifest.prior) == pytest.approx(1) and len(manifest.prior) == 4
    assert not any(model.problem(weights) for model in manifest.models)


def test_the_manifest_has_the_classes_in_the_order_of_the_blend(
    home: Callable, run: Callable
) -> None:
    """Models may have been trained on another: `positive:` has changed since."""
    folder = home()
    blend, weights = folder / "runs" / "blend" / "test.npz", bundle_of(folder) / "weights"
    found, record, before = Predictions.load(blend), records.load(blend), Manifest.load(weights)
    turned = {"classes": found.classes[::-1], "prob": found.prob[:, ::-1]}
    replace(found, **turned).save(blend)
    records.commit(blend, record.pop("key"), 0.0, **record)
    run("bundle", "blend")
    after = Manifest.load(weights)
    assert after.classes == before.classes[::-1] and after.prior == before.prior[::-1]


def test_the_manifest_has_the_mean_and_the_decision_of_the_blend(
    home: Callable, run: Callable
) -> None:
    folder = home()
    record = records.load(blend := folder / "runs" / "blend" / "test.npz")
    decision = {"kind": "scales", "numbers": [1.0, 1.0, 1.0, 2.0], "first": 0}
    key = record.pop("key") | {"mean": "logits"}
    records.commit(blend, key, 0.0, **record | {"decision": decision})
    run("bundle", "blend")
    manifest = Manifest.load(bundle_of(folder) / "weights")
    assert manifest.mean == "logits" and manifest.decision == decision


def test_again_does_nothing_and_a_retrained_model_is_refused(home: Callable, run: Callable) -> None:
    folder = home()
    assert "4 models" in run("bundle", "blend")
    assert "up to date" in run("bundle", "blend")
    model = folder / "runs" / "two" / "fold1" / "model.safetensors"
    record = {**records.load(model), "digest": "another"}
    records.write_json(records.record_path(model), record)
    said = run("bundle", "blend", expect=2)
    assert "not the model behind the ensemble's predictions; run python -m" in said
    assert "no predictions; run python -m pipeline.ensemble none" in run("bundle", "none", expect=2)


def test_a_file_that_a_bundle_lost_is_there_again(home: Callable, run: Callable) -> None:
    lost = bundle_of(home()) / "weights" / "two-fold1.safetensors"
    lost.unlink()
    assert "up to date" not in run("bundle", "blend")
    assert lost.is_file()


@pytest.mark.parametrize("place", ["datasets/me/the-code", "the-code"])
@pytest.mark.parametrize("form", ["folder", "archive", "archive of its contents"])
def test_the_package_is_found_however_it_was_unpacked(
    place: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    write_code(folder)
    if form == "archive":
        shutil.make_archive(str(tmp_path / "package"), "zip", folder)
        (tmp_path / "package.zip").rename(folder / "package.zip")
    if form == "archive of its contents":  # as the client packs a folder
        shutil.make_archive(str(folder / "pipeline"), "zip", folder / "pipeline")
    if form != "folder":
        shutil.rmtree(folder / "pipeline")
    monkeypatch.setenv("KAGGLE_INPUT_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(
        f"{START}\n{RUN.format(code='the-code', module='guard', job={}).split('from pipeline')[0]}",
        {},
    )
    assert (Path(sys.path[0]) / "pipeline" / "kaggle" / "notebook" / "submit_session.py").is_file()


def test_slugs_are_valid_and_each_names_own() -> None:
    slugs = [
        slug_of(competition, name, ending)
        for competition in ("dog-breed-identification", "x")
        for name in ("a", "A", "a_b", "a-b", f"{competition}-a", *("very-" * 12 + n for n in "12"))
        for ending in ("code", "weights", "submit")
    ]
    assert len(set(slugs)) == len(slugs)
    for slug in slugs:
        assert 6 <= len(slug) <= 50
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)


def test_the_notebook_runs_as_on_kaggle(home: Callable, run: Callable) -> None:
    home("rsna-breast-cancer-detection")  # studies of two pictures
    said = run("bundle", "blend", "--rehearse", "--rows", "7")
    assert "7 rows as in the local submission" in said
    assert "2 of 2 models are sound" in said and "submission.csv: 7 rows, audited" in said


@pytest.fixture
def mounted(
    home: Callable[[str], Path], tmp_path: Path
) -> tuple[Path, Callable[[], tuple[str, Path]]]:
    """Kaggle's input folder with all that a bundle needs, and what runs its notebook there."""
    folder = home()
    inputs, working, scratch = (tmp_path / name for name in ("input", "working", "temp"))
    for made in (working, scratch):
        made.mkdir()
    mount(bundle_of(folder), inputs)
    shutil.copytree(folder / "data" / "leaves", inputs / "competitions" / "leaves")

    def execute_it() -> tuple[str, Path]:
        book = bundle_of(folder) / "notebook" / "notebook.ipynb"
        return execute(book, inputs, working, scratch), working / "submission.csv"

    return inputs, execute_it


def test_a_sample_in_a_zip_is_the_first_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("leaves", "working"):
        (tmp_path / folder).mkdir()
    with zipfile.ZipFile(tmp_path / "leaves" / "sample.csv.zip", "w") as file:
        file.writestr("sample.csv", "image,label\n")
    monkeypatch.setenv("KAGGLE_INPUT_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLE_WORKING_DIR", str(tmp_path / "working"))
    names = {"sample": "sample.csv", "packed": "sample.csv.zip"}
    exec(f"{START}\n\n{SAMPLE.format(slug='leaves', **names, alert='!!!!!!')}", {})
    assert (tmp_path / "working" / "submission.csv").read_text() == "image,label\n"
    assert "!!!!!!" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["no package", "broken"])
def test_without_its_package_the_notebook_says_so_and_the_sample_stays(
    mounted: tuple[Path, Callable], damage: str
) -> None:
    inputs, execute_it = mounted
    code = inputs / "datasets" / "owner" / "leaves-blend-code"
    module = code / "pipeline" / "kaggle" / "notebook" / "submit_session.py"
    if damage == "broken":
        module.write_text("import nothing_like_it")
    else:
        shutil.rmtree(code)
        (code / "other").mkdir(parents=True)
    said, out = execute_it()
    sample = inputs / "competitions" / "leaves" / "sample_submission.csv"
    assert out.read_bytes() == sample.read_bytes() and f"submission.csv is {sample}" in said
    assert "Filesystem" in said and f"\n{inputs}/competitions/leaves\n" in said
    (alarm,) = [line for line in said.splitlines() if line.startswith("!!!!!! ")]
    if damage == "no package":
        lost = "the dataset leaves-blend-code is not attached, or holds no package"
        assert alarm == f"!!!!!! {lost}: submission.csv stays the sample !!!!!!"
        assert "Traceback" not in said


def test_a_rehearsal_without_a_submission(home: Callable, run: Callable) -> None:
    folder = home()
    (folder / "submissions" / "blend.csv").unlink()
    said = run("bundle", "blend", "--rehearse", expect=2)
    assert "nothing to compare with; run python -m pipeline.submit blend" in said


@pytest.mark.parametrize("owner", ["", "a/b", "me you", "../x"])
def test_an_owner_is_a_name(home: Callable, run: Callable, owner: str) -> None:
    home()
    assert f"--owner {owner!r}: a name on" in run("bundle", "blend", "--owner", owner, expect=2)
