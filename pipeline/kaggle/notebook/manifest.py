"""What a submission's dataset holds: models with their records, and how each sees a picture."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.config import Predict
from pipeline.base.settings import Settings, Size, size_name
from pipeline.inference.blending import Mean

FILE = "manifest.json"


class BundledModel(Settings):
    """One fold's model: its weights are in `file`, its record in `file`.json."""

    file: str
    run: str
    fold: int
    weight: float  # the run's, which its folds share equally
    predict: Predict
    pixels: Size  # px, of the picture that views are taken from
    fit: str

    @property
    def name(self) -> str:
        return f"{self.run} fold {self.fold}"

    @property
    def form(self) -> str:
        return f"{size_name(self.pixels)}-{self.fit}"

    def problem(self, folder: Path) -> str:
        """What is wrong with its files in `folder`, or nothing."""
        path = folder / self.file
        try:
            record = records.load(path)
            if record is None:
                return f"{self.file} or its record is missing"
            whole = records.file_digest(path) == record["digest"]
            return "" if whole else f"{self.file} is not the file that its record describes"
        except (UserError, OSError) as error:
            return str(error)


class Manifest(Settings):
    classes: list[str]
    prior: list[float]  # each class's share of the training images, or the mean of a number
    models: Annotated[list[BundledModel], Field(min_length=1)]
    mean: Mean = Mean.PROBABILITIES  # of runs
    decision: dict[str, Any] | None = None  # thresholds or cuts, of the blend's record

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(**records.read_json(folder / FILE))


class Job(Settings):
    """What a submission's notebook is told; everything else stands in the manifest."""

    competition: Competition
    weights: str  # slug of the dataset
