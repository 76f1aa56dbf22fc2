"""What all pages share: templates that escape, the stylesheet, pictures and charts as text."""

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
QUALITY = 60  # of WebP: it shows no blocks yet
# What a chart is drawn in, and the variable of style.css that a page shows it in
INKS = {
    "#101010": "--ink",
    "#757575": "--soft",
    "#dddddd": "--line",
    "#00aa77": "--accent",
    "#dd5533": "--bad",
    "#3377cc": "--other",
}
INK, SOFT, LINE, ACCENT, BAD, OTHER = INKS


def environment() -> "Environment":
    """Templates of this folder; whatever they are given is escaped. Dicts need `| tojson`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # late
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "label": breakable}
    # of our own files only
    made.globals["file"] = lambda name: Markup((HERE / name).read_text(encoding="utf-8"))
    return made


def percent(share: float, digits: int = 1) -> str:
    """0.9768 → `97.7 %`, which no line breaks; what is not known is a dash."""
    return f"{100 * share:.{digits}f}\u00a0%" if np.isfinite(share) else "-"


def breakable(label: str) -> "Markup":
    """A class's name, which a narrow place may break behind an underscore."""
    from markupsafe import Markup, escape

    return Markup(str(escape(label)).replace("_", "_<wbr>"))


def thumbnail(pixels: np.ndarray, size: int) -> str:
    """A picture, uint8 [h, w, 3], as the text of an `src`: WebP, at most `size` px wide and high.

    A picture is never enlarged.
    """
    return data_uri(shrunk(pixels, size))


def shrunk(pixels: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2)
    return np.asarray(image)


def data_uri(pixels: np.ndarray) -> str:
    """A picture, uint8 [h, w, 3] or with alpha [h, w, 4], as the text of an `src`."""
    return f"data:image/webp;base64,{base64.b64encode(webp(pixels)).decode()}"


def webp(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "WEBP", quality=quality, method=2)
    return kept.getvalue()


def chart(height: float = 3.4) -> "Axes":
    """Empty axes of a figure, inches; as wide as a phone, so that its text can be read."""
    from matplotlib.figure import Figure  # late: half a second

    axes = Figure((4.4, height), layout="constrained").add_subplot()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=SOFT, labelsize=9)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=SOFT, fontsize=9)
    return axes


def svg(axes: "Axes") -> "Markup":
    """A chart as SVG for a page: as wide as its place, in the page's font and its colours.

    What is drawn in one of INKS follows light and dark; all other colours stay.
    """
    import matplotlib  # late: half a second
    from markupsafe import Markup

    kept = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        axes.figure.savefig(kept, format="svg", transparent=True, metadata={"Date": None})
    text = kept.getvalue()
    text = re.sub(r"\s+", " ", text[text.index("<svg") :])
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<g/> ?", "", text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r'\1 role="img"', text, count=1)
    used = set(re.findall(r"#([\w-]+)", text))  # all other ids would stand twice on a page
    text = re.sub(r' id="([^"]*)"', lambda id_: id_[0] if id_[1] in used else "", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    for ink, variable in INKS.items():
        text = text.replace(ink, f"var({variable})")
    return Markup(text)
