"""Settings of a competition: where its files lie, what they hold, how it is scored."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pipeline.base import records
from pipeline.base.forms import OneClass, parts_of, stem_of
from pipeline.base.plugins import read_plugins, score_by
from pipeline.base.row_forms import FORMS
from pipeline.base.settings import CONFLICT, Name, Settings
from pipeline.base.yaml_files import checked, find_yaml, read_yaml


def _inside(value: str) -> str:
    if not value or "\0" in value or value[0] == "/" or ".." in value.split("/"):
        text = "a path within the competition's folder is expected"
        raise PydanticCustomError("outside", "{text}", {"text": text})
    return value


METRICS = tuple(dict.fromkeys(name for form in FORMS.values() for name in form.metrics))
# in a key only where they are set
LATER = ("task", "picture", "positive", "separator", "k", "transform", "of_pictures", "plugins")
Inside = Annotated[str, AfterValidator(_inside)]


class Competition(Settings):
    """Where a competition's files lie and how it is scored. Paths are relative to its data."""

    name: Name = ""  # of its folder in data/: the file's name
    title: str = ""  # for people
    slug: Name | None = None  # the end of its address on Kaggle
    # what is asked of a picture; docs/tasks.md
    task: Literal["classes", "binary", "multi-label", "ordinal", "regression"] = "classes"
    id: str = "image"  # column that names a picture, in all CSVs
    picture: str | None = None  # column that does so where an id, which is answered, has several
    # of probabilities, of logits; max: one picture that shows it is enough
    of_pictures: Literal["mean", "logits", "max"] = "mean"
    label: str | Annotated[list[str], Field(min_length=2)] = "label"  # a list: one-hot columns
    positive: str = "1"  # binary: the label whose probability is asked for
    separator: str = " "  # multi-label: between the labels of one column
    k: int = Field(1, ge=1, le=100)  # classes: so many are answered, the likeliest first
    # regression: what heads are taught of numbers from 0 on; answers are turned back
    transform: Literal["none", "log1p", "sqrt"] = "none"
    group: str | None = None  # column whose equal values must stay in one fold
    train: Inside = "train.csv"  # CSV of ids and labels
    test: Inside = "test.csv"  # CSV of ids
    sample: Inside = "sample_submission.csv"  # CSV whose ids, columns and order a submission takes
    solution: Inside = "solution.csv"  # the hidden answers, where they are known
    image: Inside = "{image}"  # path template over the CSV's columns: train/{id}.jpg
    test_image: Inside | None = None  # when test pictures lie elsewhere
    submission: Literal["label", "probability"] = "label"  # a class name a row, or a column a class
    # of all scores; each task takes some, f1, map_at_5 and top_5 with any number: f0.5, map_at_10
    metric: Annotated[str, WithJsonSchema({"enum": METRICS})] = "accuracy"
    plugins: str | None = None  # your own file that holds the metric: mine.py
    limit_hours: float = Field(9.0, ge=0.5)  # of a notebook, where notebooks are submitted
    code_competition: bool = False  # Kaggle runs notebooks again, on a test that nobody has seen
    accelerator: Literal["t4x2", "l4x4", "cpu"] = "t4x2"  # of notebooks on Kaggle

    @model_validator(mode="before")
    @classmethod
    def _usual_metric(cls, values: Any) -> Any:
        form = FORMS.get(str(values.get("task", "classes"))) if isinstance(values, dict) else None
        return {"metric": form.metrics[0], **values} if form else values

    @model_validator(mode="after")
    def _answered(self) -> "Competition":
        problem = self.form.problem()
        unfit = {"logits": self.form.kind == "numbers", "max": self.task == "classes"}
        if self.transform != "none" and self.task != "regression":
            problem = f"transform: {self.transform} is of task: regression"
        if self.group in self.label_columns:
            problem = f"group: {self.group} is the label: no fold would be taught what it is asked"
        if self.k > 1 and self.task != "classes":
            problem = f"k: {self.k} is of task: classes, not of {self.task}"
        stem, number = parts_of(self.metric)
        if stem == "map_at_#" and int(number) > self.k and self.submission == "label":
            problem = f"metric: {self.metric} scores {number} guesses: set k: {number}"
        if unfit.get(self.of_pictures):
            problem = f"of_pictures: {self.of_pictures} is not for task: {self.task}"
        if self.of_pictures != "mean" and not self.picture:
            problem = f"of_pictures: {self.of_pictures} needs picture:"
        own = read_plugins(self.plugins)["metric"]
        known = [*self.form.metrics, *own]
        fits = stem in map(stem_of, self.form.metrics)
        if not problem and not fits and self.metric not in known:
            problem = f"task: {self.task} takes no metric: {self.metric}, but {', '.join(known)}"
        if taken := [name for name in own if stem_of(name) in map(stem_of, METRICS)]:
            problem = f"{self.plugins}: metric {taken[0]} is one of ours: give yours another name"
        if problem:
            raise PydanticCustomError(CONFLICT, "{text}", {"text": problem})
        score_by(own)
        return self

    @cached_property
    def form(self) -> OneClass:
        """What follows from the task."""
        return FORMS[self.task](self)

    def key(self) -> dict[str, Any]:
        """For the key of what all the settings go into."""
        usual = {name: type(self).model_fields[name].default for name in LATER}
        found = self.model_dump(mode="json")
        if self.plugins:
            found["plugins"] = records.file_digest(Path(self.plugins))
        return {k: v for k, v in found.items() if k not in usual or v != usual[k]}

    @property
    def label_columns(self) -> list[str]:
        return [self.label] if isinstance(self.label, str) else self.label


def load_competition(name: str) -> Competition:
    """One of configs/competitions/, or a path. Raises UserError with a line per mistake."""
    path = find_yaml(name, "competitions")
    return checked(Competition, read_yaml(path), path)
