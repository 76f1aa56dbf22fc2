"""The models of a bundle, one after another, each by a process on every GPU, while time lasts."""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.base.cli import say, warn
from pipeline.base.config import Predict
from pipeline.base.deadline import Deadline
from pipeline.kaggle.notebook.answer import Job, Work
from pipeline.kaggle.notebook.guard import alert
from pipeline.kaggle.notebook.manifest import BundledModel
from pipeline.launchers.pool import Slot, run_jobs


def queue_of(models: list[BundledModel]) -> list[BundledModel]:
    """One fold of each run, then the next: when time runs out, what is left out matters least.

    Before them one view of the first, however long all its views may take.
    """
    first, *_ = ordered = sorted(models, key=lambda model: (model.fold, -model.weight))
    soon = [first.model_copy(update={"predict": Predict()})]
    return (soon if first.predict != Predict() else []) + ordered


def run_models(
    work: Work,
    slots: list[Slot],
    deadline: Deadline,
    of_ids: Callable[[np.ndarray], np.ndarray],
    write: Callable[[np.ndarray], None],
) -> None:
    """After each model `write` gets the blend of those that have answered, each `of_ids`.

    A fold is left out when it would take too long by the time of the last one of its run; the
    first of a run is begun in any case, and given up some time after the deadline.
    """
    models, share = work.models, {model.run: model.weight for model in work.models}
    soon = len(models) - len({model.file for model in models})  # those of one view
    seconds, begun, ended = dict[str, float](), dict[int, float](), Counter[int]()
    found: dict[str, list[np.ndarray]] = {}

    def jobs() -> Iterator[Job]:
        for number, model in enumerate(models):
            if deadline.fits(seconds.get(model.run, 0.0)):
                begun[number] = deadline.clock()
                yield from ((number, share) for share in range(work.shares))

    for (number, _), _code in run_jobs(jobs(), slots, work.start):
        ended[number] += 1
        if ended[number] < work.shares:
            continue
        model, prob = models[number], work.answers(number)
        if prob is None:
            text = f"{model.name} is given up: it has not answered, or not by numbers"
            # `push` is to stop, but for lack of time, or where all views may still answer
            alert(text) if number >= soon and deadline.left() > 0 else warn("notebook", text)
        elif number >= soon:
            seconds[model.run] = deadline.clock() - begun[number]
            found.setdefault(model.run, []).append(of_ids(prob))
            weights = [share[run] for run in found]
            write(work.blend.of_folds(found.values(), weights))
            rate, left = len(prob) / max(seconds[model.run], 1e-9), deadline.left() / 60
            told = f"{rate:,.0f} images/s, {left:,.0f} min left"
            say("notebook", f"{model.name} has answered: {told}")
        elif not found:
            write(of_ids(prob))
    if not (answered := sum(map(len, found.values()))):
        alert("no model answered with all its views: submission.csv is one view's, or the prior")
    elif left_out := len(models) - soon - answered:
        warn("notebook", f"{left_out} of {len(models) - soon} models left out")
