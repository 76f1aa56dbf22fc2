"""Settings of what is taught where labels contradict each other, or where there are none."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from pipeline.base.settings import Name, Probability, Settings

# records keep the former name of a value, as they do that of a field
Conflicts = Annotated[
    Literal["keep", "drop", "majority", "soft"],
    BeforeValidator(lambda value: "keep" if value == "hard" else value),
    PlainSerializer(lambda value: "hard" if value == "keep" else value),
]


class Extra(Settings):
    """External data: pictures with labels that all folds are trained on, and never scored."""

    csv: str  # its path in the project; with the columns of the competition's train.csv
    # path template of a picture beside it, over its columns; None: the competition's
    image: str | None = None


class Pseudo(Settings):
    """Sure test pictures of a finished blend, taught as it answers them; fold k by its fold k."""

    run: Name  # what `ensemble` was run on or wrote, on the same folds
    threshold: Probability = 0.9  # of the largest probability, from which on a picture is sure
    weight: float = Field(0.5, gt=0, le=1)  # of a picture in the loss; one with a label counts 1
    power: float = Field(
        1.0, gt=0, le=100
    )  # of the probabilities: over 1 sharpens, under 1 softens
