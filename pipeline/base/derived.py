"""`--set train.lr=1e-4 --name demo-lr`: an experiment that differs from another, and its file.

`--seed 0 --seed 1`, and a list in its file, is the same for seeds: demo, and demo-seed1.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline.base import records
from pipeline.base.cli import UserError, say, short, shown
from pipeline.base.config import Experiment, Train, find_experiment, load_experiment, root
from pipeline.base.settings import checked_name
from pipeline.base.yaml_files import checked, is_path, known_yaml, laid_over, read_based, read_yaml

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="as train.lr=1e-4: a run of another --name"),
]
NameOption = Annotated[str | None, typer.Option("--name", help="of the run that --set makes")]
SeedOption = Annotated[
    list[int] | None, typer.Option("--seed", help="a run each; default: those of train.seed")
]


def derived(experiment: str, changes: list[str] | None, name: str | None) -> str:
    """The name of `experiment` with `changes`, whose file is runs/NAME/NAME.yaml from now on.

    All stages know it by this name. Without changes it is `experiment` itself. Raises UserError
    for changes without a name, for one that is taken, and for what no experiment holds.
    """
    if not changes:
        if name:
            text = "names what --set KEY=VALUE makes; one that is made is itself the experiment"
            raise UserError(f"--name {shown(name)}: {text}")
        return experiment
    if name is None:
        stem = Path(experiment).stem
        raise UserError(f"--set makes another run, which needs a name: --name {stem}-2, say")
    source, path = find_experiment(experiment), root("runs") / name / f"{name}.yaml"
    base = str(source.resolve()) if is_path(experiment) else experiment
    values: dict[str, Any] = {"base": base}
    for change in changes:
        values = laid_over(values, _parsed(change))
    checked_name(name, "--name")
    own = read_based(source, find_experiment)
    checked(Experiment, {**laid_over(own, values), "name": name}, f"{source} --set")
    _refuse_taken(path, values)
    if not path.is_file() or read_yaml(path) != values:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        with records.writing(path) as tmp:
            about = "# made by --set; may lie in pipeline/configs/experiments/ too\n"
            tmp.write_text(about + text, encoding="utf-8")
        say("set", f"{path}: {name} is {experiment} with {' '.join(changes)}")
    return name


def each_seed(experiment: str, seeds: list[int] | None) -> list[str]:
    """Names of an experiment's runs: itself for its own seed, else NAME-seed3 for seed 3."""
    own = load_experiment(experiment)
    runs = {seed: f"{own.name}-seed{seed}" for seed in seeds or seeds_of(experiment)}
    return [
        experiment if seed == own.train.seed else derived(experiment, [f"train.seed={seed}"], run)
        for seed, run in runs.items()
    ]


def seeds_of(experiment: str) -> list[int]:
    """Those that its file lists, the first of which is its own."""
    values = read_based(find_experiment(experiment), find_experiment)
    seeds = values.get("train", {}).get("seed", Train().seed)
    return seeds if isinstance(seeds, list) else [seeds]


def _parsed(change: str) -> dict[str, Any]:
    """`train.lr=1e-4` as YAML would say it. Raises UserError for what is no KEY=VALUE."""
    key, equals, text = change.partition("=")
    section, dot, setting = key.partition(".")
    if not (equals and section and bool(dot) == bool(setting)) or "." in setting:
        text = "expected KEY=VALUE, as train.lr=1e-4 or augment=d4"
        raise UserError(f"--set {shown(change)}: {text}")
    if key in ("base", "name"):
        raise UserError(f"--set {key}: is no setting; --name gives the name")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: {shown(text)} is no YAML ({short(error, 120)})") from None
    return {section: {setting: value} if setting else value}


def _refuse_taken(path: Path, values: dict[str, Any]) -> None:
    """Raises UserError where a name is another experiment's, or that of a run set otherwise."""
    name, folder = path.stem, path.parent
    if name in known_yaml("experiments"):
        raise UserError(f"--name {name}: an experiment has this name; choose another")
    there = any(folder.glob("[!.]*"))  # not a lock, nor what another process is just writing
    if not there or (path.is_file() and read_yaml(path) == values):
        return
    if not path.is_file():
        raise UserError(f"--name {name}: {folder} holds another run; choose another name")
    if any(folder.glob("fold*")):
        changes = records.in_words(records.differences(read_yaml(path), values))
        raise UserError(f"{folder} was set otherwise: {changes}; choose another --name")
