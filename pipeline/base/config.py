"""Settings: these models are the only home of a default; YAML holds what differs.

`key()` of an experiment holds its science only: workers, device and precision are outside it.
"""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.base.augment_settings import Augmentation
from pipeline.base.cli import UserError, did_you_mean, shown
from pipeline.base.competition import load_competition
from pipeline.base.forms import suited
from pipeline.base.label_settings import Conflicts, Extra, Pseudo
from pipeline.base.plugins import read_plugins
from pipeline.base.predict_settings import TTA, Predict
from pipeline.base.recipes import over_recipe
from pipeline.base.settings import (
    CONFLICT,
    Name,
    Probability,
    Settings,
    Size,
    sides,
    valid_name,
)
from pipeline.base.yaml_files import checked, find_yaml, known_yaml, read_based

Alpha = Annotated[float, Field(ge=0, le=1000)]
Root = Literal["data", "runs", "folds", "labels", "submissions", "weights"]


def of_ours(*names: str) -> WithJsonSchema:
    """What the table of settings says of a name that plugins may hold, too."""
    return WithJsonSchema({"enum": list(names)})


class Folds(Settings):
    # number of folds; 1, or folds: all: every picture is trained on and none scores
    n: int = Field(5, ge=1, le=1000)
    seed: int = Field(42, ge=0, lt=2**32)  # of the split
    name: Name | None = None  # file name in folds/, for a second split of the same data


class Model(Settings):
    RETIRED: ClassVar = {"names": None}

    backbone: str = "tf_efficientnet_lite0"  # any name of timm.list_models(), with or without a tag
    weights: str = "pypi"  # hub (timm's), pypi (lite0, lite1, lite2), none, run:NAME, or a path
    size: Size | None = None  # px, or [height, width]; None: the backbone's own
    # how a picture takes that shape
    resize: Literal["stretch", "pad"] = Field("stretch", alias="fit")
    features: Literal["blocks", "last"] = Field("blocks", alias="reads")  # what the head is given
    # or a head of your plugins, on the backbone's last map
    classifier: Annotated[str, of_ours("linear")] = "linear"
    head_init: Literal["lda", "random"] = Field("lda", alias="head")  # the head's first weights
    batchnorm: Literal["frozen", "train"] = "frozen"  # its running statistics
    depthwise: Literal["frozen", "train"] = "train"  # convolutions of a channel each, their norms
    freeze: str | None = None  # "backbone", or the last frozen module (blocks.2)
    freeze_epochs: int | None = Field(None, ge=1)  # then it is unfrozen; None: never
    drop_rate: Probability = 0.0  # dropout before the head's linear layer
    drop_path_rate: Probability = 0.0  # stochastic depth, where the backbone has it

    @model_validator(mode="after")
    def _fitting(self) -> "Model":
        if self.weights == "none" and "frozen" in (self.batchnorm, self.depthwise):
            text = "model.weights: none needs batchnorm: train and depthwise: train"
            raise PydanticCustomError(CONFLICT, text)
        if self.freeze_epochs and not self.freeze:
            raise PydanticCustomError(CONFLICT, "model.freeze_epochs needs freeze:")
        plain = self.features == "last" and self.head_init == "random"
        if self.classifier != "linear" and not plain:
            text = "model.classifier: your own needs features: last and head_init: random"
            raise PydanticCustomError(CONFLICT, text)
        return self


class Mix(Settings):
    """Batches of mixed pictures and labels; a mixed batch draws one of the methods that are on."""

    RETIRED: ClassVar = {"mosaic": False}

    mixup: Alpha = 0.0  # one picture shines through another by Beta(a, a); 0: off
    cutmix: Alpha = 0.0  # a rectangle of another, its area from Beta(a, a); 0: off
    prob: Probability = 1.0  # share of batches that are mixed, whatever the method
    off_epochs: int = Field(0, ge=0)  # the last epochs, which see real pictures only


LOSSES = ("cross_entropy", "bce", "asymmetric", "smooth_l1", "mse")


def first_of(seed: Any) -> Any:
    """The run of an experiment's own name has the first seed of a list; `each_seed` the others."""
    return seed[0] if isinstance(seed, list) and seed else seed


class Train(Settings):
    RETIRED: ClassVar = {"focal_gamma": 2.0, "distill": None, "distill_weight": 0.3}

    epochs: int = Field(5, ge=0)  # 0: the head's closed form is all
    batch_size: int = Field(64, ge=2)  # pictures a step, over all GPUs of a fold
    accumulate: int = Field(1, ge=1)  # batches per optimizer step
    # adamw is PyTorch's; lion, lamb, nadamw, muon and 60 more are timm's; or of your plugins
    optimizer: str = "adamw"
    lr: float = Field(7e-5, gt=0)  # of the backbone, at its peak; then a half cosine to 0
    head_lr_mult: float = Field(5.0, gt=0, le=10_000)  # the head's rate is lr times this
    # rate of a layer as a share of the next one's; 1: one rate for all
    layer_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0, le=1000)  # not on norms and biases
    warmup: Probability = 0.1  # share of all steps
    # labels take bce (a yes-or-no question a class) or asymmetric, which rare labels need;
    # numbers smooth_l1 (their default) or mse; or one of your plugins
    loss: Annotated[str, of_ours(*LOSSES)] = "cross_entropy"
    label_smoothing: Probability = 0.0  # share of the target spread evenly over all classes
    # weight of a class in the loss; inverse: 1 / its number of images
    class_weights: Literal["none", "inverse"] = "none"
    sampler: Literal["none", "balanced", "sqrt"] = "none"  # how often each class is shown
    # labels of equal pixels that contradict each other; soft: all get their mean
    conflicts: Conflicts = Field("keep", alias="twins")
    clip_grad: float | None = Field(None, gt=0)  # largest gradient norm
    ema: Probability = 0.0  # averaging window as a share of all steps; 0: off
    grad_checkpointing: bool = False  # blocks are computed twice, in less memory
    refit: bool = False  # after the last epoch: mean of the head and its closed form
    # of everything random in training; the split has its own. A list: a run for each
    seed: Annotated[int, BeforeValidator(first_of)] = 0


class Runtime(Settings):
    """How fast, never what: nothing here is in a key."""

    tune: Literal["auto", "off"] = "auto"  # auto: what `bench` measured; settings here win over it
    device: Literal["auto", "cpu"] = "auto"  # auto: a GPU where there is one
    processes: int | None = Field(None, ge=1, le=64)  # folds at a time; None: all GPUs, 1 on a CPU
    gpus_per_fold: int = Field(1, ge=1, le=64)  # that train a fold; without GPUs: processes
    # auto: fp16, or bf16 where the machine has units for it; a CPU without them: no
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    channels_last: bool = True  # order of a picture's numbers in memory
    compile: bool = False  # torch.compile, in training
    workers: int | None = Field(None, ge=0, le=256)  # None: 0 on a CPU, else up to 4
    predict_batch: int = Field(64, ge=1)  # pictures a step, in prediction
    pack_gb: float = Field(16.0, ge=0)  # larger competitions are read from their files
    # where the log goes, too
    tracker: Literal["none", "tensorboard", "wandb"] = "none"


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
        plain = self.train.loss == "cross_entropy" and not self.train.label_smoothing
        if self.pseudo and not (plain and self.train.epochs):  # a weight scales a plain row alone
            text = "pseudo: needs train.epochs, loss: cross_entropy and label_smoothing: 0"
            raise PydanticCustomError(CONFLICT, text)
        return self

    def key(self) -> dict[str, Any]:
        """What a trained model depends on."""
        science = {"model", "augment", "mix", "train"}
        return self.model_dump(include=science, mode="json", by_alias=True)

    def own(self, kind: str) -> dict[str, Any]:
        """What your plugins hold of a kind. Raises UserError for a file that cannot be run."""
        return read_plugins(self.plugins)[kind]

    @property
    def competition_name(self) -> str:
        return Path(self.competition).stem

    @property
    def cache_size(self) -> int | tuple[int, int]:
        """Of the packed pictures, px: room for random crops."""
        height, width = (round(side * 1.25) for side in sides(self.model.size))
        return height if height == width else (height, width)


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
    """As it stands in its file and that of its base: without a size where both say none."""
    path = find_experiment(name)
    return checked(Experiment, over_recipe(read_based(path, find_experiment)), path)


def find_experiment(name: str) -> Path:
    """Its file; one that `--set` made lies in its run's folder."""
    made = root("runs") / name / f"{name}.yaml"
    if made.is_file() and name not in known_yaml("experiments"):
        return made
    return find_yaml(name, "experiments")


def root(name: Root) -> Path:
    """A root folder: `runs/`, or what RUNS_DIR says."""
    return Path(os.environ.get(f"{name.upper()}_DIR", name))


def own_size(backbone: str) -> int:
    """Side of the pictures it was made for, px. Raises UserError for an unknown one."""
    import timm  # late: only backbones without a `size` pay for it

    try:
        known = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    except RuntimeError:  # the model is known, the tag behind its name is not
        known = None
    if known is None:
        near = did_you_mean(backbone, timm.list_models() + timm.list_pretrained(), n=3)
        raise UserError(f"model.backbone: timm has no {shown(backbone)}{near}")
    return known.input_size[-1]
