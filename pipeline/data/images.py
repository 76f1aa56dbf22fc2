"""Pictures: decoding any file a competition may hold, and packed pixels.

One decoder for training and inference: OpenCV, whose result is equal on Kaggle's version. PIL
looks at each file first, because OpenCV passes a half-truncated JPEG as a half-grey picture.
"""

import hashlib
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.base.cli import UserError, short
from pipeline.base.settings import Size, sides

# as many as OpenCV reads, which Pillow's own bound is a sixth of: slides of pathology. It refuses
# pictures of twice this, and warns of others, which are whole
Image.MAX_IMAGE_PIXELS = 1 << 29
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# what OpenCV cannot read PIL does, or a line of ours says it
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
ORIENTATION = 0x0112  # tag of EXIF
TURNS = range(2, 9)  # its values but for upright
UPRIGHT = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # it knows that of some formats only
PLAIN = ("", "L")  # notes of pictures that OpenCV alone reads to the same pixels
DARK = "almost black"
MOST_PADDED = 1 << 27  # pixels of a padded picture; a longer one is shrunk first


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
    """Read a file as upright RGB: EXIF rotation applied, alpha laid on white, 8 bits a channel.

    Of 16 bits the upper 8 stay; floats of 0 to 1 are stretched. Raises BadImageError for a
    missing, empty, truncated or foreign file and for other floats.
    """
    try:
        if not path.is_file():
            raise BadImageError("no such file")
        if path.stat().st_size == 0:
            raise BadImageError("empty file (0 bytes)")
        # not by its name: Pillow maps such files, and scrambles a turned TIFF
        with path.open("rb") as file, Image.open(file) as image:
            image.load()  # the whole file: a truncated one raises here
            return _picture(path, image)
    except UnidentifiedImageError:
        text = "not an image, or of a kind that Pillow cannot read"
        raise BadImageError(f"{text}; save it as JPEG or PNG") from None
    except BadImageError:
        raise
    except Exception as error:  # each reader of PIL and OpenCV has errors of its own
        if isinstance(error, MemoryError) or getattr(error, "code", 0) == cv2.Error.StsNoMem:
            raise BadImageError("not enough memory to decode it; it may well be whole") from None
        if isinstance(error, OSError) and error.errno:
            raise BadImageError(f"cannot be read: {error.strerror}") from None
        raise BadImageError(f"broken: {short(error)}") from None


def _picture(path: Path, image: Image.Image) -> Picture:
    turn = orientation(image)
    deep = image.mode[0] in "IF"  # more than 8 bits in one channel
    if not deep and (image.mode in ALPHA or "transparency" in image.info):
        upright = (ImageOps.exif_transpose(image) if turn in TURNS else image).convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return _noted(np.asarray(Image.alpha_composite(white, upright).convert("RGB")), "alpha")
    note = {"RGB": "", "F": "float"}.get(image.mode, "over 8 bit" if deep else image.mode)
    if deep and np.asarray(image).min() < 0:  # OpenCV would wrap them
        raise BadImageError("negative values, which no brightness has; save it with 8 bits")
    rgb = cv2.imread(str(path), UPRIGHT)
    if rgb is None:  # a format OpenCV does not know (TGA, TIFF variants)
        flat = Image.fromarray(eight_bits(np.asarray(image))) if deep else image
        rgb = np.asarray(flat.convert("RGB"))
        note = f"{image.format} {note} read by PIL".replace("  ", " ")
    if turn in TURNS:
        turned = Image.fromarray(rgb)
        turned.getexif()[ORIENTATION] = turn
        rgb, note = np.asarray(ImageOps.exif_transpose(turned)), f"{note} rotated".strip()
    return _noted(rgb, note)


def orientation(image: Image.Image) -> int:
    """By its EXIF; 1, as it lies, where that is malformed: the picture is whole."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except (SyntaxError, ValueError, struct.error):  # Pillow catches them for JPEG alone
        return 1


def _noted(rgb: np.ndarray, note: str) -> Picture:
    """12 bits in a file of 16 are at most 15 of 255, which nobody sees on a screen either."""
    return Picture(rgb, f"{note} {DARK}".strip() if rgb.max() < 16 else note)


def eight_bits(values: np.ndarray) -> np.ndarray:
    """uint8 of one channel: of 16 bits the upper 8, as OpenCV does; 0..1 in floats is 0..255.

    Raises BadImageError for numbers whose white is anybody's guess.
    """
    low, high = values.min(), values.max()
    if values.dtype.kind == "u":
        return (values >> (8 * values.itemsize - 8)).astype(np.uint8)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if low >= 0 and high <= 255:
        return values.astype(np.uint8)
    kind = "floats" if values.dtype.kind == "f" else "integers"
    text = f"{kind} from {low:g} to {high:g}, of which white is unknown"
    raise BadImageError(f"{text}; save it with 8 bits")


def shaped(rgb: np.ndarray, size: int | Sequence[int], fit: str) -> np.ndarray:
    """A picture of `size`, [h, w, 3]: `stretch` both sides, or `pad` with its edge colour."""
    (height, width), (high, wide) = rgb.shape[:2], sides(size)
    tall, broad = max(height, round(width * high / wide)), max(width, round(height * wide / high))
    if fit == "pad" and (tall, broad) != (height, width):
        border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
        colour = np.median(border, axis=0).tolist()
        if tall * broad > MOST_PADDED:  # a strip of 1 x 60000 would take 10 GB
            height, width = (max(1, round(n * 2 * high / tall)) for n in (height, width))
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
            tall, broad = max(2 * high, height), max(2 * wide, width)
        top, left = (tall - height) // 2, (broad - width) // 2
        edges = (top, tall - height - top, left, broad - width - left)
        rgb = cv2.copyMakeBorder(rgb, *edges, cv2.BORDER_CONSTANT, value=colour)
    # area averages when shrinking: no other mode of OpenCV is free of aliasing there
    shrink = rgb.shape[0] > high and rgb.shape[1] > wide
    mode = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    return cv2.resize(rgb, (wide, high), interpolation=mode)


class Pixels(Protocol):
    """Anything indexed by row number that gives uint8 [h, w, 3]."""

    def __getitem__(self, row: int) -> np.ndarray: ...


@dataclass(frozen=True)
class FilePixels:
    """Pictures decoded on each access, for competitions too large to pack.

    `notes` are what `prepare` made of each: those of plain files need no second look by PIL.
    """

    paths: list[Path]
    size: Size
    fit: str
    notes: list[str] | None = None

    def __getitem__(self, row: int) -> np.ndarray:
        path, plain = self.paths[row], self.notes and self.notes[row] in PLAIN
        rgb = cv2.imread(str(path), UPRIGHT) if plain else None
        try:
            return shaped(decode(path).rgb if rgb is None else rgb, self.size, self.fit)
        except BadImageError as error:
            raise BadImageError(f"{path}: {error}") from None
