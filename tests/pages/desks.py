"""A desk of made-up pictures, and a process that serves it: `python tests/pages/desks.py [WHEN]`.

With WHEN (`before` or `after` the line is on the disk) the process dies of its first decision.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from pipeline.analysis.evidence import Evidence
from pipeline.base.competition import Competition
from pipeline.pages import desk as module
from pipeline.pages.desk import Desk
from pipeline.pages.server import serve

# what a page must show as text, a CSV must give back, and no shell or spreadsheet may act on
CLASSES = ["<img src=x onerror=alert(1)>", '=1+1,"quoted"', "plain_name", "日本 & co</script>"]
TEST = 5


def make_rows_desk(task: str) -> Desk:
    """As `make_desk`, of two labels or a level; picture 0 lacks what its look-alikes have."""
    rules = Competition(task=task)
    one, n = make_desk(8), 8
    if task == "multi-label":
        names, labels = ["rust", "scab"], ["scab", *["rust scab"] * 3, *["rust"] * 4]
        prob = np.array([[0.97, 0.9], *[[0.9, 0.8]] * 3, *[[0.8, 0.1]] * 4])
    else:
        names, labels = ["label"], ["1", *["4"] * 3, *["0"] * 4]
        prob = np.array([[3.8], *[[4.1]] * 3, *[[0.2]] * 4])
    table = one.evidence.table.assign(label=labels)
    table["target"] = rules.form.targets(table.label, names)
    one.evidence.prepared.rows.loc[TEST:, "label"] = labels
    features = np.repeat([[1.0, 0], [0, 1]], n // 2, 0) + 0.01 * np.arange(n)[:, None]
    about = {"rules": rules, "table": table, "classes": names, "prob": prob, "members": {"a": prob}}
    evidence = replace(one.evidence, **about, test_prob=prob[:TEST])
    return Desk(evidence, features, features[:TEST])


def make_desk(n: int = 40) -> Desk:
    """`n` training pictures; every fifth has the label of the class before its own.

    Its decisions lie in LABELS_DIR; the models are never asked for.
    """
    rng = np.random.default_rng(0)
    truth = np.arange(n) % 4
    target = np.where(np.arange(n) % 5 == 0, (truth - 1) % 4, truth)
    features = np.eye(4)[truth] * 3 + rng.normal(0, 0.7, (n, 4))
    prob = np.exp(features) / np.exp(features).sum(1, keepdims=True)
    names = [f'"><script>alert({i})</script>.png' for i in range(n)]
    rows = pd.DataFrame({"split": "train", "id": names, "label": [CLASSES[c] for c in target]})
    test = pd.DataFrame({"split": "test", "id": [f"t{i}.png" for i in range(TEST)], "label": ""})
    rows = pd.concat([test, rows], ignore_index=True)  # a row is no number of a training picture
    rows["hash"], rows["path"] = [f"pixels{i}" for i in rows.index], "none.png"
    table = rows[TEST:].rename(columns={"id": "image"}).reset_index(drop=True)
    table = table.assign(group=table.image, fold=np.arange(n) // 2 % 2, target=target)
    shades = rng.integers(0, 256, (len(rows), 1, 1, 3), dtype=np.uint8)
    evidence = Evidence(
        name="made <up>",
        settings=SimpleNamespace(competition_name="made-up"),
        record={},
        table=table.assign(row=np.arange(n) + TEST),
        classes=CLASSES,
        prob=prob.astype(np.float32),
        members={"one": prob, "two": prob**0.5 / (prob**0.5).sum(1, keepdims=True)},
        test=pd.DataFrame({"image": list(test.id), "row": np.arange(TEST)}),
        test_prob=prob[:TEST].astype(np.float32),
        prepared=SimpleNamespace(
            rows=rows, pixels=np.broadcast_to(shades, (len(rows), 32, 32, 3)), data=Path("nowhere")
        ),
    )
    module.doubt = lambda _: pd.DataFrame({"entropy": np.arange(5.0)[::-1]}, index=[3, 1, 0, 2, 4])
    made = Desk(evidence, features.astype(np.float32), features[:TEST].astype(np.float32))
    made.heads = SimpleNamespace(effect=lambda *_: {"won": 0, "lost": 0})  # no backbone is asked
    made.attention = lambda row, target: evidence.prepared.pixels[row] // (target + 1)
    return made


def main() -> None:
    desk, when = make_desk(), sys.argv[1] if len(sys.argv) > 1 else ""
    whole = desk.decide

    def dying(**asked: object) -> None:
        if when == "after":
            whole(**asked)
        os.kill(os.getpid(), signal.SIGKILL)

    if when:
        desk.decide = dying
    serve(desk, int(os.environ["PORT"]))


if __name__ == "__main__":
    main()
