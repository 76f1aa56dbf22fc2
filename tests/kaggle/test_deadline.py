"""What limited hours are spent on: every model first, then views; the end of the line goes."""

from dataclasses import dataclass

import pytest

from pipeline.kaggle.notebook.passes import Deadline, work


@dataclass
class Model:
    name: str
    kind: str
    looks: int
    cost: float  # seconds of a look
    done: int = 0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def spend(seconds: float, models: list[Model], slower: float = 1.0, fail: str = "") -> list[str]:
    """What was done, in order. A pass costs `slower` times what the probe foretells."""
    clock, story = Clock(), []
    deadline = Deadline(seconds, clock)

    def probe(model: Model) -> float:
        story.append(f"probe {model.kind}")
        return model.cost

    def look(model: Model, n: int) -> None:
        clock.now += n * model.cost * slower
        story.append(f"{model.name}+{n}")
        if model.name == fail:
            model.looks = model.done
        else:
            model.done += n

    work(models, deadline, probe, look)
    assert deadline.left() >= 0, story
    return story


def three() -> list[Model]:
    return [Model("a", "x", 8, 10), Model("b", "x", 8, 10), Model("c", "y", 2, 30)]


def test_with_time_enough_all_views_of_all_models_in_few_passes() -> None:
    expected = ["probe x", "a+1", "b+1", "probe y", "c+1", "a+7", "b+7", "c+1"]
    assert spend(10_000, three()) == expected


def test_views_go_first_then_models() -> None:
    for seconds, done in [(200, [6, 6, 2]), (55, [2, 2, 0]), (30, [1, 1, 0]), (12, [0, 0, 0])]:
        models = three()
        spend(seconds, models)
        assert [model.done for model in models] == done, seconds


def test_what_is_measured_counts_not_what_was_foretold() -> None:
    models = three()
    spend(300, models, slower=2)
    assert [model.done for model in models] == [4, 4, 2]


def test_a_model_that_fails_takes_no_more_time() -> None:
    models = three()
    story = spend(10_000, models, fail="b")
    assert story.count("b+1") == 1
    assert [model.done for model in models] == [8, 0, 2]


@pytest.mark.parametrize("seconds", range(0, 700, 13))
def test_the_deadline_is_never_missed(seconds: float) -> None:
    spend(seconds, three(), slower=1.2)
