"""A compiled step is used where it is the same step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.base.records import load
from pipeline.base.runs import model_path

COMPILERS = {  # by what they multiply the logits of the eager step
    1.001: "",
    1.5: "its gradients differ by 50%: the model is not compiled",
    None: "no C++ compiler was found: the model is not compiled",
}


def invented(factor: float | None, calls: list[dict[str, Any]]) -> Callable[..., Callable]:
    def compiler(call: Callable, **options: Any) -> Callable:
        def compiled(*args: Any) -> torch.Tensor:
            if factor is None:
                raise RuntimeError("no C++ compiler\nwas found")
            calls.append(options)
            return call(*args) * factor

        return compiled

    return compiler


def test_a_step_with_other_gradients_is_not_compiled(
    write: Callable[..., str],
    split: Callable[[str], str],
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("train", split(write("eager", train={"epochs": 1})), "--fold", "0")
    steps, eager = load(model_path("eager", 0))["images"]["train"] // 8, losses("eager")
    for factor, said in COMPILERS.items():
        calls, name = [], f"times-{factor}"
        monkeypatch.setattr(torch, "compile", invented(factor, calls))
        experiment = write(name, train={"epochs": 1}, runtime={"compile": True})
        text = run("train", experiment, "--fold", "0")
        assert (said in text) if said else ("runtime.compile" not in text)
        assert len(calls) >= (0 if said else steps) + bool(factor)
        if said:  # eager, and the canary has moved nothing: neither weights nor statistics
            assert len(calls) <= 1
            assert losses(name) == eager


def test_larger_pictures_at_the_end_are_no_work_for_the_compiler(
    write: Callable[..., str],
    split: Callable[[str], str],
    run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would compile each of their batches anew: of one picture, of many, of the last."""
    seen = []

    def compiler(call: Callable, **_: Any) -> Callable:
        def compiled(images: torch.Tensor) -> torch.Tensor:
            seen.append(images.shape[2])
            return call(images)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    model = {"features": "blocks", "head_init": "lda", "test_scale": 1.25}
    experiment = write(model=model, train={"epochs": 1, "refit": True}, runtime={"compile": True})
    assert "fits the head to pictures of 40 px" in run("train", split(experiment), "--fold", "0")
    assert set(seen) == {32}


def losses(run: str) -> list[float]:
    scores = load(model_path(run, 0))["scores"]
    return [scores["train_loss"], scores["valid_loss"]]
