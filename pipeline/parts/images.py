"""Pictures: decoding any file a competition may hold, and packed pixels.

One decoder for training and inference: OpenCV, whose result is equal on Kaggle's version. PIL
looks at each file first, because OpenCV passes a half-truncated JPEG as a half-grey picture.
"""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.parts.cli import UserError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}


class BadImageError(UserError):
    """A file that holds no whole picture; the message says why."""


@dataclass(frozen=True)
class Picture:
    """One decoded file: `rgb` is uint8 [height, width, 3]; `note` says what was mended."""

    rgb: np.ndarray
    note: str = ""

    @property
    def digest(self) -> str:
        """Digest of shape and pixels: equal for pixel-identical twins in different files."""
        shape = np.array(self.rgb.shape, dtype=np.int64).tobytes()
        return hashlib.blake2b(shape + self.rgb.tobytes(), digest_size=12).hexdigest()


def decode(path: Path) -> Picture:
    """Read a file as upright RGB: EXIF rotation applied, alpha laid on white, 16 bit to 8.

    Raises BadImageError for a missing, empty, truncated or foreign file.
    """
    if not path.is_file():
        raise BadImageError("no such file")
    if path.stat().st_size == 0:
        raise BadImageError("empty file (0 bytes)")
    try:
        with Image.open(path) as image:
            image.load()  # the whole file: a truncated one raises here
            return _picture(path, image)
    except UnidentifiedImageError:
        raise BadImageError("not an image") from None
    except Exception as error:  # each reader of PIL and OpenCV has errors of its own
        raise BadImageError(f"broken: {error}") from None


def _picture(path: Path, image: Image.Image) -> Picture:
    note = f"{image.mode}" if image.mode != "RGB" else ""
    if image.mode in ALPHA or "transparency" in image.info:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return Picture(np.asarray(Image.alpha_composite(white, upright).convert("RGB")), "alpha")
    rgb = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if rgb is None:  # a format OpenCV does not know (animated GIF, TIFF variants)
        rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        note = f"{image.format} read by PIL"
    if image.getexif().get(0x0112, 1) != 1:
        note = f"{note} rotated".strip()
    return Picture(rgb, note)


def square(rgb: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Make a picture [size, size, 3]: `stretch` both sides, or `pad` with its edge colour."""
    height, width = rgb.shape[:2]
    if fit == "pad" and height != width:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
        colour = np.median(border, axis=0).tolist()
        edges = (top, side - height - top, left, side - width - left)
        rgb = cv2.copyMakeBorder(rgb, *edges, cv2.BORDER_CONSTANT, value=colour)
    # area averages when shrinking: no other mode of OpenCV is free of aliasing there
    shrink = rgb.shape[0] > size and rgb.shape[1] > size
    return cv2.resize(
        rgb, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    )


class Pixels(Protocol):
    """Anything indexed by row number that gives uint8 [size, size, 3]."""

    def __getitem__(self, row: int) -> np.ndarray: ...


@dataclass(frozen=True)
class FilePixels:
    """Pictures decoded on each access, for competitions too large to pack."""

    paths: list[Path]
    size: int
    fit: str

    def __getitem__(self, row: int) -> np.ndarray:
        try:
            return square(decode(self.paths[row]).rgb, self.size, self.fit)
        except BadImageError as error:
            raise BadImageError(f"{self.paths[row]}: {error}") from None


def twin_groups(digests: list[str], groups: list[str], ids: list[str]) -> list[str]:
    """Name the group of each image: images that share pixels or a group value belong together.

    The name is the smallest id of the group, so it does not depend on the order of rows.
    """
    parent = list(range(len(ids)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for values in (digests, groups):
        first: dict[str, int] = {}
        for i, value in enumerate(values):
            if value:
                parent[find(i)] = find(first.setdefault(value, i))
    names: dict[int, str] = {}
    for i, name in enumerate(ids):
        names[find(i)] = min(names.get(find(i), name), name)
    return [names[find(i)] for i in range(len(ids))]
