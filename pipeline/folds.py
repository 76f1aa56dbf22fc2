"""Stage 2: cut the training images into stratified folds that leak nothing.

reads   runs/_data/COMPETITION/SIZE-FIT/images.csv: labels, pixel hashes, the group column
writes  folds/COMPETITION-5-seed42.csv: image, label, group, fold (commit this file)
run     python -m pipeline.folds demo [--from host-folds.csv]

Pixel-identical twins, and images with an equal group column, share a fold. A changed split would
void every out-of-fold score made with it, so an existing file is never replaced: one that was
written or edited by hand is checked and recorded as it is. Fold -1 marks images that are always
trained on and never scored, as those of classes that exist in one group only.
"""

import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, took, warn
from pipeline.base.competition import load_competition
from pipeline.base.config import Experiment, Folds, load_experiment
from pipeline.base.csv_files import read_csv, write_csv
from pipeline.base.derived import NameOption, SetOption, derived
from pipeline.base.forms import ONE_CLASS, OneClass, as_array
from pipeline.base.locks import locked
from pipeline.data.prepared import load_prepared
from pipeline.data.splits import (
    check_folds,
    fold_numbers,
    fold_of_one_class,
    folds_path,
    load_folds,
    parted,
    refuse_other_images,
    twin_groups,
)

VERSION = 1
MOST_CLASSES_NAMED = 10  # of the small ones, in the warning


def main(
    experiment: str,
    source: Annotated[
        Path | None, typer.Option("--from", help="your own split: a CSV of image and fold")
    ] = None,
    changes: SetOption = None,
    name: NameOption = None,
) -> None:
    settings = load_experiment(derived(experiment, changes, name))
    started, out = time.monotonic(), folds_path(settings)
    form = load_competition(settings.competition).form
    train = training_images(load_prepared(settings).rows)
    key = {
        "version": VERSION,
        "n": settings.folds.n,
        "seed": settings.folds.seed,
        "rows": records.digest(train[["id", "label", "group"]].to_numpy().tolist()),
    }
    own = {"own": True, **key}
    del own["seed"]  # nobody drew it
    what = f"{settings.folds.n} folds" if settings.folds.n > 1 else "no folds"
    told = f"{out}: {what} of {len(train):,} images, up to date"

    def is_done() -> bool:
        return source is None and any(records.is_current(out, known) for known in (key, own))

    if is_done():
        return say("folds", told)
    with locked(out.parent):
        if is_done():  # another process was first
            return say("folds", told)
        record = records.load(out)
        if source:
            table, key = own_split(settings, source, train, form), own
        elif out.exists() and not (record and records.is_intact(out, record)):
            table = checked(load_folds(settings), train, settings.folds.n, out, form)
            if not is_ours(table, train, settings.folds, form):  # else we were killed
                key = own
                say("folds", f"{out}: a split that was written or edited by hand, taken as it is")
        else:
            remedy = "a changed split voids all scores made with it: set folds.name to a new name"
            records.refuse_if_stale(out, own if record and "own" in record["key"] else key, remedy)
            table = make_folds(train, settings.folds, form)
            write_csv(table, out)
        records.commit(out, key, started, **facts_of(table, form))
    return say("folds", f"{out}: {describe(table, form)}, {took(started)}")


def training_images(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of `prepare`, sorted by id; `group` ties pixel twins and equal group values."""
    train = rows[rows.split == "train"].sort_values("id", ignore_index=True)
    group = twin_groups(list(train.hash), list(train.group), list(train.id))
    if "study" in train:
        group = twin_groups(group, list(train.study), list(train.id))
    return train.assign(group=group)


def own_split(
    settings: Experiment, source: Path, train: pd.DataFrame, form: OneClass
) -> pd.DataFrame:
    """Write a split that others drew. Raises UserError unless it is whole and fair."""
    if (out := folds_path(settings)).exists():
        raise UserError(f"{out}: stands already; set folds.name to a new name")
    given = read_csv(source, ["fold"])
    name = "image" if "image" in given else load_competition(settings.competition).id
    given = read_csv(source, [name])[[name, "fold"]].rename(columns={name: "image"})
    if "study" in train and given.image.isin(train.study).any():  # a row of all pictures of an id
        given = given.merge(train[["study", "id"]], left_on="image", right_on="study", how="left")
        given = given.assign(image=given.id.fillna(given.image))[["image", "fold"]]
    known = train[["id", "label", "group"]].rename(columns={"id": "image"})
    table = known.merge(given.drop_duplicates(), on="image", how="outer")
    if gone := list(table.image[table.fold.isna()]):
        raise UserError(f"{source}: no fold for {len(gone)} images, first {gone[0]!r}")
    table["fold"] = fold_numbers(table, source)
    table = checked(table, train, settings.folds.n, source, form)
    write_csv(table, out)
    return table


def checked(
    table: pd.DataFrame, train: pd.DataFrame, n: int, where: Path, form: OneClass
) -> pd.DataFrame:
    """A split that we did not draw, with our groups. Raises UserError for one that leaks."""
    refuse_other_images(table, train, where)
    table = table.sort_values("image", ignore_index=True).assign(group=train.group)
    check_folds(table, n, where, form)
    refuse_one_class(table, form)
    return table


def is_ours(table: pd.DataFrame, train: pd.DataFrame, settings: Folds, form: OneClass) -> bool:
    """Whether a split is the one that we draw; where none can be drawn it is not."""
    try:
        return table.equals(make_folds(train, settings, form))
    except UserError:
        return False


def make_folds(train: pd.DataFrame, settings: Folds, form: OneClass = ONE_CLASS) -> pd.DataFrame:
    """Assign a fold to each row of `train` (columns id, label, group; any order of rows).

    Returns image, label, group, fold, sorted by image: the same rows always give the same table.
    Raises UserError when the groups make a fair split impossible.
    """
    table = train[["id", "label", "group"]].rename(columns={"id": "image"})
    table = table.sort_values("image", ignore_index=True)
    if settings.n == 1:
        return table.assign(fold=-1)
    pairs = parted(table, form)
    groups_per_class = pairs.groupby("label").group.nunique()
    lonely = set(groups_per_class.index[groups_per_class == 1])
    warn_about_small_classes(groups_per_class, settings.n)
    # a whole group stays in training if any of its labels has no other group
    kept = table.group.isin(pairs.group[pairs.label.isin(lonely)])
    table["fold"] = -1
    split = table[~kept]
    if (n := split.group.nunique()) < settings.n:
        way = f"set folds.n: {n} or less" if n > 1 else "take folds: all"
        raise UserError(f"{n} groups cannot make {settings.n} folds: {way}")
    draw = iterative_folds if form.kind == "chances" else stratified_folds
    table.loc[split.index, "fold"] = draw(split, settings, form)
    check_folds(table, settings.n, form=form)
    refuse_one_class(table, form)
    return table


def stratified_folds(split: pd.DataFrame, settings: Folds, form: OneClass) -> np.ndarray:
    """The fold of each row, int [n]. Raises UserError where no fold could be fair."""
    from sklearn.model_selection import StratifiedGroupKFold  # late: the rest needs no scikit-learn

    strata, fold = form.strata(split.label), np.empty(len(split), dtype=int)
    if (most := strata.value_counts().max()) < settings.n:
        text = f"no class has {settings.n} images, one a fold"
        raise UserError(f"{text}: set folds.n: {most} or less")
    splitter = StratifiedGroupKFold(settings.n, shuffle=True, random_state=settings.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small classes: we said it, with names
        for k, (_, held_out) in enumerate(splitter.split(split.image, strata, split.group)):
            fold[held_out] = k
    return fold


def iterative_folds(split: pd.DataFrame, settings: Folds, form: OneClass) -> np.ndarray:
    """The fold of each row, int [n]: every fold has its share of each label.

    Sechidis et al. 2011; whole groups are dealt out, by all the labels that they hold.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # late: no other task needs it

    marks = pd.DataFrame(as_array(form.targets(split.label, form.classes(split.label))))
    groups = marks.groupby(split.group.to_numpy()).max()
    how = {"shuffle": True, "random_state": settings.seed}
    splitter = MultilabelStratifiedKFold(n_splits=settings.n, **how)
    fold = pd.Series(-1, groups.index)
    for k, (_, held_out) in enumerate(splitter.split(groups, groups.to_numpy())):
        fold.iloc[held_out] = k
    return split.group.map(fold).to_numpy()


def refuse_one_class(table: pd.DataFrame, form: OneClass) -> None:
    """Raises UserError for a fold of task: binary that holds out one class alone."""
    if lacking := fold_of_one_class(table, form):
        fold, label = lacking
        n = table.group[table.label == label].nunique()
        way = f"set folds.n: {n} or less" if n > 1 else "mend the groups, or take folds: all"
        text = f"fold {fold} holds out no {label!r}, which {n} groups have"
        raise UserError(f"{text}: no score tells two classes apart there; {way}")


def warn_about_small_classes(groups_per_class: pd.Series, n: int) -> None:
    small = groups_per_class[groups_per_class < n].sort_values()
    if len(small):
        named = [f"{label} ({count})" for label, count in small[:MOST_CLASSES_NAMED].items()]
        named += [f"and {len(small) - len(named)} more"] * (len(small) > len(named))
        text = f"{len(small)} classes have fewer distinct images than the {n} folds"
        some = "Some folds cannot score them; a class with one is always trained on (fold -1)"
        warn("folds", f"{text}: {', '.join(named)}. {some}")


def facts_of(table: pd.DataFrame, form: OneClass) -> dict[str, object]:
    return {
        "images": len(table),
        "classes": len(form.classes(table.label)),
        "groups": table.group.nunique(),
        "sizes": table.fold.value_counts().sort_index().to_dict(),
    }


def describe(table: pd.DataFrame, form: OneClass) -> str:
    scored = table[table.fold >= 0]
    if not len(scored):
        return f"all {len(table):,} images are trained on, none is held out"
    sizes = scored.fold.value_counts().sort_index()
    twins = scored[scored.duplicated("group", keep=False)]
    told = f"{len(sizes)} folds of {sizes.min()}-{sizes.max()} images"
    classes = form.counted(len(form.classes(scored.label)))
    return f"{told}, {classes}, {len(twins)} grouped images kept together"


if __name__ == "__main__":
    run_stage(main)
