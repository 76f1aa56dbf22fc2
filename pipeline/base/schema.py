"""The sections of an experiment: these models are the only home of a default."""

import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.base.cli import did_you_mean
from pipeline.base.settings import (
    CONFLICT,
    FORMER,
    PACKED_SCALE,
    Name,
    Probability,
    Settings,
    Side,
    Size,
)
from pipeline.base.yaml_files import find_yaml, known_yaml

Alpha = Annotated[float, Field(ge=0, le=1000)]


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
    resize: Literal["stretch", "pad"] = Field("stretch", alias=FORMER["resize"])
    # times the size: what a finished model is shown, where its head is fitted at the end
    test_scale: float = Field(1.0, ge=1, le=PACKED_SCALE)
    # what the head is given
    features: Literal["blocks", "last"] = Field("blocks", alias=FORMER["features"])
    # or a head of your plugins, on the backbone's last map
    classifier: Annotated[str, of_ours("linear")] = "linear"
    # the head's first weights
    head_init: Literal["lda", "random"] = Field("lda", alias=FORMER["head_init"])
    # the finished head's mean with kernel ridge regression, of 16,384 training pictures at most
    kernel: bool = False
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


def one_transform(value: Any) -> Any:
    """A bare name in an augmentation list means "with its own defaults"."""
    return {value: {}} if isinstance(value, str) else value


def one_augmentation(value: Any) -> Any:
    """A preset's name means its list, so that a key holds what was done and not a name."""
    if not isinstance(value, str):
        return value
    known = known_yaml("augmentations")
    if value not in known:
        near = did_you_mean(value, known).removeprefix("; did you mean ").removesuffix("?")
        nearest = f" (nearest: {near})" if near else ""
        text = f"it should be a list or one of {', '.join(known)}{nearest}"
        raise PydanticCustomError("preset", "{text}", {"text": text})
    return yaml.safe_load(find_yaml(value, "augmentations").read_text(encoding="utf-8"))


Transform = Annotated[
    dict[str, dict[str, Any]], BeforeValidator(one_transform), Field(min_length=1, max_length=1)
]
Augmentation = Annotated[
    list[Transform], BeforeValidator(one_augmentation), Field(validate_default=True)
]


class Mix(Settings):
    """Batches of mixed pictures and labels; a mixed batch draws one of the methods that are on."""

    RETIRED: ClassVar = {"mosaic": False}

    mixup: Alpha = 0.0  # one picture shines through another by Beta(a, a); 0: off
    cutmix: Alpha = 0.0  # a rectangle of another, its area from Beta(a, a); 0: off
    prob: Probability = 1.0  # share of batches that are mixed, whatever the method
    off_epochs: int = Field(0, ge=0)  # the last epochs, which see real pictures only


# records keep the former name of a value, as they do that of a field
Conflicts = Annotated[
    Literal["keep", "drop", "majority", "soft"],
    BeforeValidator(lambda value: "keep" if value == "hard" else value),
    PlainSerializer(lambda value: "hard" if value == "keep" else value),
]
LOSSES = ("cross_entropy", "bce", "focal", "asymmetric", "smooth_l1", "mse", "cumulative_bce")


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
    lr: float = Field(7e-5, gt=0)  # of the backbone, at its peak
    schedule: Literal["cosine", "linear", "tanh"] = "cosine"  # timm's, from there to 0
    head_lr_mult: float = Field(5.0, gt=0, le=10_000)  # the head's rate is lr times this
    # rate of a layer as a share of the next one's; 1: one rate for all
    layer_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0, le=1000)  # not on norms and biases
    warmup: Probability = 0.1  # share of all steps
    # labels take bce (a yes-or-no question a class) or asymmetric, which rare labels need;
    # numbers smooth_l1 (their default) or mse, levels cumulative_bce too; or one of your plugins
    loss: Annotated[str, of_ours(*LOSSES)] = "cross_entropy"
    label_smoothing: Probability = 0.0  # share of the target spread evenly over all classes
    # weight of a class in the loss; inverse: 1 / its number of images
    class_weights: Literal["none", "inverse"] = "none"
    sampler: Literal["none", "balanced", "sqrt"] = "none"  # how often each class is shown
    # labels of equal pixels that contradict each other; soft: all get their mean
    conflicts: Conflicts = Field("keep", alias=FORMER["conflicts"])
    clip_grad: float | None = Field(None, gt=0)  # largest gradient norm
    ema: Probability = 0.0  # averaging window as a share of all steps; 0: off
    grad_checkpointing: bool = False  # blocks are computed twice, in less memory
    refit: bool = False  # after the last epoch: mean of the head and its closed form
    # of everything random in training; the split has its own. A list: a run for each
    seed: Annotated[int, BeforeValidator(first_of)] = 0


class Extra(Settings):
    """External data: pictures with labels that all folds are trained on, and never scored."""

    csv: str  # its path in the project; with the columns of the competition's train.csv
    # path template of a picture beside it, over its columns; None: the competition's
    image: str | None = None
    share: float | None = Field(None, gt=0, lt=1)  # of an epoch's pictures; None: each comes once


class Pseudo(Settings):
    """Sure test pictures of a finished blend, taught as it answers them; fold k by its fold k."""

    run: Name  # what `ensemble` was run on or wrote, on the same folds
    # of the likeliest answer, to each of several labels, from which on a picture is sure
    threshold: Probability = 0.9
    weight: float = Field(0.5, gt=0, le=1)  # of a picture in the loss; one with a label counts 1
    # of the probabilities: over 1 sharpens, under 1 softens
    power: float = Field(1.0, gt=0, le=100)


TTAName = Literal["none", "hflip", "flips", "diagonals", "d4"]
TTA = StrEnum("TTA", [(name, name) for name in get_args(TTAName)])  # an option of commands


def each_once(sizes: list[int]) -> list[int]:
    """Sorted, since their order means nothing: one file name for all orders."""
    if len(set(sizes)) < len(sizes):
        raise PydanticCustomError("twice", "each size may stand once")
    return sorted(sizes)


Sizes = Annotated[list[Side], Field(min_length=1), AfterValidator(each_once)]


class Predict(Settings):
    """The views of a picture, of which the mean is taken: those of `tta` at each of `sizes`."""

    # none, hflip, flips, diagonals, d4: 1, 2, 4, 4, 8 views of each picture
    tta: TTAName = "none"
    sizes: Sizes | None = None  # px, of the height; None: as its head was fitted to

    @property
    def views_name(self) -> str:
        """Name of these settings in file names and keys: `d4`, or `d4-128-160` with sizes."""
        return "-".join([self.tta, *map(str, self.sizes or [])])

    @classmethod
    def named(cls, views_name: str) -> "Predict":
        """The settings whose `views_name` this is."""
        tta, *sizes = re.split(r"-(?=\d)", views_name)
        return cls(tta=tta, sizes=sizes or None)


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
    graph: bool = False  # a GPU plays a step's passes back, recorded once: for small pictures
    workers: int | None = Field(None, ge=0, le=256)  # None: 0 on a CPU, else up to 4
    predict_batch: int = Field(64, ge=1)  # pictures a step, in prediction
    pack_gb: float = Field(16.0, ge=0)  # larger competitions are read from their files
    # where the log goes, too
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
