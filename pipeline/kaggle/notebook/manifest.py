"""What a bundle's weights are: files, their sha256, and how each model looks at a picture."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.competition import Competition
from pipeline.base.config import Predict, Settings

FILE = "manifest.json"


class Member(Settings):
    """One fold's model. `file` holds its weights, `file`.json its record."""

    file: str
    sha256: dict[str, str]  # of both files
    run: str
    fold: int
    weight: float  # the run's, which its folds share equally
    looks: str  # name of its predict settings
    trained: int  # px
    pixels: int  # px, side of the picture that views are taken from
    fit: str

    @property
    def tta(self) -> str:
        return Predict.named(self.looks).tta

    @property
    def sizes(self) -> list[int]:
        """Px, the nearest to what it was trained at first: it is the one that is surely seen."""
        sizes = Predict.named(self.looks).sizes or [self.trained]
        return sorted(sizes, key=lambda size: abs(size - self.trained))


class Manifest(Settings):
    name: str
    classes: list[str]
    prior: list[float]  # each class's share of the training images
    members: Annotated[list[Member], Field(min_length=1)]
    cv: dict[str, Any]
    metric: str
    git: str | None

    def save(self, folder: Path) -> None:
        with records.writing(folder / FILE) as tmp:
            tmp.write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        try:
            return cls.model_validate_json((folder / FILE).read_text())
        except ValidationError as error:
            raise UserError(f"{folder / FILE}: not a manifest: {error}") from None


class Job(Settings):
    """What a bundle's notebook is told; everything else stands in the manifest."""

    name: str
    competition: Competition
    weights: str  # slug of the dataset

    @property
    def slug(self) -> str:
        """Where the competition is mounted."""
        return self.competition.slug or self.competition.name


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def faults(folder: Path, member: Member) -> list[str]:
    """What is wrong with a member's files; nothing when all is as the manifest says."""
    wrong = []
    for name, expected in member.sha256.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif sha256(path) != expected:
            wrong.append(f"{name} has another sha256 than the manifest says")
    return wrong
