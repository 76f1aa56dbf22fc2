"""What is known here, without a network, of the image that notebooks run in on Kaggle."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

TIMM, COMPARED = "1.0.26", "1.0.31"  # the image's timm, and the one that NEWER compares it with
NEWER = Path(__file__).with_name("newer-timm.txt")


def unknown_there(backbones: Iterable[str]) -> list[str]:
    """A line for each of these timm models that Kaggle's timm lacks, or may lack."""
    lines = NEWER.read_text().splitlines()
    newer = {name for line in lines if not line.startswith("#") for name in line.split()}
    here, asked = version("timm"), sorted(set(backbones))
    lacking = [name for name in asked if {name, name.partition(".")[0]} & newer]
    told = [
        f"{name} is newer than timm {TIMM} of Kaggle's image, which cannot build it: unless the "
        "image is newer by now, no notebook can use it"
        for name in lacking
    ]
    if _numbers(here) > _numbers(COMPARED):
        rest = [name for name in asked if name not in lacking]
        told += [
            f"timm {here}: whether Kaggle's {TIMM} can build {name} is unknown" for name in rest
        ]
    return told


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".")[:3] if part.isdigit()]
