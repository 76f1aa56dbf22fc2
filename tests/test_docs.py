"""What the documents say is what the code does: settings, examples, links, rooms."""

import re
from pathlib import Path

import pytest
import yaml

from docs import settings
from pipeline.base.competition import Competition
from pipeline.base.config import Experiment

REPO = Path(__file__).parents[1]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
STAGES = ("prepare", "folds", "train", "predict", "ensemble", "submit")
TEXTS = {page.name: page.read_text() for page in PAGES if page.exists()}


def test_the_table_of_settings_is_current() -> None:
    kept = settings.PAGE.read_text().split(settings.BEGIN)[1].split(settings.END)[0]
    again = "docs/experiments.md differs from the settings: run python -m docs.settings"
    assert kept.strip() == settings.settings_tables().strip(), again


def test_every_setting_says_what_it_is() -> None:
    models = [Competition, Experiment, *settings.sections().values()]
    silent = [
        f"{model.__name__}.{name}"
        for model in models
        for name, text in settings.comments(model).items()
        if not text and name not in settings.sections()
    ]
    assert not silent


@pytest.mark.parametrize("page", TEXTS)
def test_examples_of_settings_are_valid(page: str) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", TEXTS[page], re.DOTALL):
        values = yaml.safe_load(block)
        competition = bool({"id", "title", "task"} & {*values})
        for each in values.get("variants", {"": values}).values():  # of a plan: over its base
            known = {} if competition else {"competition": "demo"}
            (Competition if competition else Experiment)(**known | each)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    folder = next(path for path in PAGES if path.name == page).parent
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[page]):
        assert target.startswith("https://") or (folder / target).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_commands_and_files_exist(page: str) -> None:
    for module in re.findall(r"python -m ([a-z_.]+)", TEXTS[page].replace(".STAGE", "")):
        path = REPO / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir() or module == "pytest", module
    for name in re.findall(r"\b((?:pipeline|tests|docs)/[\w/-]+\.(?:py|yaml|md))\b", TEXTS[page]):
        example = "NAME" in name or "pets" in name
        assert example or (REPO / name).exists(), name


def test_runs_of_the_readme_are_there_when_they_are_named() -> None:
    known = {path.stem for path in (REPO / "pipeline/configs/experiments").glob("*.yaml")}
    for line in TEXTS["README.md"].splitlines():
        command = line.partition("#")[0]
        named = r"python -m pipeline\.(?!fetch|prepare)\w+((?: [a-z][\w-]*)*)"
        if found := re.match(named, command):
            assert {*found[1].split()} <= known, line
        known |= {*re.findall(r"(?<=--name )[\w-]+|(?<=experiments/)[\w-]+(?=\.yaml)", line)}


def test_what_is_read_in_an_evening_is_named_and_short() -> None:
    parts = re.split(r"^## (.*)\n", TEXTS["how-it-works.md"], flags=re.MULTILINE)
    ways = "".join(parts[parts.index(f"A {what}'s way") + 1] for what in ("picture", "probability"))
    named = {*re.findall(r"pipeline/[\w/]+\.py", ways), "pipeline/base/records.py"}
    named |= {f"pipeline/{stage}.py" for stage in STAGES}
    assert len(named) >= 25
    assert sum(len((REPO / name).read_text().splitlines()) for name in named) < 5000


def test_the_slow_tests_exist() -> None:
    from conftest import SLOW

    tests = "".join(path.read_text() for path in REPO.glob("tests/**/test_*.py"))
    assert not [name for name in SLOW if f"def {name}(" not in tests]
