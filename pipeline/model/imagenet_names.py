"""A head that starts from the pretrained classifier: its rows, found by the labels' names.

ImageNet's classes are WordNet synsets, and timm knows the words of each. Where a competition's
label is such a word, the row that recognises it is there before the first step.
"""

import bisect
import difflib
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset

from pipeline.base.cli import UserError, listing
from pipeline.base.csv_files import read_csv

SHOWN = 10  # labels named in full in the coverage text
# WordNet 3.0 numbers its nouns by kind: from here on animals, things, words, food, groups and
# places, people, weather, plants, and the rest
KINDS = [1_300_000, 2_665_900, 4_620_000, 7_550_000, 7_940_000, 9_600_000, 11_400_000]
KINDS += [11_530_000, 13_200_000]


@dataclass(frozen=True)
class ImageNet:
    """Classes of a pretrained classifier by row: WordNet ids and their words.

    `words` are as timm gives them: "Cardigan, Cardigan Welsh corgi".
    """

    ids: list[str]
    words: list[str]

    @cached_property
    def rows_of(self) -> dict[str, list[int]]:
        """Spelling → all rows that carry it, as one of the words or as all of them in a line."""
        found = defaultdict(list)
        for row, line in enumerate(self.words):
            for spelling in {spell(word) for word in (line, *line.split(", "))}:
                found[spelling].append(row)
        return dict(found)

    @cached_property
    def all_words(self) -> list[str]:
        return sorted({word for line in self.words for word in line.split(", ")})

    @cached_property
    def row_of_id(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def kind(self, row: int) -> int:
        return bisect.bisect(KINDS, int(self.ids[row][1:]))

    def heads(self, row: int, spelling: str) -> bool:
        """Whether it is the first word of its class: "horse" of "horse, Equus caballus"."""
        return spell(self.words[row].split(", ")[0]) == spelling

    def describe(self, rows: list[int]) -> str:
        return ", ".join(f"{self.ids[row]} ({self.words[row].split(', ')[0]})" for row in rows)


@dataclass(frozen=True)
class Matches:
    """`rows` of the classifier for each label found; `unsure` labels fit several by name."""

    labels: list[str]
    rows: dict[str, list[int]]
    unsure: list[str]
    classes: ImageNet

    def coverage(self) -> str:
        """One line to print: how many labels were found, which were not, which are unsure."""
        total = f"{len(self.classes.ids):,}"
        text = f"{len(self.rows)} of {len(self.labels)} labels found among ImageNet's {total}"
        if missing := [label for label in self.labels if label not in self.rows]:
            text += f" (missing: {_some(missing)})"
        if self.unsure:
            told = [f"{label} = {self.classes.describe(self.rows[label])}" for label in self.unsure]
            text += f"; mean of several, choose by a mapping: {_some(told)}"
        return f"names: {text}"


def imagenet_classes(model: Any) -> ImageNet:
    """Classes of a timm model (or of its pretrained config) that still has its own classifier.

    timm knows the list by the number of outputs: 1,000, 11,221, 11,821, 21,841, 21,842, 21,843.
    Raises UserError for any other number (CLIP, DINO, iNaturalist).
    """
    subset = infer_imagenet_subset(model)
    if subset is None:
        count = model["num_classes"] if isinstance(model, dict) else model.num_classes
        raise UserError(
            f"names: a classifier of {count or 0} outputs is none of ImageNet's, so it has no rows "
            "to start from; take weights whose tag ends in in1k, in12k, in21k or in22k"
        )
    info = ImageNetInfo(subset)
    return ImageNet(info.label_names(), info.label_descriptions())


def match_names(
    labels: list[str], classes: ImageNet, mapping: dict[str, list[int]] | None = None
) -> Matches:
    """Rows of the classifier that fit each label by its name; `mapping` goes before the names.

    Only equal words count: timm's lists hold no hypernyms, so "dog" is not found among the 120
    breeds of the 1,000 classes. A word of several classes ("crane", bird and machine) means the
    one of the kind of all other labels (animals, things, food …), where they are of one kind; then
    those classes that have it as their first word ("cat, true cat", not "Caterpillar, cat"). Of
    what is left it means the mean: half of such a start is right, which beats none, and a run
    need not end over it; `unsure` says so.
    """
    named = {label: _candidates(label, classes) for label in labels}
    sure = {label: rows for label, rows in named.items() if len(rows) == 1} | (mapping or {})
    clear = [row for rows in sure.values() for row in rows]
    chosen = {
        label: sure.get(label) or _likeliest(rows, label, clear, classes)
        for label, rows in named.items()
    }
    unsure = [label for label in labels if label not in sure and len(chosen[label]) > 1]
    return Matches(labels, {k: rows for k, rows in chosen.items() if rows}, unsure, classes)


def name_start(
    weight: torch.Tensor, bias: torch.Tensor | None, matches: Matches
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A head's first weight [labels, features] and bias [labels] from a classifier's [rows, …].

    A label found gets its row, or the mean of its rows; one not found the mean over the labels
    found: its logit is the mean of theirs, its probability their geometric mean and so at most
    1 / (number found), however many are missing. Zeros would promise nothing: a softmax ignores
    what all rows share, and zero may lie above or below that. Labels not found start equal; their
    pictures part them at the first step, the head being linear.
    Raises UserError when no label was found.
    """
    if not matches.rows:
        raise UserError(f"{matches.coverage()}; a start by names needs one, or a mapping CSV")
    return _start(weight, matches), None if bias is None else _start(bias, matches)


def read_mapping(path: Path, labels: list[str], classes: ImageNet) -> dict[str, list[int]]:
    """Rows of labels from a CSV `label,imagenet`: a class name, a WordNet id or a row number.

    A label may stand in several lines: the mean of their rows. Raises UserError naming each line
    that holds no label of ours or no single class.
    """
    table = read_csv(path, ["label", "imagenet"])
    found, problems = defaultdict(list), []
    known = set(labels)
    for line, (label, name) in enumerate(zip(table.label, table.imagenet, strict=True), start=2):
        try:
            if label not in known:
                raise UserError(f"no label {label!r}{_near(label, labels)}")
            row = _one_row(name, classes)
            if row in found[label]:
                raise UserError(f"{label!r} has {name!r} already")
            found[label].append(row)
        except UserError as error:
            problems.append(f"{path} line {line}: {error}")
    if problems:
        raise UserError(listing(problems))
    return dict(found)


def spell(name: str) -> str:
    """What is left of a name without case, accents and all but letters and digits.

    "Shih-Tzu", "shih_tzu" and "shih tzu" are one name, "pug-dog" and "pugdog" too.
    """
    plain = unicodedata.normalize("NFKD", name).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def _start(values: torch.Tensor, matches: Matches) -> torch.Tensor:
    known = {label: values[rows].mean(0) for label, rows in matches.rows.items()}
    rest = torch.stack(list(known.values())).mean(0)
    return torch.stack([known.get(label, rest) for label in matches.labels])


def _candidates(label: str, classes: ImageNet) -> list[int]:
    """Rows that a label names: by a WordNet id, else by the first of its forms that is known."""
    wordnet = re.match(r"n\d{8}(?!\d)", label)
    if wordnet and wordnet[0] in classes.row_of_id:
        return [classes.row_of_id[wordnet[0]]]
    return next((classes.rows_of[form] for form in _forms(label) if form in classes.rows_of), [])


def _forms(label: str) -> list[str]:
    """Spellings of a label, the surest first: itself, without its number, in the singular.

    Numbers are those of folder names: n02085620-Chihuahua, 001.Black_footed_Albatross.
    """
    bare = spell(re.sub(r"^(n\d{8}|\d+)[-_. ]+", "", label))
    if not re.search("[a-z]", bare):
        return []  # "22" is a label of its own, no rifle
    forms = [spell(label), bare]
    if bare.endswith("s") and not bare.endswith("ss"):
        forms += [bare[:-1], bare.removesuffix("es"), re.sub("ies$", "y", bare)]
    return forms


def _likeliest(rows: list[int], label: str, clear: list[int], classes: ImageNet) -> list[int]:
    kinds = {classes.kind(row) for row in clear}
    if len(kinds) == 1:
        rows = [row for row in rows if classes.kind(row) in kinds] or rows
    forms = _forms(label)
    return [row for row in rows if any(classes.heads(row, form) for form in forms)] or rows


def _one_row(name: str, classes: ImageNet) -> int:
    """The row that a line of a mapping means. Raises UserError when it is none or several."""
    if re.fullmatch(r"\d+", name):
        if int(name) >= len(classes.ids):
            raise UserError(f"no row {name}: they are 0 to {len(classes.ids) - 1}")
        return int(name)
    rows = _candidates(name, classes)
    if not rows:
        near = _near(name, classes.all_words)
        raise UserError(f"ImageNet's {len(classes.ids):,} have no {name!r}{near}")
    if len(rows) > 1:
        raise UserError(f"{name!r} is {classes.describe(rows)}: write the WordNet id you mean")
    return rows[0]


def _near(name: str, known: list[str]) -> str:
    by_spelling = {spell(word): word for word in known}
    near = difflib.get_close_matches(spell(name), list(by_spelling), n=3)
    words = " or ".join(repr(by_spelling[word]) for word in near)
    return f"; did you mean {words}?" if near else ""


def _some(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (" …" if len(items) > SHOWN else "")
