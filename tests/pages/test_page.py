"""What all pages share: pictures and charts that are text, and text that is no markup."""

import base64
import io
import re

import numpy as np
from PIL import Image

from pipeline.pages.page import ACCENT, SOFT, chart, environment, percent, svg, thumbnail


def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged() -> None:
    wide = np.full((100, 400, 3), (250, 10, 10), dtype=np.uint8)
    for size, expected in ((128, (128, 32)), (999, (400, 100))):
        kind, _, text = thumbnail(wide, size).partition(",")
        assert kind == "data:image/webp;base64"
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        assert image.size == expected
        red, green, _ = image.convert("RGB").getpixel((5, 5))
        assert red > 230 and green < 30


def test_two_charts_on_a_page_share_no_id_and_follow_its_colours() -> None:
    texts = []
    for slope in (1, 2):
        axes = chart()
        axes.plot([0, 1], [0, slope], color=ACCENT)
        texts.append(svg(axes))
    ids = re.findall(r' id="([^"]*)"', texts[0] + texts[1])
    assert len(set(ids)) == len(ids)
    head = texts[0][: texts[0].index(">")]
    assert "viewBox" in head and "width" not in head and "height" not in head
    assert "var(--accent)" in texts[0] and "var(--soft)" in texts[0]
    assert ACCENT not in texts[0] and SOFT not in texts[0]
    assert "<text" in texts[0], "numbers stay text, which can be found and read aloud"


def test_what_a_template_is_given_is_text() -> None:
    template = environment().from_string("<p>{{ label }} {{ share | percent }}</p>")
    shown = template.render(label="<b>\"x\" & 'y'</b>", share=0.97681)
    assert shown == "<p>&lt;b&gt;&#34;x&#34; &amp; &#39;y&#39;&lt;/b&gt; 97.7\u00a0%</p>"
    assert percent(float("nan")) == "-"
