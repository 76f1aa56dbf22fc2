"""One page about a finished blend, put together from its parts."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.drift import drift
from pipeline.analysis.evidence import Evidence, load_current
from pipeline.analysis.neighbours import load_features
from pipeline.base import records
from pipeline.base.cli import UserError, warn
from pipeline.base.config import root
from pipeline.figures.views import training_views
from pipeline.pages import beyond, origins, sections, tasks
from pipeline.pages.album import Album
from pipeline.pages.page import environment

VERSION = 2
VIEWS = 12  # of one picture, augmented
PARTS = {
    "score": "Score",
    "folds": "Folds",
    "threshold": "Threshold",
    "labels": "Labels",
    "levels": "Levels",
    "numbers": "Numbers",
    "confidence": "Confidence",
    "classes": "Classes",
    "confusions": "Confusions",
    "errors": "Errors",
    "sure": "Surest, least sure",
    "twins": "Twins",
    "test": "Test",
    "map": "Map",
    "views": "Augmentation",
    "members": "Members",
    "against": "Against another run",
    "settings": "Settings",
}


def report_path(name: str) -> Path:
    return root("runs") / name / "report.html"


def is_reported(name: str) -> bool:
    """Whether there is a page about the blend as it is now, short or in full."""
    blend = records.load(root("runs") / name / "test.npz")
    return blend is not None and records.is_current(report_path(name), key_of(blend))


def key_of(blend: dict[str, Any]) -> dict[str, Any]:
    return records.plain({"version": VERSION, "blend": blend["key"]})


def write_report(name: str, full: bool) -> Path:
    """Write runs/NAME/report.html; in full with all that needs a pass of the backbone.

    Raises UserError for a blend that is not there, lacks what it was made from, or is of ranks.
    """
    started, evidence = time.monotonic(), load_current(name)
    evidence.refuse_ranks()
    out, values = report_path(evidence.name), contents(evidence, full)
    text = environment().get_template("report.html").render(values)
    with records.writing(out) as tmp:
        tmp.write_text(text, encoding="utf-8")
    records.commit(out, key_of(evidence.record), started, full=full)
    return out


def contents(evidence: Evidence, full: bool) -> dict[str, Any]:
    """What the template lays out; the pictures last, when all parts have named theirs."""
    album = Album(evidence.prepared, evidence.pictures)
    values = parts_of(evidence, album) | (slow_parts(evidence, album) if full else {})
    known = {"map": None, "drift": None, "views": None, **values}
    shown = {"score", "folds", "test", "settings"} | {k for k in known if known[k]}
    more = "" if full else f"python -m pipeline.report {evidence.name} adds map, drift, attention"
    return {
        **known,
        "name": evidence.name,
        "competition": evidence.settings.competition_name,
        "made": evidence.record["date"],
        "n": len(evidence.table),
        "kind": evidence.kind,
        "parts": [(key, title) for key, title in PARTS.items() if key in shown],
        "note": more or "No network was asked for anything on this page.",
        "sources": album.store(),
    }


def parts_of(evidence: Evidence, album: Album) -> dict[str, Any]:
    """All that takes seconds."""
    nearest = origins.nearest_run(evidence)
    comparable, one_class = nearest and nearest["same"], evidence.kind == "shares"
    return {
        **tasks.own_parts(evidence, album),
        "overview": sections.overview(evidence),
        "training": sections.training(evidence),
        "confidence": sections.calibration(evidence),
        "classes": sections.classes(evidence) if one_class else None,
        "confusions": sections.confusions(evidence, album) if one_class else None,
        "errors": sections.losses(evidence, album, None),
        "sure": sections.extremes(evidence, album) if one_class else None,
        "twins": sections.twins(evidence, album),
        "doubted": beyond.tested_pictures(evidence, album),
        "members": beyond.disagreement(evidence, album),
        "settings": origins.settings_table(evidence.settings),
        "settings_of": evidence.settings.name,
        "nearest": nearest,
        "against": beyond.against(evidence, album, nearest["name"]) if comparable else None,
        "provenance": origins.provenance_of(evidence),
    }


def slow_parts(evidence: Evidence, album: Album) -> dict[str, Any]:
    """What needs PyTorch, the features of all pictures, and a map of them."""
    train, test = load_features(evidence)
    drifted = drift(train, test) if len(test) > 1 else None
    return {
        "errors": sections.losses(evidence, album, train),
        "drift": drifted and beyond.drifted(evidence, album, drifted),
        "map": beyond.picture_map(evidence, album, train, test),
        "views": augmented(evidence, album),
    }


def augmented(evidence: Evidence, album: Album) -> list[dict[str, Any]]:
    """The sheet of the gallery: one picture again and again, and a batch of each mixing method;
    nothing where a transform is gone since."""
    found = []
    try:
        strips = training_views(evidence.settings, evidence.prepared, 1, VIEWS, None, 0)
    except UserError as error:
        warn("report", f"not shown what training sees: {error}")
        return found
    for strip in strips:
        plain = [[(f"view {i}" if i else "original", "")] for i in range(len(strip.pictures))]
        pictures = [
            album.drawn(
                np.asarray(pixels), label[0][0], ", ".join(f"{name} {x}" for name, x in label if x)
            )
            for pixels, label in zip(strip.pictures, strip.labels or plain, strict=True)
        ]
        found.append({"title": strip.title, "caption": strip.caption, "pictures": pictures})
    return found
