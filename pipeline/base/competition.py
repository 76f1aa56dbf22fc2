"""Settings of a competition: where its files lie, what they hold, how it is scored."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.base.settings import CONFLICT, Name, Settings
from pipeline.base.yaml_files import find_yaml, load_yaml


def _inside(value: str) -> str:
    if not value or "\0" in value or value[0] == "/" or ".." in value.split("/"):
        text = "a path within the competition's folder is expected"
        raise PydanticCustomError("outside", "{text}", {"text": text})
    return value


Inside = Annotated[str, AfterValidator(_inside)]


class Competition(Settings):
    """Where a competition's files lie and how it is scored. Paths are relative to its data."""

    name: Name = ""  # of its folder in data/: the file's name
    title: str = ""  # for people
    slug: Name | None = None  # the end of its address on Kaggle
    id: str = "image"  # column that names a picture, in all CSVs
    label: str | Annotated[list[str], Field(min_length=2)] = "label"  # a list: one-hot columns
    group: str | None = None  # column whose equal values must stay in one fold
    train: Inside = "train.csv"  # CSV of ids and labels
    test: Inside = "test.csv"  # CSV of ids
    sample: Inside = "sample_submission.csv"  # CSV whose ids, columns and order a submission takes
    solution: Inside = "solution.csv"  # the hidden answers, where they are known
    image: Inside = "{image}"  # path template over the CSV's columns: train/{id}.jpg
    test_image: Inside | None = None  # when test pictures lie elsewhere
    submission: Literal["label", "probability"] = "label"  # a class name a row, or a column a class
    # of all scores: folds, blends, hidden tests
    metric: Literal["accuracy", "log_loss", "macro_f1", "auc", "quadratic_kappa"] = "accuracy"
    limit_hours: float = Field(9.0, ge=0.5)  # of a notebook, where notebooks are submitted
    code_competition: bool = False  # Kaggle runs notebooks again, on a test that nobody has seen
    accelerator: Literal["t4x2", "l4x4", "cpu"] = "t4x2"  # of notebooks on Kaggle

    @model_validator(mode="after")
    def _answered(self) -> "Competition":
        if self.submission == "label" and not isinstance(self.label, str):
            raise PydanticCustomError(CONFLICT, "a list as label needs submission: probability")
        return self

    @property
    def label_columns(self) -> list[str]:
        return [self.label] if isinstance(self.label, str) else self.label


def load_competition(name: str) -> Competition:
    return load_yaml(Competition, find_yaml(name, "competitions"))
