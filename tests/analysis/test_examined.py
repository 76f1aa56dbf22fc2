"""A finished run is examined: features, suspects, doubt and what-if of what the stages left."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.analysis.doubt import committee_of, doubt
from pipeline.analysis.evidence import Evidence, load_evidence
from pipeline.analysis.neighbours import load_features, neighbours
from pipeline.analysis.suspects import suspects
from pipeline.analysis.whatif import WhatIf
from pipeline.base.runs import prediction_path
from pipeline.inference.predictions import Predictions


@pytest.fixture
def examined(
    write: Callable[..., str], split: Callable[[str], str], run: Callable[..., str]
) -> Evidence:
    torch.manual_seed(0)
    path = Path(write()).with_name("first.safetensors")
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), path)
    model = {"features": "blocks", "head_init": "lda", "weights": str(path)}
    experiment = split(write("still", model=model, train={"epochs": 0}))
    for stage in ("train", "predict", "ensemble"):
        run(stage, experiment)
    return load_evidence("still")


def test_what_the_stages_left_is_examined(examined: Evidence) -> None:
    train, _ = load_features(examined)
    found = suspects(examined, neighbours(train, train, 10))
    pairs = set(examined.table.index[examined.conflicts])
    assert pairs and set(found.index[found.kind == "pair contradictory"]) == pairs
    assert set(found.index) == {*pairs, *np.flatnonzero(~examined.right)}

    paths = [prediction_path("still", fold, "test", "none") for fold in (0, 1)]
    answers = [Predictions.load(path).prob for path in paths]
    np.testing.assert_allclose(list(committee_of(examined)), answers, atol=1e-6)
    np.testing.assert_allclose(np.mean(answers, axis=0), examined.test_prob, atol=1e-6)
    assert sorted(doubt(examined).index) == list(range(12)) and doubt(examined).rare.min() > 0

    what = WhatIf.of(examined)
    assert what.others.shape[0] == 12 and len(what.right) == len(examined.table)
    effect = what.effect(drop=sorted(pairs), add={0: 1})
    kept = np.delete(np.arange(len(what.right)), sorted(pairs))
    assert effect["before"] == pytest.approx(what.right[kept].mean())
