"""A compiled step is used where it is the same step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.base.records import load
from pipeline.base.runs import model_path


def no_compiler(*_: Any) -> None:
    raise RuntimeError("no C++ compiler\nwas found")


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.001, ""),
        (1.5, "its gradients differ by 50%: the model is not compiled"),
        (None, "no C++ compiler was found: the model is not compiled"),
    ],
)
def test_a_step_with_other_gradients_is_not_compiled(
    write: Callable[..., str],
    split: Callable[[str], str],
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    factor: float | None,
    said: str,
) -> None:
    """Invented compilers: the eager step, its logits times `factor`."""
    calls = []

    def compiler(call: Callable, **options: Any) -> Callable:
        def compiled(*args: Any) -> torch.Tensor:
            calls.append(options)
            return call(*args) * factor

        return compiled if factor else no_compiler

    monkeypatch.setattr(torch, "compile", compiler)
    plain = split(write("plain", train={"epochs": 1}))
    run("train", plain, "--fold", "0")
    name = write("fast", train={"epochs": 1}, runtime={"compile": True})
    text = run("train", name, "--fold", "0")
    assert (said in text) if said else ("runtime.compile" not in text)
    steps = 0 if said else load(model_path("fast", 0))["images"]["train"] // 8
    assert len(calls) >= steps + bool(factor)
    same = load(model_path("fast", 0))["scores"]["train_loss"]
    if said:  # eager, and the canary has moved nothing: neither weights nor statistics nor dropout
        assert len(calls) <= 1
        assert same == load(model_path("plain", 0))["scores"]["train_loss"]
