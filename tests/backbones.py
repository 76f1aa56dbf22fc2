"""Takes backbones of all families through the real stages with the default recipe.

reads   nothing: a small competition is drawn, weights are random
writes  docs/backbones.md with --write; else into a temporary folder only
run     python -m tests.backbones [NAME ...] [--size 96] [--write]

Of each: every parameter that trains gets a gradient, what is saved answers alike when it is loaded,
rates fall towards the stem by layer decay, half of it freezes, and one fold is trained to its first
epoch, resumed to the second and predicted.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
import yaml
from safetensors.torch import save_file

from pipeline import predict, prepare, train
from pipeline.base.cli import Exit, UserError, run_stage, say, short
from pipeline.base.config import Model, Runtime, Train, load_experiment
from pipeline.base.device import make_accelerator
from pipeline.base.libc import cores
from pipeline.base.runs import model_path, prediction_path
from pipeline.demo import draw_competition
from pipeline.folds import main as cut_folds
from pipeline.inference.predictions import Predictions
from pipeline.model.backbone import layout
from pipeline.model.build import body, build_model, load_model, save_weights
from pipeline.model.freeze import freeze
from pipeline.training.optim import parameter_groups

SMALLEST = """
resnet10t resnet18d resnext26ts seresnext26t_32x4d res2net50_26w_4s regnetx_002 densenet121 dla34
efficientnet_b0 tf_efficientnetv2_b0 tf_efficientnet_lite0 mobilenetv3_small_050
mobilenetv4_conv_small_050 ghostnet_050 repvit_m0_9 mobileone_s0 fastvit_t8 hgnetv2_b0 nf_regnet_b0
eca_nfnet_l0 convnext_atto convnextv2_atto inception_next_atto edgenext_xx_small starnet_s1
vit_tiny_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224 vit_small_patch14_dinov2
vit_small_patch16_dinov3 eva02_tiny_patch14_224 beit_base_patch16_224 swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 hiera_tiny_224 xcit_nano_12_p16_224 mixer_s32_224 levit_128s volo_d1_224
maxvit_rmlp_pico_rw_256 coatnet_pico_rw_224 mobilevit_xxs efficientvit_b0 tiny_vit_5m_224
davit_tiny focalnet_tiny_srf gcvit_xxtiny pvt_v2_b0 mvitv2_tiny twins_svt_small nest_tiny
caformer_s18 poolformer_s12 rdnet_tiny crossvit_tiny_240 vgg11_bn
""".split()  # noqa: SIM905
HEAD = """# Backbones

Families of timm at their smallest, random weights, pictures of {size} px, the default recipe: read
at its blocks, gradients checked, frozen, saved, loaded, one fold trained, resumed and predicted.
Written by `python -m tests.backbones --write` (timm {timm}, torch {torch}, {cores} cores, precision
{precision}). *Width*: numbers that the head reads. *Seconds*: all of that.

| backbone | parameters | reads | width | another size than its own | seconds |
|---|---|---|---|---|---|
"""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="default: one of each family")] = None,
    size: Annotated[int, typer.Option(help="px")] = 96,
    write: Annotated[bool, typer.Option("--write", help="docs/backbones.md")] = False,
) -> None:
    home, found, failed = Path(tempfile.mkdtemp()), [], []
    page = Path("docs/backbones.md").resolve()
    enter(home)
    draw_competition(home / "data" / "demo", train=36, test=6, species=3, size=64, workers=1)
    for name in names or SMALLEST:
        started = time.monotonic()
        try:
            row = examine(name, size, home)
        except Exception as error:  # the next one may do
            failed.append(name)
            row = {"width": f"**failed**: {short(f'{type(error).__name__}: {error}')}"}
        row = {"name": f"`{name}`", **row, "seconds": f"{time.monotonic() - started:.0f}"}
        found.append(row)
        say("backbones", " · ".join(row.values()))
    if write:
        page.write_text(head_of(size) + "\n".join(map(line, found)) + "\n")
    if failed:
        raise UserError(f"{len(failed)} of {len(found)} failed: {', '.join(failed)}")


def enter(home: Path) -> None:
    for root in ("data", "runs", "folds", "labels", "submissions", "weights"):
        os.environ[f"{root.upper()}_DIR"] = str(home / root)


def line(row: dict[str, str]) -> str:
    cells = ("name", "parameters", "reads", "width", "size", "seconds")
    return "| " + " | ".join(row.get(cell, "") for cell in cells) + " |"


def head_of(size: int) -> str:
    precision = make_accelerator(Runtime()).mixed_precision
    versions = {"timm": timm.__version__, "torch": torch.__version__}
    return HEAD.format(size=size, cores=cores(), precision=precision, **versions)


def examine(name: str, size: int, home: Path) -> dict[str, str]:
    """One line of the table. Raises an error of any kind where something does not hold."""
    own = timm.get_pretrained_cfg(name).input_size[-1]
    takes, features = f"{size} px", "blocks"
    try:
        layout(Model(backbone=name, size=size))
    except UserError as error:
        if "model.features" in str(error):
            features = "last"
        else:
            size, takes = own, f"no, {own} px only"
    weights = home / f"{name}.safetensors"
    arguments = layout(Model(backbone=name, size=size, features=features)).arguments
    first = timm.create_model(name, **arguments)
    save_file({key: value.contiguous() for key, value in first.state_dict().items()}, weights)
    model = {"backbone": name, "weights": str(weights), "size": size, "features": features}
    path = home / f"{name.replace('.', '-')}.yaml"
    path.write_text(yaml.safe_dump(settings(model)))
    built = check_model(load_experiment(str(path)).model)
    check_stages(str(path))
    taps = getattr(built, "taps", None)
    return {
        "parameters": f"{sum(p.numel() for p in first.parameters()) / 1e6:.1f} M",
        "reads": f"{len(taps)} blocks" if taps else "its end only",
        "width": f"{built.get_classifier().in_features:,}",
        "size": takes,
    }


def settings(model: dict[str, Any]) -> dict[str, Any]:
    return {
        "competition": "demo",
        "folds": {"n": 2},
        "model": model,
        "train": {"epochs": 2, "batch_size": 8},
    }


def check_model(how: Model) -> torch.nn.Module:
    model = build_model(how, 3, 0)
    freeze(model, how)
    with torch.no_grad():  # gains that begin at zero would keep all before them from a gradient
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    images = torch.randn(2, 3, how.size, how.size)
    model.eval()(images).square().sum().backward()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    if bare := [key for key, p in trained.items() if p.grad is None or not p.grad.any()]:
        raise AssertionError(f"no gradient: {bare[:3]}")
    scales = {id(p): g["lr_scale"] for g in groups_of(model) for p in g["params"]}
    inner = [scales[id(p)] for p in body(model).parameters() if id(p) in scales and p.ndim > 1]
    assert min(inner[:4]) < max(inner[-4:]), f"layer decay: {inner[:4]} ... {inner[-4:]}"
    stages = [key for key, _ in body(model).named_children()]
    half = Model(**{**how.model_dump(), "freeze": stages[len(stages) // 2 - 1]})
    freeze(model, half)
    still = sum(p.requires_grad for p in model.parameters())
    assert 0 < still < len(trained), "freezing half of it"
    return model


def groups_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    return parameter_groups(model, Train(layer_decay=0.5))


def check_stages(experiment: str) -> None:
    prepare.main(experiment)
    cut_folds(experiment)
    for hours, code in ((0.0, Exit.PAUSED), (float("inf"), 0)):
        try:
            train.main(experiment, fold=[0], hours=hours)
            ended = 0
        except SystemExit as end:
            ended = end.code
        assert ended == code, f"training ended with {ended}"
    predict.main(experiment, fold=[0])
    run = Path(experiment).stem
    model, record = load_model(model_path(run, 0))
    assert record["scores"]["epoch"] == 2
    prob = Predictions.load(prediction_path(run, 0, "test", "none")).prob
    assert prob.shape == (6, 3) and abs(prob.sum(1) - 1).max() < 1e-4
    again = Path(experiment).with_suffix(".again.safetensors")
    save_weights(model, again)
    assert again.read_bytes() == model_path(run, 0).read_bytes(), "another model when loaded"


if __name__ == "__main__":
    sys.argv[0] = "backbones"
    run_stage(main)
