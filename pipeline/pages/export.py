"""The review page as one file: no server, its decisions lie in the browser until downloaded."""

import base64
import hashlib

from markupsafe import Markup

from pipeline.data.decisions import COLUMNS
from pipeline.pages.choices import about
from pipeline.pages.desk import Desk
from pipeline.pages.page import HERE, environment, thumbnail

MOST = 300  # suspects of a page, the first of the queue: about 10 MB
SIDE, SMALL = 400, 96  # px of a suspect and of one that looks like it


def static_page(desk: Desk) -> str:
    """HTML of the suspects, with their look-alikes; script and style by their digests alone."""
    rows = desk.order("suspects")[:MOST].tolist()
    ids, hashes = desk.rows.id, desk.rows.hash  # of a picture, as decisions have it, not its study
    items = [
        {**desk.picture(row), "id": ids[row], "hash": hashes[row], "now": None} for row in rows
    ]
    near = {one["row"] for item in items for side in item["near"] for one in side["pictures"]}
    pictures = {row: thumbnail(desk.packed(row), SMALL) for row in near}
    pictures |= {row: thumbnail(desk.large(row), SIDE) for row in rows}
    style = joined("style.css", "review.css")
    script = joined("labels.js", "review.js", "static.js")
    data = {
        "live": False,
        **about(desk.evidence),
        "kinds": desk.queue.kind[:MOST].value_counts().to_dict(),
        "pairs": [],
        "columns": COLUMNS,
        "items": items,
        "pictures": pictures,
    }
    own = {"style": Markup(style), "script": Markup(script), "policy": policy(style, script)}
    page = environment().get_template("review.html")
    return page.render(name=desk.evidence.name, data=data, own=own)


def joined(*names: str) -> str:
    return "".join((HERE / name).read_text(encoding="utf-8") for name in names)


def policy(style: str, script: str) -> str:
    """Content-Security-Policy that runs nothing but these two, and asks nobody."""
    digests = [hashlib.sha256(text.encode()).digest() for text in (style, script)]
    ours = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return (
        f"default-src 'none'; img-src data:; style-src {ours[0]}; script-src {ours[1]}; "
        "base-uri 'none'; form-action 'none'"
    )
