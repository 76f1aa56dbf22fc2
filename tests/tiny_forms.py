"""Tiny competitions of each task: what a picture shows is what is asked of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

TRAIN, TEST = 40, 10
SIZE = 40
SPOTS = ("rust", "scab", "a mould")  # in a corner each


def draw(random: np.random.Generator, marks: np.ndarray, level: float) -> np.ndarray:
    """A spot in a corner for each of three `marks`; the more level (0 to 1), the lighter."""
    picture = random.normal(60 + 120 * level, 12, (SIZE, SIZE, 3))
    half = SIZE // 2
    for i, (y, x) in enumerate([(0, 0), (0, half), (half, 0)]):
        if marks[i]:
            picture[y : y + half, x : x + half, i] += 110
    return picture.clip(0, 255).astype(np.uint8)


def binary(marks: np.ndarray, level: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """aerial-cactus: 0 or 1, a probability."""
    return pd.DataFrame({"has_cactus": marks[:, 0]}), {"has_cactus": 0.5}


def joined(marks: np.ndarray, level: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """plant-pathology-2021: labels joined by spaces, in any order."""
    names = [s.replace(" ", "_") for s in SPOTS]
    some = [[n for n, on in zip(names, row, strict=True) if on] or ["healthy"] for row in marks]
    some = [row[:: 1 if i % 2 else -1] for i, row in enumerate(some)]
    return pd.DataFrame({"labels": [" ".join(row) for row in some]}), {"labels": "healthy"}


def columns(marks: np.ndarray, level: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """ranzcr-clip: a column of 0 and 1 for each label."""
    return pd.DataFrame(marks, columns=list(SPOTS)), dict.fromkeys(SPOTS, 0)


def ordinal(marks: np.ndarray, level: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """aptos2019: stages 0 to 4."""
    return pd.DataFrame({"diagnosis": (level * 4.999).astype(int)}), {"diagnosis": 0}


def regression(marks: np.ndarray, level: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """petfinder-pawpularity: a number from 1 to 100."""
    return pd.DataFrame({"Pawpularity": (1 + 99 * level).round(1)}), {"Pawpularity": 38.2}


def ranked(marks: np.ndarray, level: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """humpback: one of many, of which five are answered."""
    names = [f"w_{i}" for i in marks @ [1, 2, 4]]
    return pd.DataFrame({"Id": names}), {"Id": "w_0 w_1 w_2 w_3 w_4"}


Answers = Callable[[np.ndarray, np.ndarray], tuple[pd.DataFrame, dict[str, Any]]]
FORMS: dict[str, tuple[Answers, dict[str, Any]]] = {
    "binary": (binary, {"task": "binary", "label": "has_cactus", "submission": "probability"}),
    "joined": (joined, {"task": "multi-label", "label": "labels", "metric": "micro_f1"}),
    "columns": (
        columns,
        {
            "task": "multi-label",
            "label": list(SPOTS),
            "submission": "probability",
            "metric": "auc",
            "group": "patient",
        },
    ),
    "ordinal": (ordinal, {"task": "ordinal", "label": "diagnosis"}),
    "ranked": (ranked, {"label": "Id", "k": 5, "metric": "map_at_5"}),
    "studies": (
        binary,
        {
            "task": "binary",
            "id": "patient",
            "picture": "id",
            "label": "has_cactus",
            "submission": "probability",
        },
    ),
    "regression": (regression, {"task": "regression", "label": "Pawpularity"}),
}


def tiny_form(name: str, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Write the competition of a form, its solution too; returns the settings that name it."""
    random, n = np.random.default_rng(seed), TRAIN + TEST
    marks, level = (random.random((n, 3)) < 0.4).astype(int), random.random(n)
    answers, settings = FORMS[name]
    key = settings.get("id", "id")
    if key != "id":  # two pictures each, of one label
        marks = marks[::2].repeat(2, 0)
    table, usual = answers(marks, level)
    ids = [f"{i:03d}" for i in range(n)]
    (folder / "pictures").mkdir(parents=True)
    for i, row in enumerate(marks):
        Image.fromarray(draw(random, row, level[i])).save(folder / f"pictures/{ids[i]}.png")
    table.insert(0, "id", ids)
    table["patient"] = [f"p{i // 2}" for i in range(n)]
    test = table.iloc[TRAIN:]
    table.iloc[:TRAIN].to_csv(folder / "train.csv", index=False)
    test[list({"id", key})].to_csv(folder / "test.csv", index=False)
    test = test.drop(columns={"id", "patient"} - {key}).drop_duplicates(key)
    test = test[[key, *(column for column in test if column != key)]]
    test.to_csv(folder / "solution.csv", index=False)
    test[[key]].assign(**usual).to_csv(folder / "sample_submission.csv", index=False)
    return {"id": "id", "image": "pictures/{id}.png", **settings}
