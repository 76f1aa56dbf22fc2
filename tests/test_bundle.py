"""A bundle is what the ensemble was made of, in the form Kaggle's client takes, and it runs."""

import base64
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import enter
from safetensors.numpy import load_file

from pipeline.kaggle.manifest import Manifest, faults
from pipeline.kaggle.notebook import FROM_DATASET, slug_of, zipped_package
from pipeline.kaggle.offline import contents, refuse_writes
from pipeline.parts.cli import UserError


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
    assert (bundle / "code" / "pipeline" / "kaggle" / "kernel.py").is_file()
    assert not list((bundle / "code").rglob("*.pyc"))


def test_the_manifest_holds_what_the_notebook_needs(home: Callable) -> None:
    weights = bundle_of(home()) / "weights"
    manifest = Manifest.load(weights)
    members = {(m.run, m.fold): (m.weight, m.looks) for m in manifest.members}
    one, two = (pytest.approx(1 / 3), "hflip"), (pytest.approx(2 / 3), "none")
    assert members == {("one", 0): one, ("one", 1): one, ("two", 0): two, ("two", 1): two}
    assert sum(manifest.prior) == pytest.approx(1) and len(manifest.prior) == 4
    assert not any(faults(weights, member) for member in manifest.members)


def test_again_does_nothing_and_a_retrained_model_is_refused(home: Callable, run: Callable) -> None:
    folder = home()
    assert "4 models" in run("bundle", "blend")
    assert "up to date" in run("bundle", "blend")
    record = folder / "runs" / "two" / "fold1" / "model.safetensors.json"
    record.write_text(json.dumps({**read(record), "digest": "another"}))
    said = run("bundle", "blend", expect=2)
    assert "not the model behind the ensemble's predictions; run python -m" in said
    assert "no predictions; run python -m pipeline.ensemble none" in run("bundle", "none", expect=2)


def test_half_the_bytes_and_what_they_cost(home: Callable, run: Callable) -> None:
    folder = home("probability")
    whole = load_file(bundle_of(folder) / "weights" / "one-fold0.safetensors")
    said = run("bundle", "blend", "--fp16")
    before, after = map(float, re.search(r"at fp16 \(OOF ([\d.]+) → ([\d.]+)\)", said).groups())
    record = read(folder / "runs" / "blend" / "bundle.json")
    assert before == pytest.approx(record["oof"], abs=1e-4)
    assert after == pytest.approx(before, abs=0.05) and after > 0.3
    half = load_file(bundle_of(folder) / "weights" / "one-fold0.safetensors")
    assert {v.dtype for v in half.values()} <= {np.dtype("float16"), np.dtype("int64")}
    for name, tensor in whole.items():
        np.testing.assert_allclose(half[name], tensor, rtol=2e-3, atol=1e-6)
    assert not any(
        faults(bundle_of(folder) / "weights", member)
        for member in Manifest.load(bundle_of(folder) / "weights").members
    )


def cell_with(notebook: dict, text: str) -> str:
    return next(cell["source"] for cell in notebook["cells"] if text in cell["source"])


def test_a_single_file_holds_the_package(
    home: Callable, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home()
    run("bundle", "blend", "--single-file")
    bundle = bundle_of(folder)
    assert sorted(path.name for path in bundle.iterdir()) == ["notebook", "weights"]
    kernel = read(bundle / "notebook" / "kernel-metadata.json")
    assert kernel["dataset_sources"] == ["owner/leaves-blend-weights"]
    source = cell_with(read(bundle / "notebook" / "notebook.ipynb"), "PACKAGE = ")
    assert base64.b64decode(re.search(r'PACKAGE = "(.+)"', source)[1]) == zipped_package()
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(source, {})
    assert (Path(sys.path[0]) / "pipeline" / "kaggle" / "kernel.py").is_file()


@pytest.mark.parametrize("place", ["datasets/me/the-code", "the-code"])
@pytest.mark.parametrize("form", ["folder", "archive", "archive of its contents"])
def test_the_package_is_found_however_it_was_unpacked(
    place: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (folder / "package.zip").write_bytes(zipped_package())
    if form != "archive":
        zipfile.ZipFile(folder / "package.zip").extractall(folder)
        (folder / "package.zip").unlink()
    if form == "archive of its contents":  # as the client packs a folder
        shutil.make_archive(str(folder / "pipeline"), "zip", folder / "pipeline")
        shutil.rmtree(folder / "pipeline")
    monkeypatch.setenv("KAGGLE_INPUT_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(FROM_DATASET.format(code="the-code"), {})
    assert (Path(sys.path[0]) / "pipeline" / "kaggle" / "kernel.py").is_file()


def test_slugs_are_valid_and_each_names_own() -> None:
    slugs = [
        slug_of(competition, name, ending)
        for competition in ("dog-breed-identification", "x")
        for name in ("a", "A", "a_b", "a-b", "very-" * 12 + "1", "very-" * 12 + "2")
        for ending in ("code", "weights", "submit")
    ]
    assert len(set(slugs)) == len(slugs)
    for slug in slugs:
        assert 6 <= len(slug) <= 50
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)


@pytest.mark.parametrize("form", ["classify-leaves", "dog-breed-identification"])
def test_the_notebook_runs_as_on_kaggle(home: Callable, run: Callable, form: str) -> None:
    pytest.importorskip("nbclient")
    home(form)
    said = run("bundle", "blend", "--rehearse", "--rows", "7")
    assert "7 rows as in the local submission" in said
    assert "2 of 2 models are sound" in said and "submission.csv: 7 rows, audited" in said


def test_a_rehearsal_without_a_submission(home: Callable, run: Callable) -> None:
    folder = home()
    (folder / "submissions" / "blend.csv").unlink()
    said = run("bundle", "blend", "--rehearse", expect=2)
    assert "nothing to compare with; run python -m pipeline.submit blend" in said


def test_writes_to_inputs_and_other_outputs_are_found_out(tmp_path: Path) -> None:
    inputs, working = tmp_path / "input", tmp_path / "working"
    inputs.mkdir()
    working.mkdir()
    (inputs / "a.csv").write_text("1")
    before = contents(inputs)
    (working / "submission.csv").write_text("")
    refuse_writes(inputs, working, before, "submission.csv")
    (working / "log.txt").write_text("")
    with pytest.raises(UserError, match=r"made \['log.txt', 'submission.csv'\]"):
        refuse_writes(inputs, working, before, "submission.csv")
    (inputs / "a.csv").write_text("22")
    with pytest.raises(UserError, match=r"wrote to its inputs: .*a\.csv"):
        refuse_writes(inputs, working, before, "submission.csv")
