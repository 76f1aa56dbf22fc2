"""A start by names: each label gets its ImageNet row, and what is doubtful is said."""

from pathlib import Path

import pytest
import timm
import torch

from pipeline.base.cli import UserError
from pipeline.base.config import Model
from pipeline.model.backbone import build_backbone
from pipeline.model.imagenet_names import (
    ImageNet,
    Matches,
    imagenet_classes,
    match_names,
    name_start,
    read_mapping,
    spell,
)

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
BREEDS = KAGGLES_120.split()
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def small() -> ImageNet:
    return imagenet_classes({"num_classes": 1000})


@pytest.fixture(scope="module")
def large() -> ImageNet:
    return imagenet_classes({"num_classes": 21841})


def test_all_120_breeds_have_a_row_of_their_own(small: ImageNet) -> None:
    found = match_names(BREEDS, small)
    rows = [row for label in BREEDS for row in found.rows[label]]
    assert len(BREEDS) == len(set(rows)) == len(rows) == 120
    # all dogs of ImageNet but the dalmatian, and no wolf or coyote: 151-275 without these
    assert set(rows) == set(range(151, 276)) - {251, 269, 270, 271, 272}
    known = {"affenpinscher": 252, "cardigan": 264, "dhole": 274, "shih-tzu": 155, "pug": 254}
    assert {label: found.rows[label] for label in known} == {k: [v] for k, v in known.items()}
    assert found.coverage() == "names: 120 of 120 labels found among ImageNet's 1,000"


def test_the_large_lists_know_the_breeds_too(large: ImageNet, small: ImageNet) -> None:
    ids = [large.ids[row] for rows in match_names(BREEDS, large).rows.values() for row in rows]
    assert ids == [small.ids[r] for rows in match_names(BREEDS, small).rows.values() for r in rows]


def test_cifar_is_found_in_22k_only(small: ImageNet, large: ImageNet) -> None:
    none = match_names(CIFAR, small)
    assert none.rows == {}
    assert "0 of 10 labels found among ImageNet's 1,000 (missing: airplane" in none.coverage()
    found = match_names(CIFAR, large)
    first = {label: large.words[rows[0]] for label, rows in found.rows.items()}
    assert first["cat"] == "cat, true cat"
    assert first["dog"] == "dog, domestic dog, Canis familiaris"
    assert first["truck"] == "truck, motortruck"
    assert [len(found.rows[label]) for label in CIFAR] == [1, 1, 1, 1, 1, 1, 1, 2, 1, 1]
    assert "10 of 10" in found.coverage()
    assert "horse = n02374451 (horse), n03538037 (horse)" in found.coverage()


@pytest.mark.parametrize(
    ("label", "row"),
    [
        ("n02085620-Chihuahua", 151),
        ("n02086240", 155),
        ("SHIH TZU", 155),
        ("Shetland sheep dog", 230),
        ("golden-retrievers", 207),
        ("023.albatrosses", 146),
        ("tench, Tinca tinca", 0),
        ("jack-o-lantern", 607),
        ("yellow_ladys_slipper", 986),
        ("sunglasses", 837),
    ],
)
def test_spellings(label: str, row: int, small: ImageNet) -> None:
    assert match_names([label], small).rows == {label: [row]}


@pytest.mark.parametrize("label", ["0", "22", "chihuahu", "boss", "", "n00000000", "dog"])
def test_what_is_no_word_of_imagenets_is_not_found(label: str, small: ImageNet) -> None:
    assert match_names([label], small).rows == {}


def test_numbers_are_no_words(large: ImageNet) -> None:
    assert any(spell(word) == "22" for word in large.all_words), "the trap: a rifle"
    assert match_names(["22", "78"], large).rows == {}


@pytest.mark.parametrize(
    ("labels", "rows", "unsure"),
    [
        (["crane", "pelican"], [134], []),
        (["crane", "forklift"], [517], []),
        (["crane", "pelican", "forklift"], [134, 517], ["crane"]),
        (["crane"], [134, 517], ["crane"]),
    ],
)
def test_the_other_labels_tell_which_crane(
    labels: list[str], rows: list[int], unsure: list[str], small: ImageNet
) -> None:
    found = match_names(labels, small)
    assert found.rows["crane"] == rows
    assert found.unsure == unsure
    assert ("mean of several" in found.coverage()) is bool(unsure)


def test_mapping_goes_before_names(tmp_path: Path, small: ImageNet) -> None:
    path = tmp_path / "names.csv"
    path.write_text(
        "label,imagenet\ncat,tabby\ncat,Persian cat\ncat,n02123597\ncrane,517\nairplane,airliner\n"
    )
    labels = ["airplane", "cat", "crane", "dog", "hen"]
    found = match_names(labels, small, read_mapping(path, labels, small))
    assert found.rows == {"airplane": [404], "cat": [281, 283, 284], "crane": [517], "hen": [8]}
    assert found.coverage() == ("names: 4 of 5 labels found among ImageNet's 1,000 (missing: dog)")


def test_bad_lines_of_a_mapping_are_named_at_once(tmp_path: Path, small: ImageNet) -> None:
    path = tmp_path / "names.csv"
    lines = ["cta,tabby", "cat,taby", "cat,1000", "cat,crane", "cat,tabby", "cat,281", "cat,"]
    path.write_text("\n".join(["label,imagenet", *lines]))
    with pytest.raises(UserError) as error:
        read_mapping(path, ["cat", "dog"], small)
    said = str(error.value).splitlines()
    assert len(said) == 6
    assert said[0] == f"{path} line 2: no label 'cta'; did you mean 'cat'?"
    assert said[1].startswith(
        f"{path} line 3: ImageNet's 1,000 have no 'taby'; did you mean 'tabby'"
    )
    assert said[2] == f"{path} line 4: no row 1000: they are 0 to 999"
    assert said[3].endswith(
        "'crane' is n02012849 (crane), n03126707 (crane): write the WordNet id you mean"
    )
    assert said[4] == f"{path} line 7: 'cat' has '281' already"
    assert "have no ''" in said[5]


def test_start_in_numbers() -> None:
    classes = ImageNet(["n01000001", "n01000002", "n01000003"], ["a", "b", "c"])
    found = Matches(["x", "y", "z", "w"], {"x": [0], "y": [1, 2]}, [], classes)
    weight = torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 4.0]])
    first, bias = name_start(weight, torch.tensor([1.0, 2.0, 6.0]), found)
    assert first.tolist() == [[1, 2], [4, 2], [2.5, 2], [2.5, 2]]
    assert bias.tolist() == [1, 4, 2.5, 2.5]
    assert name_start(weight, None, found)[1] is None
    empty = Matches(["x"], {}, [], classes)
    with pytest.raises(UserError, match=r"0 of 1 labels found .* a start by names needs one"):
        name_start(weight, None, empty)


def test_labels_not_found_stay_below_the_mean_of_the_found() -> None:
    """However the logits of the competition's pictures lie, as a whole, about zero."""
    torch.manual_seed(0)
    classes = ImageNet([f"n{i:08d}" for i in range(9)], [f"word{i}" for i in range(9)])
    labels = [f"word{i}" for i in range(5)] + [f"unknown{i}" for i in range(20)]
    found = match_names(labels, classes)
    for shift in (-30.0, 0.0, 30.0):
        weight, bias = name_start(torch.randn(9, 4), torch.randn(9) + shift, found)
        prob = (torch.randn(64, 4) @ weight.T + bias).softmax(1)
        assert (prob[:, 5:] <= prob[:, :5].mean(1, keepdim=True) + 1e-6).all()
        assert (prob.argmax(1) < 5).all()


def test_real_head_gives_imagenets_logits() -> None:
    model = build_backbone(Model(), fold=0).eval()
    found = match_names([*BREEDS, "no_such_breed"], imagenet_classes(model))
    rows = [found.rows[label][0] for label in BREEDS]
    old = model.get_classifier()
    weight, bias = name_start(old.weight, old.bias, found)
    assert weight.shape == (121, 1280)
    assert torch.equal(weight[:120], old.weight[rows])
    assert torch.equal(bias[:120], old.bias[rows])
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)[:, rows]
        model.reset_classifier(121)
        model.classifier.load_state_dict({"weight": weight, "bias": bias})
        logits = model(images)
    torch.testing.assert_close(logits[:, :120], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[:, 120], expected.mean(1), rtol=0, atol=1e-5)


def test_a_backbone_without_imagenets_classifier_is_refused() -> None:
    assert len(imagenet_classes(timm.get_pretrained_cfg("convnext_tiny.in12k")).ids) == 11821
    for outputs in (5, 0):
        with pytest.raises(UserError, match=f"a classifier of {outputs} outputs is none of Image"):
            imagenet_classes({"num_classes": outputs})
    with pytest.raises(UserError, match="of 7 outputs"):
        imagenet_classes(timm.create_model("test_resnet", num_classes=7))
    with pytest.raises(UserError, match="of 0 outputs"):
        imagenet_classes(timm.get_pretrained_cfg("vit_small_patch14_dinov2.lvd142m"))
