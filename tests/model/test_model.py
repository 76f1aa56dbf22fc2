"""Models: freezing really freezes, each parameter is in one group, weights come back equal."""

import importlib.util
import time
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import DropPath

from pipeline.base import records
from pipeline.base.cli import UserError
from pipeline.base.config import Model, Train
from pipeline.inference.features import backbone_digest
from pipeline.model import taps
from pipeline.model.backbone import (
    PYPI,
    as_recorded,
    build_backbone,
    kept_weights,
    layout,
    pretrained,
)
from pipeline.model.build import (
    build_model,
    load_model,
    preprocessing,
    save_weights,
)
from pipeline.model.freeze import freeze, train_mode, training_norms, unfreeze
from pipeline.model.head import BlockHead, fit_end
from pipeline.training.optim import parameter_groups

SMALL = {"backbone": "test_efficientnet", "weights": "none", "size": 32, "batchnorm": "train"}


def statistics(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if "running_" in k}


@pytest.mark.parametrize("until", ["backbone", "blocks.1"])
def test_frozen_layers_do_not_move(until: str) -> None:
    settings = Model(**SMALL, features="last", freeze=until)
    model = build_model(settings, classes=3, fold=0)
    before_stats = statistics(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(parameter_groups(model, Train()), lr=0.1)
    freeze(model, settings)
    train_mode(model, "train")  # the trap: model.train() would set BatchNorm's statistics moving
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    moved = {
        name.split(".")[0] for name, p in model.named_parameters() if (p != before[name]).any()
    }
    moved_stats = {name for name, v in statistics(model).items() if (v != before_stats[name]).any()}
    assert "classifier" in moved
    assert "conv_stem" not in moved
    if until == "backbone":
        assert moved == {"classifier"}
        assert not moved_stats
    else:
        frozen = ("bn1", "blocks.0", "blocks.1")
        assert not [name for name in moved_stats if name.startswith(frozen)]
        assert [name for name in moved_stats if name.startswith("blocks.2")]
        assert not [
            n for n, p in model.named_parameters() if p.requires_grad and n.startswith(frozen)
        ]
        assert "blocks" in moved


def test_unknown_module_is_refused_before_any_picture_is_read() -> None:
    with pytest.raises(UserError, match=r"no module 'layer9'; try backbone or one of"):
        layout(Model(backbone="test_resnet", size=32, freeze="layer9"))


class ListsLate(torch.nn.Module):
    """Lists what it runs in another order, adds an embedding half-way, and changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = torch.nn.Parameter(torch.ones(4, 1, 1))
        self.downs = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1)])
        self.steps = torch.nn.ModuleList([torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1)])
        self.fc = torch.nn.Linear(4, 2)

    def get_classifier(self) -> torch.nn.Module:
        return self.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.steps[0](self.downs[0](images))
        first.mul_(self.pos_embed)  # after steps.0, in the place of what that gave
        return self.fc(self.steps[1](self.downs[1](first)).mean((2, 3)))


def test_frozen_is_what_a_module_depends_on_not_what_is_listed_before() -> None:
    def frozen(last: str) -> set[str]:
        return {name.removesuffix(".weight") for name in taps.names_up_to(ListsLate(), last, 8)}

    before = {"downs.0", "downs.0.bias", "steps.0", "steps.0.bias"}
    assert frozen("steps.0") == before
    assert frozen("downs.1") == {*before, "pos_embed", "downs.1", "downs.1.bias"}
    for last in ("fc", "step"):
        with pytest.raises(UserError, match=rf"no module '{last}'; try .* \['downs', 'steps'\]"):
            frozen(last)


def test_embeddings_outside_of_layers_freeze_too() -> None:
    how = {"backbone": "test_vit", "batchnorm": "train", "freeze": "blocks.0"}
    settings = Model(**how, weights="none", features="last")
    model = build_model(settings, classes=3, fold=0)
    freeze(model, settings)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not {"pos_embed", "cls_token"} & trainable
    assert "blocks.1.attn.qkv.weight" in trainable


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_each_parameter_is_in_one_group(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    groups = parameter_groups(model, Train(head_lr_mult=7, layer_decay=0.5, weight_decay=0.1))
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {scale[id(p)] for p in model.get_classifier().parameters()} == {7}
    assert min(scale.values()) < 0.5, "layer decay reaches the stem"
    assert {decay[id(p)] for p in model.parameters() if p.ndim <= 1} == {0}


@pytest.mark.parametrize("reads", ["blocks", "last"])
def test_frozen_statistics_stay_while_weights_learn(reads: str) -> None:
    model = build_model(Model(**SMALL, features=reads), classes=3, fold=0)
    before_stats = statistics(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(parameter_groups(model, Train()), lr=0.1)
    train_mode(model, "frozen")
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(v, before_stats[name]) for name, v in statistics(model).items())
    moved = {name for name, p in model.named_parameters() if (p != before[name]).any()}
    assert any("bn1.weight" in name for name in moved), "scale and shift of BatchNorm still learn"
    assert any("conv_stem" in name for name in moved)
    train_mode(model, "train")
    model(torch.randn(4, 3, 32, 32))
    assert any((v != before_stats[name]).any() for name, v in statistics(model).items())


def test_thawing_starts_with_an_empty_optimizer_state() -> None:
    """Frozen weights get no decay and no moments; thawed ones are stepped like new ones."""
    model = build_model(Model(**SMALL), classes=3, fold=0)
    optimizer = torch.optim.AdamW(parameter_groups(model, Train(weight_decay=0.5)), lr=0.1)
    freeze(model, Model(**SMALL, freeze="backbone"))
    stem = model.backbone.conv_stem.weight
    start = stem.detach().clone()

    def step() -> None:
        train_mode(model, "frozen")
        optimizer.zero_grad()
        model(torch.randn(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        step()
    assert torch.equal(stem, start)
    assert stem not in optimizer.state
    assert optimizer.state[model.head.weight]["step"] == 3
    unfreeze(model, Model(**SMALL))
    step()
    assert not torch.equal(stem, start)
    assert optimizer.state[stem]["step"] == 1
    assert optimizer.state[model.head.weight]["step"] == 4


@pytest.mark.parametrize(
    ("backbone", "kernels"),
    [
        ("test_efficientnet", {"3.0.conv_dw", "3.0.bn2", "4.0.conv_dw", "4.0.bn2"}),
        ("test_convnext", {f"{i}.{k}.conv_dw" for i in range(4) for k in range((1, 2, 4, 2)[i])}),
    ],
)
def test_frozen_depthwise_kernels_stay_while_the_rest_learns(
    backbone: str, kernels: set[str]
) -> None:
    settings = Model(**{**SMALL, "backbone": backbone}).model_copy(update={"depthwise": "frozen"})
    model = build_model(settings, classes=3, fold=0)
    freeze(model, settings)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    layers = {".".join(name.replace(".blocks", "").split(".")[-4:-1]) for name in frozen}
    assert layers == kernels
    unfreeze(model, settings)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    unfreeze(model, settings.model_copy(update={"depthwise": "train"}))
    assert all(p.requires_grad for p in model.parameters())


class Neck(torch.nn.Sequential):
    """A head of a user's: one more depthwise convolution, and BatchNorm before the last layer."""

    def __init__(self, width: int, classes: int):
        norm, last = torch.nn.BatchNorm1d(width), torch.nn.Linear(width, classes)
        depthwise = torch.nn.Conv2d(width, width, 1, groups=width)
        super().__init__(depthwise, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), norm, last)


def test_a_new_head_is_not_frozen_with_its_backbone() -> None:
    settings = Model(**SMALL, features="last").model_copy(update={"depthwise": "frozen"})
    model = build_model(settings, classes=3, fold=0, own=Neck)
    freeze(model, settings)
    assert all(p.requires_grad for p in model.head.parameters())
    assert not model.backbone.blocks[3][0].conv_dw.weight.requires_grad
    train_mode(model, "frozen")
    assert training_norms(model) == [model.head[3]]
    before = statistics(model)
    model(torch.randn(4, 3, 32, 32))
    moved = {name for name, v in statistics(model).items() if (v != before[name]).any()}
    assert moved == {"head.3.running_mean", "head.3.running_var"}


def test_what_lies_between_the_last_map_and_a_new_head_is_frozen() -> None:
    """DDP waits for the gradient of each parameter that trains, and this norm gets none."""
    how = {**SMALL, "backbone": "test_convnext", "features": "last", "head_init": "random"}
    settings = Model(**how, classifier="Neck")
    model = build_model(settings, classes=3, fold=0, own=Neck)
    freeze(model, settings)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    untrained = dict(model.named_parameters()).keys() - trained
    assert untrained == {"backbone.head.norm.weight", "backbone.head.norm.bias"}


@pytest.mark.parametrize("reads", ["blocks", "last"])
def test_saved_weights_come_back(reads: str, tmp_path: Path) -> None:
    settings = Model(**SMALL, features=reads)
    model = build_model(settings, classes=3, fold=0).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    facts = {"classes": ["a", "b", "c"], "model": settings.model_dump(by_alias=True)}
    records.commit(path, {}, time.monotonic(), digest=records.file_digest(path), **facts)
    loaded, record = load_model(path)
    assert record["classes"] == ["a", "b", "c"]
    torch.testing.assert_close(loaded(images), expected, rtol=0, atol=1e-5)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match="damaged copy"):
        load_model(path)


def test_shared_modules_are_saved_under_each_name(tmp_path: Path) -> None:
    """CoaT's: safetensors refuses two names of the same memory."""
    layer, path = torch.nn.Linear(2, 3), tmp_path / "model.safetensors"
    net = torch.nn.Sequential(layer, layer)
    net.get_classifier = torch.nn.Identity
    save_weights(net, path)
    saved = load_file(path)
    assert saved.keys() == net.state_dict().keys()
    assert torch.equal(saved["0.weight"], saved["1.weight"])
    assert backbone_digest(net)


def test_several_last_maps_are_no_users_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    net = timm.create_model("test_resnet")
    monkeypatch.setattr(net, "forward_features", lambda x: [x, x])
    with pytest.raises(UserError, match=r"^model.classifier: a ResNet has several last maps; set"):
        taps.behind_last_map(net, 32)


def vit(size: int, weights: str = "none") -> Model:
    """Of 80 px and patches of 16, built for another size."""
    return Model(backbone="test_vit3", size=size, weights=weights, batchnorm="train")


def finish(model: torch.nn.Module, settings: Model, path: Path) -> None:
    """Save it with all that a record must tell to build it again."""
    save_weights(model, path)
    facts = {
        "classes": ["a", "b", "c"],
        "model": settings.model_dump(by_alias=True),
        "taps": model.taps,
    }
    facts |= {"preprocessing": preprocessing(model, settings)}
    facts |= {"arguments": layout(settings).arguments, "digest": records.file_digest(path)}
    records.commit(path, {"folds": None}, 0.0, **facts)


@pytest.mark.parametrize("source", ["run", "file", "hub"])
@pytest.mark.parametrize("sizes", [(48, 96), (80, 96), (96, 80)])
def test_first_weights_are_made_to_fit_the_size(
    source: str, sizes: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positions are resampled, all else stays: from a run, a path, and kept weights."""
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    old, new = sizes
    first = build_backbone(vit(old), 0)
    weights = {"run": f"run:{tmp_path}", "file": str(tmp_path / "x.safetensors"), "hub": "hub"}
    settings = vit(new, weights[source])
    if source == "run":
        model = BlockHead(first, 3, 0.0, *layout(vit(old))[1:3])
        finish(model, vit(old), tmp_path / "fold0" / "model.safetensors")
    else:
        path = kept_weights(settings) if source == "hub" else Path(settings.weights)
        save_weights(first, path)
    before, after = first.state_dict(), build_backbone(settings, 0).state_dict()
    assert before.pop("pos_embed").shape != after.pop("pos_embed").shape
    assert {name for name in before if not torch.equal(before[name], after[name])} == set()


def test_windows_that_grow_with_the_pictures_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model would be trained in windows other than those that it is loaded with."""
    tiny = {"depths": (1, 1), "embed_dim": 12, "num_heads": (1, 2)}
    monkeypatch.setattr("timm.create_model", partial(timm.create_model, **tiny))
    how = {"backbone": "swinv2_small_window8_256", "features": "last", "batchnorm": "train"}
    old = Model(**how, weights="none", size=64)
    path = tmp_path / "fold0" / "model.safetensors"
    model = build_model(old, 3, 0)
    model.taps = None
    finish(model, old, path)
    first = {"weights": f"run:{tmp_path}"}
    build_backbone(old.model_copy(update=first), 0)
    with pytest.raises(UserError, match=f"^model.weights: {path} is made for 64 px: set size: 64"):
        build_backbone(old.model_copy(update={**first, "size": 128}), 0)


@pytest.mark.parametrize("damage", [b"", b"cut", b"\xff" * 64])
def test_damaged_weights_are_one_line_that_names_the_file(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    kept = Model(backbone="test_resnet", weights="hub", size=32)
    path = kept_weights(kept)
    run = tmp_path / "fold0" / "model.safetensors"
    finish(build_model(vit(80), 3, 0), vit(80), run)
    for file in (path, run):
        file.write_bytes(damage)
    with pytest.raises(UserError, match=rf"{path} does not fit test_resnet: .*; delete it$"):
        build_backbone(kept, 0)
    with pytest.raises(UserError, match=rf"{path} does not fit test_resnet: .*; set model.weights"):
        build_backbone(kept.model_copy(update={"weights": str(path)}), 0)
    loads = (lambda: load_model(run), lambda: build_backbone(vit(80, f"run:{tmp_path}"), 0))
    for load in loads:
        with pytest.raises(UserError, match=f"^{run}: not the weights that its record describes"):
            load()
    record = records.load(run) | {"digest": records.file_digest(run)}
    records.write_json(records.record_path(run), record)
    for load in loads:
        with pytest.raises(UserError, match=f"^{run}: not a file of weights .*damaged copy"):
            load()


def test_a_layer_that_a_file_lacks_before_the_last_that_is_read_is_missed(tmp_path: Path) -> None:
    """Behind it, it is one that another timm takes away; there it would do nothing, in silence."""
    path = tmp_path / "fold0" / "model.safetensors"
    model = build_model(Model(**SMALL), 3, 0)
    model.backbone.blocks[1][0].conv_exp = torch.nn.Identity()
    finish(model, Model(**SMALL), path)
    begun = Model(**SMALL | {"weights": f"run:{tmp_path}"})
    for load in (lambda: load_model(path), lambda: build_backbone(begun, 0)):
        with pytest.raises(UserError, match=f"^{path}: not the model .*conv_exp.weight is missing"):
            load()


def test_a_lack_of_memory_is_no_damage(tmp_path: Path) -> None:
    """Whoever was told so of good weights was told to delete them."""
    for reader in (as_recorded(tmp_path), pretrained("x does not fit y", "delete it")):
        with pytest.raises(RuntimeError, match="can't allocate"), reader:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")


def test_weights_of_another_net_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "fold0" / "model.safetensors"
    finish(build_model(vit(80), 3, 0), vit(80), path)
    record = records.load(path)
    record["model"]["backbone"] = "test_vit"
    records.write_json(records.record_path(path), record)
    other = vit(80, f"run:{tmp_path}").model_copy(update={"backbone": "test_vit"})
    for load in (lambda: load_model(path), lambda: build_backbone(other, 0)):
        with pytest.raises(UserError, match=f"^{path}: not the model that its record [^\n]*$"):
            load()


def test_a_vits_embeddings_do_not_decay_and_a_cnns_groups_are_as_they_were() -> None:
    """Decay would draw the positions to zero; timm's `no_weight_decay` names them."""
    model = timm.create_model("test_vit")
    groups = parameter_groups(model, Train(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    spared = [n for n, p in model.named_parameters() if p.ndim > 1 and not decay[id(p)]]
    assert spared == ["cls_token", "pos_embed"]
    assert not hasattr(timm.create_model("tf_efficientnet_lite0"), "no_weight_decay")


def test_preprocessing_is_the_backbones_own() -> None:
    settings = Model(backbone="tf_efficientnet_lite0", size=128)
    facts = preprocessing(timm.create_model(settings.backbone), settings)
    assert facts["mean"] == [0.5, 0.5, 0.5]
    assert facts["interpolation"] == "bicubic"
    assert facts["size"] == 128


def test_pypi_weights_are_real(tmp_path: Path) -> None:
    """Every tensor but the new head is the package's own."""
    settings = Model(size=224, features="last")
    model = build_model(settings, classes=5, fold=0)
    package = importlib.util.find_spec(PYPI[settings.backbone])
    state = torch.load(next(Path(package.origin).parent.glob("models/*.pth")), weights_only=True)
    own = model.state_dict()
    assert len(own) == len(state)
    pairs = list(zip(own.items(), state.values(), strict=True))[:-2]
    assert all(torch.equal(value, source) for (_, value), source in pairs)
    assert own["classifier.weight"].shape == (5, 1280)


@pytest.mark.parametrize("classes", [1000, 7, 0])
def test_local_file_as_weights(classes: int, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = timm.create_model("test_resnet", num_classes=classes)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    settings = Model(backbone="test_resnet", weights=str(tmp_path / "w.safetensors"), size=32)
    model = build_model(settings, classes=4, fold=0)
    assert torch.equal(model.backbone.conv1[0].weight, source.conv1[0].weight)
    assert model.get_classifier().out_features == 4
    other = settings.model_copy(update={"backbone": "test_efficientnet"})
    with pytest.raises(UserError, match=r"w.safetensors does not fit test_efficientnet") as error:
        build_model(other, classes=4, fold=0)
    assert "\n" not in str(error.value)


def test_a_file_of_which_nothing_arrives_is_refused(tmp_path: Path) -> None:
    """timm loads a DLA non-strictly: it would stay as it was drawn, without a word."""
    path = tmp_path / "w.safetensors"
    save_weights(torch.nn.Linear(2, 2), path)
    settings = Model(backbone="dla46_c", weights=str(path), size=64, features="last")
    with pytest.raises(UserError, match=r"w.safetensors does not fit dla46_c: .*none of its names"):
        build_backbone(settings, 0)


def test_a_model_of_ours_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = build_model(vit(80), 3, 0)
    finish(model, vit(80), path)
    begun = build_backbone(vit(80, str(path)), 0).state_dict()
    assert all(torch.equal(begun[k], v) for k, v in model.backbone.state_dict().items())


def test_a_run_without_the_fold_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model.weights: run:\S+ has no finished fold \(.*fold1"):
        build_backbone(vit(80, f"run:{tmp_path}"), 1)


@pytest.mark.parametrize(
    ("backbone", "weights", "said"),
    [
        ("test_resnet", "pypi", "pypi has none for 'test_resnet'"),
        ("test_resnett", "pypi", "timm has no 'test_resnett'"),
    ],
)
def test_weights_that_cannot_be_had(backbone: str, weights: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_model(Model(backbone=backbone, weights=weights, size=32), classes=2, fold=0)


def test_failed_download_names_the_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def no_network(name: str, pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        if pretrained:
            raise OSError("no route to the hub")
        return create(name, **kwargs)

    monkeypatch.setattr("pipeline.model.backbone.timm.create_model", no_network)
    with pytest.raises(UserError) as error:
        build_model(Model(backbone="test_resnet", weights="hub", size=32), classes=2, fold=0)
    assert "\n" not in str(error.value)
    for word in ("no route to the hub", "a path", "run:NAME", "pypi", "none"):
        assert word in str(error.value)
    assert ", hub" not in str(error.value), "what failed is no way out"


def test_a_timm_that_cuts_and_groups_otherwise_loads_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kaggle's 1.0.26: it keeps conv_head, and counts it to the last block."""
    path, backbone = tmp_path / "model.safetensors", timm.create_model("test_efficientnet")
    model = BlockHead(backbone, 2).eval()
    save_weights(model, path)
    facts = {"model": {"backbone": "test_efficientnet", "reads": "blocks"}, "taps": model.taps}
    facts |= {"classes": ["a", "b"], "digest": records.file_digest(path)}
    records.commit(path, {}, 0.0, **facts)
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    monkeypatch.setattr(type(backbone), "prune_intermediate_layers", lambda *_, **__: None)
    monkeypatch.setattr(taps, "blocks", lambda *_: ["blocks.0"])
    assert "conv_head.weight" in timm.create_model("test_efficientnet").state_dict()
    torch.testing.assert_close(load_model(path)[0](images), expected)


def test_a_model_of_a_timm_that_cuts_less_is_the_same_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All folds that Kaggle's 1.0.26 trains hold conv_head and bn2; what else they hold counts."""
    path = tmp_path / "fold0" / "model.safetensors"
    settings = Model(backbone="test_efficientnet", weights="none", size=64, batchnorm="train")
    layout(settings)
    with monkeypatch.context() as patch:
        kind = type(timm.create_model("test_efficientnet"))
        patch.setattr(kind, "prune_intermediate_layers", lambda *_, **__: None)
        model = build_model(settings, 3, 0).eval()
    finish(model, settings, path)
    assert "backbone.conv_head.weight" in model.state_dict()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(load_model(path)[0](images), model(images))
    begun = build_backbone(settings.model_copy(update={"weights": f"run:{tmp_path}"}), 0)
    assert torch.equal(begun.conv_stem.weight, model.backbone.conv_stem.weight)
    model.backbone.blocks.register_buffer("more", torch.zeros(1))
    finish(model, settings, path)
    with pytest.raises(UserError, match="not the model that its record describes"):
        load_model(path)


def test_a_parameter_of_the_net_itself_that_a_file_lacks_stays() -> None:
    net = timm.create_model("test_vit")
    state = {f"backbone.{name}": value for name, value in net.state_dict().items()}
    del state["backbone.cls_token"]
    fit_end(net, state, "backbone.")
    assert state["backbone.cls_token"] is not None
    assert len(net.blocks) == 6


def test_a_net_that_an_older_timm_cannot_cut_loses_its_classifier() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    net.reset_classifier = lambda classes: net.append(torch.nn.Linear(2, classes + 1))
    taps.cut_head(net, {"0": 2})
    assert len(net) == 2
    with pytest.raises(AttributeError):
        taps.cut_head(net)  # no choice of taps differs from before


@pytest.mark.parametrize(("name", "custom"), [("x.safetensors", False), ("x.npz", True)])
def test_a_vit_of_a_file_is_no_npz_but_by_its_name(
    name: str, custom: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm before 1.0.30 read every file of an old ViT as JAX's: none of our weights fitted."""
    asked, path, create = {}, tmp_path / name, timm.create_model
    settings = Model(backbone="test_vit", weights=str(path), features="last")
    layout(settings)
    save_weights(create("test_vit"), path)

    def ask(name: str, pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        asked.update(kwargs)
        torch.rand(int(pretrained))  # other weights than those that are drawn
        return create(name)

    monkeypatch.setattr("timm.create_model", ask)
    build_backbone(settings, 0)
    overlay = asked["pretrained_cfg_overlay"]
    assert (overlay["file"], overlay["custom_load"]) == (str(path), custom)


def test_a_net_without_stochastic_depth_is_built_and_asked_for_none() -> None:
    settings = Model(backbone="ghostnet_050", weights="none", batchnorm="train", size=64)
    assert build_model(settings, 3, 0)(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    deep = settings.model_copy(update={"drop_path_rate": 0.1})
    with pytest.raises(UserError, match=r"^model.drop_path_rate: ghostnet_050 has none; set it"):
        layout(deep)
    resnet = Model(backbone="test_resnet", weights="none", batchnorm="train", drop_path_rate=0.1)
    assert any("DropPath" in type(m).__name__ for m in build_model(resnet, 3, 0).modules())


def test_no_stochastic_depth_but_what_is_set() -> None:
    """A Swin has a rate of its own: two pictures may lose a whole block's gradient."""
    for rate in (0.0, 0.3):
        swin = Model(
            backbone="swin_tiny_patch4_window7_224",
            weights="none",
            batchnorm="train",
            size=32,
            drop_path_rate=rate,
        )
        with torch.device("meta"):
            model = build_model(swin, 3, 0)
        rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
        assert max(rates, default=0.0) == pytest.approx(rate)
