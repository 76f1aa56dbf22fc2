"""What `ensemble` blends: runs, the members of blends, and answers of other people."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.analysis.answered import studies_of
from pipeline.analysis.past import find_folds, trained_settings
from pipeline.base import records
from pipeline.base.cli import UserError, did_you_mean
from pipeline.base.competition import load_competition
from pipeline.base.config import TTA, Experiment, find_experiment, load_experiment, root, with_tta
from pipeline.base.derived import each_seed
from pipeline.base.runs import (
    GIVEN,
    Split,
    folds_of,
    is_of_model,
    load_blend,
    model_path,
    prediction_path,
)
from pipeline.base.yaml_files import is_path, known_yaml
from pipeline.data.prepared import prepared_folder
from pipeline.data.splits import chosen_folds, classes_of, load_folds
from pipeline.inference.blending import Mean
from pipeline.inference.given import take_given
from pipeline.inference.predictions import Predictions
from pipeline.training.keys import in_todays_terms

PER_FOLD = dict.fromkeys(("fold", "first_weights", "pseudo"))  # what differs by fold in a key


@dataclass(frozen=True)
class Member:
    """A run in a blend; `digests` name its prediction files as they are now."""

    settings: Experiment
    views: str  # name of its predict settings
    weight: float
    folds: list[int]
    digests: dict[str, str]

    @property
    def name(self) -> str:
        return self.settings.name

    def path(self, fold: int, split: Split) -> Path:
        return prediction_path(self.name, fold, split, self.views)


def load_members(
    texts: Sequence[str],
    seeds: list[int] | None,
    asked: list[int] | None,
    tta: TTA | None,
    mean: str,
) -> list[Member]:
    """Of RUN, BLEND or FOLDER/, each alone or with :WEIGHT. A blend counts as its members.

    A run is one for each of its seeds, which share its weight. Raises UserError for what there is
    not, and for what cannot be blended.
    """
    found, named = dict[str, Member](), list[str]()
    for text in texts:
        name, weight = _parsed(text)
        if is_blend(name):
            if tta or asked or seeds:
                text = "its views, seeds and folds are what it was made of"
                raise UserError(f"{name} is a blend: {text}")
            members = _leaves(name, mean)
        else:
            members = _own_members(name, seeds, asked, tta, next(iter(found.values()), None))
            named += [member.name for member in members]
        for one in members:
            one, before = replace(one, weight=one.weight * weight), found.get(one.name)
            if before and before.views != one.views:
                text = f"by its views {before.views} and {one.views}"
                raise UserError(f"{one.name} stands twice, {text}")
            total = one.weight + (before.weight if before else 0)
            found[one.name] = replace(one, weight=total)
    if len(set(named)) < len(named):
        raise UserError(f"a run stands twice in {named}; give it one weight")
    return list(found.values())


def _parsed(text: str) -> tuple[str, float]:
    name, _, number = text.partition(":")
    try:
        weight = float(number or 1)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise UserError(f"{text!r}: the weight after ':' must be a number over 0")
    return name, weight


def is_folder(name: str) -> bool:
    return name.endswith("/") or ("/" in name and Path(name).is_dir())


def is_blend(name: str) -> bool:
    """Whether a name is no experiment's, but that of a blend. Raises UserError for neither."""
    if is_folder(name):
        return False
    try:
        find_experiment(name)
    except UserError:
        if is_path(name):
            raise
        kept = [path.parent.name for path in root("runs").glob("*/test.npz")]
        if name not in kept:
            near = did_you_mean(name, known_yaml("experiments") + kept)
            raise UserError(f"no experiment and no blend {name!r}{near}") from None
        return True
    return False


def _own_members(
    name: str,
    seeds: list[int] | None,
    asked: list[int] | None,
    tta: TTA | None,
    first: Member | None,
) -> list[Member]:
    """Answers of others, or the runs of an experiment, one for each seed; weights sum to 1."""
    if is_folder(name):
        return [_given_member(Path(name), first)]
    runs, found = each_seed(name, seeds), []
    for run in runs:
        settings = with_tta(load_experiment(run), tta)
        one = _load(settings, settings.predict.views_name, chosen_folds(settings, asked), run)
        found.append(replace(one, weight=1 / len(runs)))
    return found


def _leaves(name: str, mean: str) -> list[Member]:
    """The members of a blend, by its record."""
    record = load_blend(name)[1]
    members, its = record["key"]["members"], record["key"].get("mean", Mean.PROBABILITIES)
    if len(members) > 1 and its != mean:
        raise UserError(f"{name} is a mean of {its}; --mean {its} blends it with others")
    folds, found = folds_of(record), list[Member]()
    for run, about in members.items():
        if about["tta"] == GIVEN:
            settings = found[0].settings.model_copy(update={"name": run})
        else:
            settings = find_folds(trained_settings(record, run), record["key"]["folds"])[0]
        one = _load(settings, about["tta"], folds, run)
        found.append(replace(one, weight=record["key"]["weights"][run]))
    return found


def _given_member(folder: Path, first: Member | None) -> Member:
    if first is None:
        raise UserError(f"{folder}: name a run of yours before the answers of others")
    table, rules = load_folds(first.settings), load_competition(first.settings.competition)
    ids = Predictions.load(first.path(first.folds[0], "test")).image
    classes, studies = classes_of(table, rules.form), partial(studies_of, first.settings)
    name = take_given(folder, table, first.folds, classes, ids, rules.form, studies)
    settings = first.settings.model_copy(update={"name": name})
    return _load(settings, GIVEN, first.folds, str(folder))


def _load(settings: Experiment, views: str, folds: list[int], asked: str) -> Member:
    """Digest its prediction files. Raises UserError for each that is missing or out of date."""
    digests = {}
    folder = prepared_folder(settings.competition_name, settings.cache_size, settings.model.resize)
    prepared = records.load(folder / "images.csv")
    trained = {fold: records.load(model_path(settings.name, fold)) for fold in folds}
    for fold, model in trained.items():
        for split, pictures in (("oof", "train"), ("test", "test"))[settings.folds.n == 1 :]:
            path = prediction_path(settings.name, fold, split, views)
            if (record := records.load(path)) is None:
                raise UserError(
                    f"{asked}: fold {fold} has no {split} predictions with tta {views} ({path}); "
                    f"run python -m pipeline.predict {asked}, or take those there are by --fold"
                )
            ours = prepared and views != GIVEN
            if ours and record["key"]["pixels"] != prepared["digests"][pictures]:
                raise UserError(
                    f"{path}: the {pictures} pictures have changed since; run python -m "
                    f"pipeline.predict {asked}"
                )
            if ours and model and not is_of_model(record, model):
                text = "of a model that was trained anew since; run python -m pipeline.predict"
                raise UserError(f"{path}: {text} {asked}")
            digests[f"{split}{fold}"] = records.file_digest(path)
    refuse_unlike_folds(settings.name, trained)
    return Member(settings, views, 1.0, folds, digests)


def refuse_unlike_folds(run: str, trained: dict[int, records.Record | None]) -> None:
    """Raises UserError for folds (their models' records) that were trained with different settings,
    one by one: their CV would be that of neither."""
    keys = {k: in_todays_terms(made["key"]) | PER_FOLD for k, made in trained.items() if made}
    for fold, key in keys.items():
        first = min(keys)
        if changes := records.differences(keys[first], key):
            text = f"{run}: fold {fold} was trained with other settings than fold {first}"
            way = (
                f"python -m pipeline.train {run} --fold {fold} --force trains it as it is asked now"
            )
            raise UserError(f"{text}: {records.in_words(changes)}; {way}")


def refuse_mixed(members: list[Member], folds: str) -> None:
    """Raises UserError for members of other competitions, or trained on other folds."""
    names, first = [member.name for member in members], members[0]
    if len({member.settings.competition for member in members}) > 1:
        raise UserError(f"{names} belong to different competitions")
    for member in members:
        if member.folds != first.folds:
            text = f"{first.name} those of {first.folds}"
            raise UserError(f"{member.name} has answers of folds {member.folds}, {text}")
        for fold in member.folds:
            ours = member.views == GIVEN  # cut into our folds as they are now
            if not ours and records.load(member.path(fold, "test"))["folds"] != folds:
                raise UserError(
                    f"{member.name} fold {fold} was trained on other folds than "
                    f"{first.name}: a blended score would leak"
                )
