"""What the review page asks for, without any HTTP: lists, one picture, a decision, its effect."""

import threading
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.analysis.classes import worst_pairs
from pipeline.analysis.doubt import doubt
from pipeline.analysis.evidence import Evidence
from pipeline.analysis.neighbours import neighbours
from pipeline.analysis.suspects import suspects
from pipeline.base.cli import UserError, shown
from pipeline.base.locks import locked
from pipeline.data.decisions import (
    ACTIONS,
    append,
    changes_of,
    decisions_path,
    new_line,
    no_label,
    read_log,
    standing,
)
from pipeline.data.studies import answered
from pipeline.pages.album import original, together
from pipeline.pages.choices import choices, sides

if TYPE_CHECKING:
    from pipeline.analysis.whatif import WhatIf
    from pipeline.pages.spotlight import Spotlight

PAGE = 120  # pictures that a list gives at a time
NEAR = 6  # pictures of a class that look alike
VOTES = 10  # look-alikes that speak for or against a label
PAIRS = 40  # of classes, those that are confused most
Item = dict[str, Any]


class NoDecisionError(UserError):
    """What was asked for will never be one: it is not sent again."""


class Desk:
    """A finished run under review. A picture is named by its row in the packed pixels.

    Labels are those that the competition gave; decisions lie over them. So the queue stays as it
    is while it is worked off, and a decision can be taken back later.
    """

    def __init__(self, evidence: Evidence, features: np.ndarray, test_features: np.ndarray):
        self.evidence = evidence
        self.features, self.test_features = features, test_features
        self.near = neighbours(features, features, VOTES, evidence.table.group)
        found = suspects(self.evidence, self.near)
        self.queue = found[~found.index.duplicated()]  # of several labels the most suspect
        self.path = decisions_path(self.evidence.settings.competition_name)
        self.rows = self.evidence.prepared.rows
        self.ids = answered(self.rows)
        self.train = self.rows[self.rows.split == "train"]
        self.at = {int(row): i for i, row in enumerate(self.evidence.table.row)}
        self.tested = {int(row): i for i, row in enumerate(self.evidence.test.row)}
        self.log, self.solving = threading.Lock(), threading.Lock()  # one at a time
        self.decisions()  # raises UserError for a log that nobody can follow, before it is opened

    @cached_property
    def doubts(self) -> pd.DataFrame:
        return doubt(self.evidence)

    def decisions(self) -> dict[tuple[str, str], Any]:
        """Those that hold, by id and pixels; the file is read only when it is another."""
        if not self.path.exists():
            return {}
        with self.log, locked(self.path.parent):  # of a line that is being written one sees half
            stat = self.path.stat()
            return self._decisions(stat.st_size, stat.st_mtime_ns)

    @lru_cache(maxsize=1)  # noqa: B019 - there is one desk; each state is of all decisions
    def _decisions(self, size: int, changed: int) -> dict[tuple[str, str], Any]:
        log = standing(read_log(self.path))
        return {(one.id, one.pixel_hash): one for one in log.itertuples(index=False)}

    def now(self, row: int) -> Item | None:
        """The decision about a picture that holds, or None."""
        found = self.decisions().get((self.rows.id[row], self.rows.hash[row]))
        return found and {name: getattr(found, name) for name in ("click", "action", "new", "who")}

    def progress(self) -> Item:
        """How much of the queue is decided, and what was decided anywhere."""
        keys = self.rows.loc[self.evidence.table.row[self.queue.index], ["id", "hash"]]
        held = self.decisions()
        done = sum(key in held for key in keys.itertuples(index=False, name=None))
        actions = pd.Series([one.action for one in held.values()], dtype=object).value_counts()
        return {"done": done, "queue": len(self.queue), "actions": actions.to_dict()}

    def item(self, row: int) -> Item:
        """A picture in a list."""
        if row in self.tested:
            seen = self.doubts.loc[self.tested[row]].round(3).to_dict()
            text = ", ".join(f"{name} {value:g}" for name, value in seen.items())
            said = self.evidence.answers(self.evidence.test_prob[[self.tested[row]]])
            (said,) = self.evidence.told(said)
            kind, about = "test", {"reason": text, "suggested": "", "label": "", "said": said}
        else:
            i = self.at[row]
            kind = self.queue.kind[i] if i in self.queue.index else ""
            about = {"label": self.evidence.table.label[i], "now": self.now(row)}
            if kind:
                about |= self.queue.loc[i, ["reason", "suggested"]].to_dict()
        return {"row": row, "id": self.ids[row], "kind": kind, **about}

    def listed(self, view: str, a: str = "", b: str = "", start: int = 0) -> Item:
        """PAGE items of a view from number `start` on, and how many there are in all."""
        rows = self.order(view, a, b)
        chosen = rows[start : start + PAGE]
        return {"items": [self.item(int(row)) for row in chosen], "total": len(rows)}

    def order(self, view: str, a: str = "", b: str = "") -> np.ndarray:
        """Rows of a view: suspects (of kind `a`), all (of class `a`), pair (`a` and `b`), test."""
        evidence, queue = self.evidence, self.queue
        if view == "test":
            return evidence.test.row.to_numpy()[self.doubts.index]
        if view == "suspects":
            return evidence.table.row[queue.index[queue.kind.eq(a) | (a == "")]].to_numpy()
        own = -evidence.surprise
        names = {name for name in (a, b) if name}
        chosen = np.flatnonzero(evidence.table.label.isin(names) | (not names))
        if evidence.kind == "chances" and a in evidence.classes:
            chosen = np.flatnonzero(evidence.target[:, evidence.classes.index(a)])
        if view == "pair" and names <= set(evidence.classes) and len(names) == 2:
            columns = [evidence.classes.index(name) for name in (a, b)]
            own = 2 * own - evidence.prob[:, columns].sum(1)
        return evidence.table.row.to_numpy()[chosen[np.argsort(own[chosen], kind="stable")]]

    def pairs(self) -> list[tuple[str, str, int]]:
        """Classes that are taken for each other, and how often; none of other tasks."""
        evidence, names = self.evidence, self.evidence.classes
        if evidence.kind != "shares":
            return []
        found = worst_pairs(evidence.target, evidence.answer, len(names), PAIRS)
        return [(names[a], names[b], count) for a, b, count in found]

    def picture(self, row: int) -> Item:
        """All about one picture: what it may be with every member's number, and look-alikes."""
        evidence, item, test = self.evidence, self.item(row), row in self.tested
        i = self.tested[row] if test else self.at[row]
        asked = [item["label"], item.get("suggested", "")]
        item["top"] = choices(evidence, i, test, asked)
        found = sides(evidence, item["top"], asked)
        item["near"] = [{"of": name, "pictures": self.alike(i, test, of)} for name, of in found]
        every = [one for side in item["near"] for one in side["pictures"]]
        best = max(every, key=lambda one: one["similarity"], default=None)
        item["twin"] = best and self.rows.id[best["row"]]
        return item

    def alike(self, i: int, test: bool, of: np.ndarray) -> list[Item]:
        """The nearest of some training pictures (bool [n]), by features that saw no labels."""
        query = (self.test_features if test else self.features)[i][None]
        some = np.flatnonzero(of)
        some = some if test else some[some != i]
        if not len(some):
            return []
        rows, similarity = neighbours(self.features[some], query, NEAR)
        at, table = some[rows[0]], self.evidence.table
        labels = self.evidence.told(self.evidence.target[at])
        found = zip(table.row.to_numpy()[at].tolist(), similarity[0].tolist(), labels, strict=True)
        shown = self.evidence.kind == "numbers"
        return [
            {"row": row, "similarity": round(value, 3)} | ({"label": label} if shown else {})
            for row, value, label in found
        ]

    def decide(
        self, row: int, click: str, action: str, new: str = "", note: str = "", id: str = ""
    ) -> Item:
        """Write a decision about a training picture down. Raises NoDecisionError, also where `id`
        is not the picture's: a browser may send what was pressed on another project's page."""
        if row not in self.at or action not in ACTIONS or not click.isalnum():
            raise NoDecisionError(f"no decision: {shown([row, click, action])}")
        if id and id != self.ids[row]:
            raise NoDecisionError(f"{shown(id)} is not on this page")
        wrong = no_label(new, self.train.label, self.evidence.rules.form)
        if wrong if action == "label" else new:
            raise NoDecisionError(wrong or f"no decision: {shown([action, new])}")
        now, given = self.now(row), self.evidence.table.label[self.at[row]]
        old = now["new"] if now and now["action"] == "label" else given
        line = new_line(click, action, self.rows.loc[row], old, new=new, note=note)
        with self.log:
            append(self.path, [line])
        return {"row": row, "now": self.now(row), "progress": self.progress()}

    def what_if(self, more: str = "", count: int = 0) -> Item:
        """What the decisions would do to the closed-form head, out of fold; and `count` pictures
        more of class `more`, for which the likeliest of the test pictures stand."""
        classes = self.evidence.classes
        index = {self.rows.id[row]: i for row, i in self.at.items()}
        held = changes_of(standing(read_log(self.path)), self.train, self.path)
        drop = [index[image] for image in held.dropped if image in index]
        label = {index[id_]: classes.index(new) for id_, new in held.label.items() if id_ in index}
        with self.solving:
            add = self.heads.likely(classes.index(more), count) if more in classes else {}
            effect = self.heads.effect(drop, label, add) if drop or label or add else {}
        return {"changed": len(label), "dropped": len(drop), "added": len(add), **effect}

    def warm_up(self) -> None:
        """Make what the first question after an effect would wait for."""
        with self.solving, suppress(UserError):  # said when it is asked for
            if self.evidence.kind == "shares":
                self.heads  # noqa: B018 - it is kept

    @cached_property
    def heads(self) -> "WhatIf":
        from pipeline.analysis.whatif import WhatIf  # late: torch

        return WhatIf.of(self.evidence)

    def large(self, row: int) -> np.ndarray:
        """As it lies in the competition's folder; of an id of several pictures as `packed`."""
        several = len(self.evidence.pictures.get(row, [])) > 1
        return self.packed(row) if several else original(self.evidence.prepared, row)

    def packed(self, row: int) -> np.ndarray:
        """As it was packed; of an id of several pictures all of them, side by side."""
        return together(self.evidence.prepared.pixels, self.evidence.pictures.get(row, [row]))

    def attention(self, row: int, target: int) -> np.ndarray:
        """What speaks for a class to a model that has not seen the picture. Raises UserError."""
        evidence = self.evidence
        fold = evidence.table.fold[self.at[row]] if row in self.at else evidence.folds[0]
        return self.spotlight.on(row, int(fold), target)

    @cached_property
    def spotlight(self) -> "Spotlight":
        from pipeline.pages.spotlight import Spotlight  # late: torch

        return Spotlight(self.evidence)
