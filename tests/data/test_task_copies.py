"""Kaggle's competitions of the other tasks: headers, ids, folders and answers as they are there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.base.competition import Competition, load_competition
from pipeline.data.inspection import propose
from pipeline.data.tables import read_rows, read_split, refuse_futile
from pipeline.inference.predictions import Predictions
from pipeline.inference.submission import fill_sample
from pipeline.inference.thresholds import usual

TUBES = (
    "ETT - Abnormal,ETT - Borderline,ETT - Normal,NGT - Abnormal,NGT - Borderline,NGT - Incomple"
)
TUBES += (
    "tely Imaged,NGT - Normal,CVC - Abnormal,CVC - Borderline,CVC - Normal,Swan Ganz Catheter P"
)
TUBES += "resent"
PETS = "Subject Focus,Eyes,Face,Near,Action,Accessory,Group,Collage,Human,Occlusion,Info,Blur"
MOLE = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge"
BREAST = "site_id,patient_id,image_id,laterality,view,age"
UID = "1.2.826.0.1.3680043.8.498.{}"
SCAB = ["healthy", "scab frog_eye_leaf_spot complex", "rust", "complex"]
Files = dict[str, tuple[str, list[str]]]  # header, lines


def hexes(n: int, digits: int, first: int = 0) -> list[str]:
    return [f"{(i + first) * 7919 + 1:0{digits}x}" for i in range(n)]


def aerial_cactus() -> Files:
    a, b = ([f"{name}.jpg" for name in hexes(n, 32, n)] for n in (8, 4))
    return {
        "train.csv": ("id,has_cactus", [f"{name},{i % 4 and 1}" for i, name in enumerate(a)]),
        "sample_submission.csv": ("id,has_cactus", [f"{name},0.5" for name in b]),
    }


def histopathologic_cancer() -> Files:
    a, b = hexes(8, 40), hexes(4, 40, 8)
    return {
        "train_labels.csv": ("id,label", [f"{name},{i % 2}" for i, name in enumerate(a)]),
        "sample_submission.csv": ("id,label", [f"{name},0" for name in b]),
    }


def siim_isic_melanoma() -> Files:
    facts = "male,45.0,head/neck"
    rows = [f"ISIC_{2637011 + i},IP_{7279968 + i // 2},{facts}" for i in range(16)]
    kinds = ["nevus,benign,0", "melanoma,malignant,1"]
    return {
        "train.csv": (
            f"{MOLE},diagnosis,benign_malignant,target",
            [f"{row},{kinds[i % 5 == 4]}" for i, row in enumerate(rows[:12])],
        ),
        "test.csv": (MOLE, rows[12:]),
        "sample_submission.csv": ("image_name,target", [f"{r.split(',')[0]},0" for r in rows[12:]]),
    }


def plant_pathology_2021_fgvc8() -> Files:
    a, b = ([f"{name}.jpg" for name in hexes(n, 16, n)] for n in (8, 3))
    return {
        "train.csv": ("image,labels", [f"{name},{SCAB[i % 4]}" for i, name in enumerate(a)]),
        "sample_submission.csv": ("image,labels", [f"{name},healthy" for name in b]),
    }


def ranzcr_clip() -> Files:
    marks = ["0,0,1,0,0,0,1,0,0,0,0", "0,0,0,0,0,0,0,0,1,1,0", "0,0,0,0,0,0,0,1,0,0,1"]
    head = f"StudyInstanceUID,{TUBES}"
    lines = [f"{UID.format(26697628953273228189 + i)},{marks[i % 3]}" for i in range(12)]
    return {
        "train.csv": (f"{head},PatientID", [f"{x},{i // 2:x}e8ad" for i, x in enumerate(lines)]),
        "sample_submission.csv": (head, [f"{UID.format(i)}{',0' * 11}" for i in range(3)]),
    }


def aptos2019() -> Files:
    a, b = hexes(10, 12), hexes(3, 12, 10)
    return {
        "train.csv": ("id_code,diagnosis", [f"{name},{i % 5}" for i, name in enumerate(a)]),
        "test.csv": ("id_code", b),
        "sample_submission.csv": ("id_code,diagnosis", [f"{name},0" for name in b]),
    }


def petfinder_pawpularity() -> Files:
    a, b = hexes(9, 32), hexes(3, 32, 9)
    facts = ["0,1,1,1,0,0,1,0,0,0,0,0", "1,1,1,0,0,0,0,0,1,0,1,1"]
    rows = [f"{name},{facts[i % 2]}" for i, name in enumerate(a)]
    return {
        "train.csv": (f"Id,{PETS},Pawpularity", [f"{x},{1 + 11 * i}" for i, x in enumerate(rows)]),
        "test.csv": (f"Id,{PETS}", [f"{name},{facts[0]}" for name in b]),
        "sample_submission.csv": ("Id,Pawpularity", [f"{name},65.75" for name in b]),
    }


def humpback_whale() -> Files:
    a, b = ([f"{name}.jpg" for name in hexes(n, 8, n)] for n in (14, 3))
    whales = ["new_whale", "w_23a388d", "w_9b5109b", "w_9c506f6", "w_0369a5c", "w_700ebb4", "w_f48"]
    return {
        "train.csv": ("Image,Id", [f"{name},{whales[i % 7]}" for i, name in enumerate(a)]),
        "sample_submission.csv": ("Image,Id", [f"{name},{' '.join(whales[:5])}" for name in b]),
    }


def rsna_breast_cancer_detection() -> Files:
    """The side of a breast is asked for, of which train.csv lacks the name: it is put in before."""
    sides = [
        f"{1 + i // 4 % 2},{10006 + i // 4},{462822612 + i},{'LR'[i // 2 % 2]}" for i in range(24)
    ]
    rows = [f"{side},{['CC', 'MLO'][i % 2]},61.0" for i, side in enumerate(sides)]
    names = [f"{10006 + i // 4}_{'LR'[i // 2 % 2]}" for i in range(24)]
    train = [
        f"{row},{int(i in (2, 3, 8, 9))},{name}"
        for i, (row, name) in enumerate(zip(rows, names, strict=True))
    ]
    test = [f"{row},{name}" for row, name in zip(rows, names, strict=True)][16:]
    return {
        "train.csv": (f"{BREAST},cancer,prediction_id", train[:16]),
        "test.csv": (f"{BREAST},prediction_id", test),
        "sample_submission.csv": ("prediction_id,cancer", [f"{x},0.02116" for x in names[16::2]]),
    }


COPIES = [
    aerial_cactus,
    histopathologic_cancer,
    siim_isic_melanoma,
    plant_pathology_2021_fgvc8,
    ranzcr_clip,
    aptos2019,
    petfinder_pawpularity,
    humpback_whale,
]
BY_NAME = {make.__name__.replace("_", "-"): make for make in COPIES}
RSNA = "rsna-breast-cancer-detection"  # its YAML is shown in docs/tasks.md
GUESSED = {"metric": {"plant-pathology-2021-fgvc8"}}  # what no file tells
FROM_FILES = {"id", "label", "task", "train", "test", "sample", "image", "test_image", "k"}
FROM_FILES |= {"submission", "metric", "group", "separator", "positive", "picture"}


def write_copy(files: Files, rules: Competition, folder: Path) -> None:
    """The CSVs, and an empty file for each picture that they name."""
    for name, (header, lines) in files.items():
        (folder / name).write_text("\n".join([header, *lines]) + "\n")
    for path in read_rows(rules, folder).path:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def shown_rules() -> str:
    """The YAML of RSNA's competition, as the docs have it."""
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    shown = text[text.index(f"slug: {RSNA}") :]
    return shown[: shown.index("```")]


def drawn_copy(name: str, home: Path) -> str:
    """Write a tiny copy into home/data, a shade a label; returns what an experiment calls it."""
    make, named = BY_NAME.get(name, rsna_breast_cancer_detection), name
    if name == RSNA:
        (home / f"{name}.yaml").write_text(shown_rules())
        named = str(home / f"{name}.yaml")
    rules, random = load_competition(named), np.random.default_rng(0)
    (folder := home / "data" / name).mkdir(parents=True)
    write_copy(make(), rules, folder)
    rows, shades = read_rows(rules, folder), random.integers(0, 190, (99, 3))
    code = np.where(rows.split == "train", pd.factorize(rows.label)[0], np.arange(len(rows)) % 3)
    for path, shade in zip(rows.path, shades[code], strict=True):
        picture = random.integers(0, 64, (12, 16, 3)) + shade
        Image.fromarray(picture.astype(np.uint8)).save(folder / path)
    return named


def sent(rules: Competition, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The sample, and a submission made of numbers by chance."""
    rows, form = read_rows(rules, folder), rules.form
    refuse_futile(rules, folder, rows)
    classes = form.classes(rows.label[rows.split == "train"])
    ids = list(dict.fromkeys(rows["study" if rules.picture else "id"][rows.split == "test"]))
    prob = np.random.default_rng(0).dirichlet(np.ones(len(classes)), len(ids)).astype(np.float32)
    sample = pd.read_csv(folder / rules.sample, dtype=str)
    decided = None
    if rules.task == "ordinal":
        prob, decided = 4 * np.random.default_rng(0).random((len(ids), 1)), {"first": 0}
        target = form.targets(rows.label[rows.split == "train"], classes)
        decided = usual(np.array(target.tolist()), prob, form.kind).fact
    answers = Predictions(ids, classes, prob, kind=form.kind)
    return sample, fill_sample(sample, answers, rules, "sample", decided)


@pytest.mark.parametrize("make", COPIES, ids=lambda make: make.__name__)
def test_files_tell_the_yaml_and_take_the_answers(make: object, tmp_path: Path) -> None:
    name = make.__name__.replace("_", "-")
    rules = load_competition(name)
    write_copy(make(), rules, tmp_path)
    proposed = Competition(**yaml.safe_load(propose(tmp_path))).model_dump(include=FROM_FILES)
    wanted = rules.model_dump(include=FROM_FILES)
    unlike = {key for key in wanted if proposed[key] != wanted[key]}
    assert unlike == {key for key, names in GUESSED.items() if name in names}
    sample, table = sent(rules, tmp_path)
    assert list(table) == list(sample) and list(table[rules.id]) == list(sample[rules.id])
    first = table.iloc[0, 1]
    if rules.k > 1:
        assert len(first.split()) == 5 == len({*first.split()})
    elif name.startswith("plant"):
        assert {*first.split()} <= {"healthy", "scab", "frog_eye_leaf_spot", "complex", "rust"}
    else:
        assert table.iloc[:, 1].dtype.kind == ("i" if rules.task == "ordinal" else "f")


def test_a_study_of_several_pictures_as_of_rsna(tmp_path: Path) -> None:
    rules = Competition(**yaml.safe_load(shown_rules()))
    write_copy(rsna_breast_cancer_detection(), rules, tmp_path)
    _, table = sent(rules, tmp_path)
    assert len(read_split(rules, tmp_path, "test")) == 8 and len(table) == 4
    assert list(table) == ["prediction_id", "cancer"] and table.cancer.between(0, 1).all()
