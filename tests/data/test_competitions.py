"""Kaggle's competitions on tiny copies: headers, ids, folders and file types as they are there."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kaggle_stub import KaggleStub
from PIL import Image
from test_archives import sevenzipped

from pipeline.base.cli import UserError
from pipeline.base.competition import load_competition
from pipeline.data.tables import read_rows

Draw = Callable[[str], None]
Table = tuple[str, list[str]]  # header, lines

KAGGLES_120 = """
affenpinscher afghan_hound african_hunting_dog airedale american_staffordshire_terrier appenzeller
australian_terrier basenji basset beagle bedlington_terrier bernese_mountain_dog
black-and-tan_coonhound blenheim_spaniel bloodhound bluetick border_collie border_terrier borzoi
boston_bull bouvier_des_flandres boxer brabancon_griffon briard brittany_spaniel bull_mastiff cairn
cardigan chesapeake_bay_retriever chihuahua chow clumber cocker_spaniel collie
curly-coated_retriever dandie_dinmont dhole dingo doberman english_foxhound english_setter
english_springer entlebucher eskimo_dog flat-coated_retriever french_bulldog german_shepherd
german_short-haired_pointer giant_schnauzer golden_retriever gordon_setter great_dane
great_pyrenees greater_swiss_mountain_dog groenendael ibizan_hound irish_setter irish_terrier
irish_water_spaniel irish_wolfhound italian_greyhound japanese_spaniel keeshond kelpie
kerry_blue_terrier komondor kuvasz labrador_retriever lakeland_terrier leonberg lhasa malamute
malinois maltese_dog mexican_hairless miniature_pinscher miniature_poodle miniature_schnauzer
newfoundland norfolk_terrier norwegian_elkhound norwich_terrier old_english_sheepdog otterhound
papillon pekinese pembroke pomeranian pug redbone rhodesian_ridgeback rottweiler saint_bernard
saluki samoyed schipperke scotch_terrier scottish_deerhound sealyham_terrier shetland_sheepdog
shih-tzu siberian_husky silky_terrier soft-coated_wheaten_terrier staffordshire_bullterrier
standard_poodle standard_schnauzer sussex_spaniel tibetan_mastiff tibetan_terrier toy_poodle
toy_terrier vizsla walker_hound weimaraner welsh_springer_spaniel west_highland_white_terrier
whippet wire-haired_fox_terrier yorkshire_terrier
"""
BREEDS = sorted(KAGGLES_120.split())
SPECIES = ["Acer_Capillipes", "Acer_Circinatum", "Acer_Mono"]
DISEASES = ["bacterial_leaf_blight", "blast", "normal"]
FEATURES = [f"{kind}{i}" for kind in ("margin", "shape", "texture") for i in range(1, 65)]


def classify_leaves(draw: Draw) -> dict[str, Table]:
    """Ids are paths; train and test pictures are numbered through in one folder."""
    train = [f"images/{i},{['abies_concolor', 'maclura_pomifera'][i % 2]}" for i in range(8)]
    test = [f"images/{i}.jpg" for i in range(8, 12)]
    for i in range(12):
        draw(f"images/{i}.jpg")
    return {
        "train.csv": ("image,label", [line.replace(",", ".jpg,") for line in train]),
        "test.csv": ("image", test),
        "sample_submission.csv": ("image,label", [f"{name},maclura_pomifera" for name in test]),
    }


def cifar_10(draw: Draw) -> dict[str, Table]:
    """Ids count from 1 in train and again in test; there is no test.csv."""
    for i in range(1, 9):
        draw(f"train/{i}.png")
        draw(f"test/{i}.png")
    return {
        "trainLabels.csv": ("id,label", [f"{i},{['frog', 'truck'][i % 2]}" for i in range(1, 9)]),
        "sampleSubmission.csv": ("id,label", [f"{i},cat" for i in range(1, 9)]),
    }


def dog_breed_identification(draw: Draw) -> dict[str, Table]:
    """Ids are digests without extension; a probability for each of 120 breeds."""
    train = [(f"{i:032x}", BREEDS[i % 120]) for i in range(240)]
    test = [f"{i:032x}" for i in range(1000, 1003)]
    for i in [i for i, _ in train]:
        draw(f"train/{i}.jpg")
    for i in test:
        draw(f"test/{i}.jpg")
    even = ",".join(["0.00833333333333"] * 120)
    return {
        "labels.csv": ("id,breed", [",".join(row) for row in train]),
        "sample_submission.csv": (",".join(["id", *BREEDS]), [f"{i},{even}" for i in test]),
    }


def cassava_leaf_disease(draw: Draw) -> dict[str, Table]:
    """Ids with extension; one test picture, the others are shown to notebooks only."""
    train = [f"{1000015157 + i}.jpg" for i in range(8)]
    for name in train:
        draw(f"train_images/{name}")
    draw("test_images/2216849948.jpg")
    return {
        "train.csv": ("image_id,label", [f"{name},{i % 4}" for i, name in enumerate(train)]),
        "sample_submission.csv": ("image_id,label", ["2216849948.jpg,4"]),
    }


def plant_pathology_2020_fgvc7(draw: Draw) -> dict[str, Table]:
    """A one-hot column per class; train and test pictures in one folder."""
    for i in range(8):
        draw(f"images/Train_{i}.jpg")
        draw(f"images/Test_{i}.jpg")
    header = "image_id,healthy,multiple_diseases,rust,scab"
    ones = [",".join("01"[i % 4 == k] for k in range(4)) for i in range(8)]
    return {
        "train.csv": (header, [f"Train_{i},{ones[i]}" for i in range(8)]),
        "test.csv": ("image_id", [f"Test_{i}" for i in range(8)]),
        "sample_submission.csv": (header, [f"Test_{i},0.25,0.25,0.25,0.25" for i in range(8)]),
    }


def paddy_disease_classification(draw: Draw) -> dict[str, Table]:
    """Train pictures in a folder per class, two more columns, a sample without labels."""
    train = [(f"{100330 + i}.jpg", DISEASES[i % 3]) for i in range(9)]
    test = [f"{200001 + i}.jpg" for i in range(4)]
    for name, label in train:
        draw(f"train_images/{label}/{name}")
    for name in test:
        draw(f"test_images/{name}")
    return {
        "train.csv": ("image_id,label,variety,age", [f"{a},{b},ADT45,45" for a, b in train]),
        "sample_submission.csv": ("image_id,label", [f"{name}," for name in test]),
    }


def leaf_classification(draw: Draw) -> dict[str, Table]:
    """Grey silhouettes, 192 more columns in both CSVs, ids mixed over train and test."""
    train, test = [1, 2, 3, 5, 6, 8, 10, 13, 14], [4, 7, 9]
    for i in train + test:
        draw(f"images/{i}.jpg")
    features = ",".join(["0.0078125"] * 192)
    return {
        "train.csv": (
            ",".join(["id", "species", *FEATURES]),
            [f"{i},{SPECIES[n % 3]},{features}" for n, i in enumerate(train)],
        ),
        "test.csv": (",".join(["id", *FEATURES]), [f"{i},{features}" for i in test]),
        "sample_submission.csv": (
            ",".join(["id", *SPECIES]),
            [f"{i},0.0101010101010101,0.01010101,0.01010101" for i in test],
        ),
    }


COPIES = {
    "classify-leaves": classify_leaves,
    "cifar-10": cifar_10,
    "dog-breed-identification": dog_breed_identification,
    "cassava-leaf-disease": cassava_leaf_disease,
    "plant-pathology-2020-fgvc7": plant_pathology_2020_fgvc7,
    "paddy-disease-classification": paddy_disease_classification,
    "leaf-classification": leaf_classification,
}
CLASSES = {
    "classify-leaves": ["abies_concolor", "maclura_pomifera"],
    "cifar-10": ["frog", "truck"],
    "dog-breed-identification": BREEDS,
    "cassava-leaf-disease": ["0", "1", "2", "3"],
    "plant-pathology-2020-fgvc7": ["healthy", "multiple_diseases", "rust", "scab"],
    "paddy-disease-classification": DISEASES,
    "leaf-classification": SPECIES,
}


def tiny_copy(name: str, folder: Path) -> Path:
    """Write the tiny copy of a competition; pictures are noise of a few pixels."""
    random = np.random.default_rng(0)

    def draw(path: str) -> None:
        size = (12, 16) if name == "leaf-classification" else (12, 16, 3)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / path)

    for file, (header, lines) in COPIES[name](draw).items():
        (folder / file).write_text("\n".join([header, *lines]) + "\n")
    return folder


@pytest.mark.parametrize("name", COPIES)
def test_a_submission_has_the_samples_header_and_rows(
    name: str,
    space: Path,
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    blended: Callable[[str], str],
) -> None:
    folder = tiny_copy(name, space / "data" / name)
    experiment = split(write(competition=name))
    run("submit", blended(experiment))
    competition = load_competition(name)
    sent = pd.read_csv(space / "submissions" / "tiny.csv", dtype=str, keep_default_na=False)
    sample = pd.read_csv(folder / competition.sample, dtype=str, keep_default_na=False)
    assert list(sent) == list(sample)
    assert list(sent[competition.id]) == list(sample[competition.id])
    answers = sent.drop(columns=competition.id)
    if competition.submission == "probability":
        assert list(answers) == CLASSES[name]
        np.testing.assert_allclose(answers.astype(float).sum(axis=1), 1, atol=1e-5)
    else:
        assert set(answers[competition.label]) <= set(CLASSES[name])


@pytest.mark.parametrize("name", COPIES)
def test_every_label_meets_its_picture(name: str, tmp_path: Path) -> None:
    folder = tiny_copy(name, tmp_path)
    rows = read_rows(load_competition(name), folder)
    assert sorted({*rows.label} - {""}) == CLASSES[name]
    assert sorted(rows.path) == files(folder)


def files(folder: Path) -> list[str]:
    paths: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in paths if path.suffix != ".csv")


def test_one_hot_rows_are_labels_and_bad_ones_are_named(tmp_path: Path) -> None:
    name = "plant-pathology-2020-fgvc7"
    train = tiny_copy(name, tmp_path) / "train.csv"
    rows = read_rows(load_competition(name), tmp_path)
    assert list(rows.label[:4]) == CLASSES[name]
    train.write_text(train.read_text().replace("Train_2,0,0,1,0", "Train_2,0,1,1,0"))
    with pytest.raises(UserError, match=r"train.csv line 4: expected a 1 and else 0 among healthy"):
        read_rows(load_competition(name), tmp_path)


def test_from_a_token_to_a_score(
    space: Path,
    kaggle: KaggleStub,
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    blended: Callable[[str], str],
) -> None:
    """CIFAR-10 as Kaggle keeps it: CSVs, and a 7z for each folder of pictures."""
    folder = tiny_copy("cifar-10", space / "kaggle")
    kept = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    for part in ("train", "test"):
        pictures = {f"{part}/{path.name}": path.read_bytes() for path in (folder / part).iterdir()}
        kept[f"{part}.7z"] = sevenzipped(pictures)
    kaggle.competitions["cifar-10"] = kept
    run("fetch", "cifar-10")
    assert files(space / "data" / "cifar-10") == files(folder)
    assert "slug: cifar-10" in run("prepare", "--inspect", str(space / "data" / "cifar-10"))
    text = run("submit", blended(split(write(competition="cifar-10"))), "--upload")
    assert "public 0.91" in text
    assert (space / "submissions" / "ledger.csv").read_text().count("cifar-10") == 1
    assert kaggle.submissions[0]["csv"].startswith("id,label\n1,")
