"""The rooms stand in one order, each imports only to its left, and none imports a verb."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.mutations import DEFECTS

PACKAGE = Path(__file__).parents[1] / "pipeline"
ORDER = ["base", "data", "model", "inference", "training"]
VERBS = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
WITH_VERBS = {"ablate", "bench"}  # they run the flow themselves
QUICK = ["prepare", "folds", "train", "predict", "ensemble", "submit", "pages.compose"]
SLOW = {"torch", "timm", "scipy", "sklearn", "matplotlib"}  # seconds that no up-to-date stage waits


def imported(source: str) -> Iterator[str]:
    """Names inside the package that a module imports, wherever in it: `data.loader`, `train`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            inside = node.module.partition(".")[2]
            yield from [inside] if inside else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from [n.partition(".")[2] for n in names if n.startswith("pipeline.")]


def wrong(module: str, source: str) -> list[str]:
    """Imports of a module (`model.build`) that lead to its right, to a wing, or to a verb."""
    room, found = module.partition(".")[0], []
    for name in imported(source):
        target = name.partition(".")[0]
        if target in VERBS:
            bad = room not in WITH_VERBS
        elif room in ORDER:
            left = [*ORDER[: ORDER.index(room) + 1], "exit_at_once"]
            bad = target not in left
        else:
            bad = room == "launchers" and target not in ("base", "launchers")
        if bad:
            found.append(f"{module} imports {name}")
    return found


def test_no_room_imports_to_its_right_or_a_verb() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found += wrong(module, path.read_text())
    assert not found


def test_a_wrong_import_is_found() -> None:
    upwards = "def f():\n    from pipeline.training.loss import Loss\n"
    assert wrong("model.build", upwards) == ["model.build imports training.loss"]
    assert wrong("training.trainer", upwards) == []
    assert wrong("kaggle.bundle.push", "from pipeline import submit") == [
        "kaggle.bundle.push imports submit"
    ]
    assert wrong("launchers.local", "import pipeline.data.splits")
    assert not wrong("ablate", "from pipeline.train import unfinished")


def loaded(modules: list[str]) -> dict[str, str]:
    """Packages that modules load as soon as they are imported, and which of ours asks for each."""
    todo, seen, found = list(modules), set[Path](), dict[str, str]()
    while todo:
        path = PACKAGE / (todo.pop().replace(".", "/") + ".py")
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                names = [alias.name for alias in getattr(node, "names", [])]
            todo += [name.removeprefix("pipeline.") for name in names]
            found |= {name.partition(".")[0]: path.name for name in names}
    return found


def test_an_up_to_date_stage_waits_for_no_slow_package() -> None:
    assert {"torch", "accelerate"} <= set(loaded(["training.head_init"]))
    found = loaded(QUICK)
    assert not {name: found[name] for name in SLOW & set(found)}


def test_what_only_predicts_waits_for_no_augmentation() -> None:
    """Its import takes a second."""
    entries = ["predict", "report", "inference.predictor", "inference.features", "pages.spotlight"]
    assert "albumentations" in loaded(["training.trainer"])
    assert "albumentations" not in loaded(entries)


def test_each_room_says_what_it_answers() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE, PACKAGE / "kaggle"}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert text and "\n" not in text.strip(), folder


def test_no_two_modules_have_one_name() -> None:
    """Nor one in a room that of a room; a verb may have its noun's name: bundle, runs."""
    modules = [path.stem for path in PACKAGE.glob("*/**/*.py") if path.stem != "__init__"]
    rooms = {path.parent.name for path in PACKAGE.rglob("__init__.py")}
    assert not [name for name in modules if modules.count(name) > 1 or name in rooms - VERBS]


def test_planted_defects_follow_the_code() -> None:
    """tests/mutations.py takes minutes and is not run each time: what it changes must be there."""
    for defect in DEFECTS:
        assert (PACKAGE / defect.file).read_text().count(defect.old) == 1, defect.name
        for name in defect.tests.split():
            assert list(Path(__file__).parent.glob(f"**/{name}")), (defect.name, name)
