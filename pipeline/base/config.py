"""An experiment: its settings, and how they are read. YAML holds what differs from the defaults.

`key()` holds its science only: workers, device and precision are outside it.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.base.cli import UserError
from pipeline.base.competition import load_competition
from pipeline.base.forms import suited
from pipeline.base.plugins import read_plugins
from pipeline.base.recipes import over_recipe, own_size
from pipeline.base.schema import (
    TTA,
    Augmentation,
    Extra,
    Folds,
    Mix,
    Model,
    Predict,
    Pseudo,
    Runtime,
    Train,
)
from pipeline.base.settings import CONFLICT, PACKED_SCALE, Name, Settings, root, scaled, valid_name
from pipeline.base.yaml_files import checked, find_yaml, known_yaml, read_based


class Experiment(Settings):
    name: Name = ""  # of its folder in runs/: the file's name
    # another experiment, or its file, of which this one holds what differs
    base: str | None = Field(None, exclude=True)
    recipe: str = Field("short", exclude=True)  # of configs/recipes/; unnamed, by the epochs
    competition: str  # a name in pipeline/configs/competitions/, or a path that ends in .yaml
    # your own file of losses, transforms, heads and optimizers: mine.py
    plugins: str | None = None
    folds: Folds = Folds()
    model: Model = Model()
    augment: Augmentation = "light"  # a preset of configs/augmentations/, or a list like theirs
    mix: Mix = Mix()
    train: Train = Train()
    extra: Extra | None = None
    pseudo: Pseudo | None = None
    predict: Predict = Predict()
    runtime: Runtime = Runtime()
    _asked: str = ""

    @field_validator("folds", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        return {"n": 1} if value == "all" else value

    @field_validator("competition")
    @classmethod
    def _of_a_name(cls, value: str) -> str:
        valid_name(Path(value).stem)  # its folder's
        return value

    @model_validator(mode="after")
    def _trained(self) -> "Experiment":
        if self.train.epochs == 0 and self.model.head_init == "random":
            raise PydanticCustomError(CONFLICT, "train.epochs: 0 needs model.head_init: lda")
        if self.train.epochs == 0 and self.extra:  # a closed form is of the competition's own
            raise PydanticCustomError(CONFLICT, "extra: needs train.epochs")
        if self.extra and self.extra.share and self.train.sampler != "none":
            raise PydanticCustomError(CONFLICT, "extra.share: needs train.sampler: none")
        if self.train.epochs == 0 and self.pseudo:
            raise PydanticCustomError(CONFLICT, "pseudo: needs train.epochs")
        return self

    def key(self) -> dict[str, Any]:
        """What a trained model depends on."""
        science = {"model", "augment", "mix", "train"}
        return self.model_dump(include=science, mode="json", by_alias=True)

    def own(self, kind: str) -> dict[str, Any]:
        """What your plugins hold of a kind. Raises UserError for a file that cannot be run."""
        return read_plugins(self.plugins)[kind]

    @property
    def asked(self) -> str:
        """What commands are to be given for it: the path that one was given, or its name."""
        return self._asked or self.name

    @property
    def competition_name(self) -> str:
        return Path(self.competition).stem

    @property
    def cache_size(self) -> int | tuple[int, int]:
        """Of the packed pictures, px: room for random crops."""
        return scaled(self.model.size, PACKED_SCALE)


def with_tta(settings: Experiment, tta: TTA | None) -> Experiment:
    """The same with other views, its sizes being kept."""
    if tta is None:
        return settings
    predict = settings.predict.model_copy(update={"tta": str(tta)})
    return settings.model_copy(update={"predict": predict})


def load_experiment(name: str) -> Experiment:
    """Read `pipeline/configs/experiments/NAME.yaml`, or any path that ends in .yaml.

    Raises UserError for a missing file, unknown keys, wrong types and values out of range.
    """
    experiment = read_experiment(name)
    if experiment.model.size is None:
        size = own_size(experiment.model.backbone)
        model = experiment.model.model_copy(update={"size": size})
        experiment = experiment.model_copy(update={"model": model})
    return suited(experiment, load_competition(experiment.competition).form)


def read_experiment(name: str) -> Experiment:
    """As it stands in its file and that of its base: without a size where both say none.

    Raises UserError as `load_experiment`, and for a `name:` that is not the file's: commands know
    a run by the latter.
    """
    path = find_experiment(name)
    experiment = checked(Experiment, over_recipe(read_based(path, find_experiment)), path)
    if experiment.name != path.stem:
        text = f"name: {experiment.name!r} is not the file's, by which commands know a run"
        raise UserError(f"{path}: {text}; rename the file, or remove the key")
    experiment._asked = name
    return experiment


def find_experiment(name: str) -> Path:
    """Its file; one that `--set` made lies in its run's folder."""
    made = root("runs") / name / f"{name}.yaml"
    if made.is_file() and name not in known_yaml("experiments"):
        return made
    return find_yaml(name, "experiments")
