"""Getting the most out of limited hours: first every model once, then more views of each.

Nothing is planned ahead of what was measured. Time runs out from the end of that order: TTA views
go first, then models.
"""

from collections.abc import Callable
from typing import Protocol

from pipeline.base.deadline import SAFETY, Deadline


class Passes(Protocol):
    """A model that looks at all pictures, in one way after another."""

    kind: str  # models of one kind take the same time
    looks: int  # how many ways there are
    done: int  # how many of them are behind it; 0 when it failed or was left out


def work(
    models: list[Passes],
    deadline: Deadline,
    probe: Callable[[Passes], float],
    look: Callable[[Passes, int], None],
) -> None:
    """Call `look(model, n)`, n ways more, for as much as fits before the deadline.

    `probe(model)` foretells the seconds of one way, asked once for each kind; each pass that was
    made foretells the next. `look` moves `done` on, and lowers `looks` to give a model up.
    """
    seconds: dict[str, float] = {}

    def timed(model: Passes, n: int) -> None:
        started = deadline.clock()
        look(model, n)
        if model.done:
            seconds[model.kind] = (deadline.clock() - started) / n

    for model in models:
        if model.kind not in seconds:
            seconds[model.kind] = probe(model)
        if deadline.fits(seconds[model.kind]):
            timed(model, 1)
    while todo := [model for model in models if 0 < model.done < model.looks]:
        n = int(deadline.left() / SAFETY // max(sum(seconds[m.kind] for m in todo), 1e-9))
        if n < 1:
            return
        for model in todo:
            more = min(n, model.looks - model.done)
            if deadline.fits(more * seconds[model.kind]):
                timed(model, more)
