"""What is known here, without a network, of the image that notebooks run in on Kaggle."""

from collections.abc import Iterable
from pathlib import Path

TIMM, COMPARED = "1.0.26", "1.0.31"  # the image's timm, and the one that NEWER compares it with
NEWER = Path(__file__).with_name("newer-timm.txt")


def unknown_there(backbones: Iterable[str]) -> list[str]:
    """A line for each of these timm models that Kaggle's timm lacks."""
    lines = NEWER.read_text().splitlines()
    newer = {name for line in lines if not line.startswith("#") for name in line.split()}
    return [
        f"{name} is newer than timm {TIMM} of Kaggle's image, which cannot build it: unless the "
        "image is newer by now, no notebook can use it"
        for name in sorted(set(backbones))
        if {name, name.partition(".")[0]} & newer
    ]
