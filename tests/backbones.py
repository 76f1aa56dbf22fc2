"""Takes backbones of all families through the real stages with the default recipe.

reads   nothing: a small competition is drawn, weights are random
writes  docs/backbones.md with --write, row by row; else into a temporary folder only
run     python -m tests.backbones [NAME ...] [--size 96] [--write]

Of each, what tests/backbone_checks.py asks; a size that it cannot take is refused before `prepare`;
one fold is trained to its first epoch, resumed to the second and predicted. Each is in a process of
its own: what crashes in PyTorch is a row, not the end.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from safetensors.torch import load_file

from pipeline import prepare
from pipeline.base import records
from pipeline.base.cli import UserError, run_stage, say, short
from pipeline.base.config import Model, Runtime, load_experiment, own_size, root
from pipeline.base.device import make_accelerator
from pipeline.base.libc import cores
from pipeline.demo import draw_competition
from pipeline.model.backbone import layout
from pipeline.model.taps import END
from tests.backbone_checks import check_model, check_stages, elsewhere, experiment

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
caformer_s18 poolformer_s12 rdnet_tiny efficientformer_l1 crossvit_tiny_240 vgg11_bn
hrnet_w18_small
""".split()  # noqa: SIM905
LONGEST = 1200  # s, of one backbone
PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
WRITTEN = "Written by `python -m tests.backbones --write`"  # with it the page's table begins
COLUMNS = ("family", "model", "works", "size", "reads", "width", "parameters", "seconds")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="default: one of each family")] = None,
    size: Annotated[int, typer.Option(help="px")] = 96,
    write: Annotated[bool, typer.Option("--write", help="docs/backbones.md")] = False,
    row: Annotated[Path | None, typer.Option(hidden=True, help="of one, found here")] = None,
) -> None:
    if names and row:
        records.write_json(row, examine(names[0], size, row.parent))
        return
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names or SMALLEST:
            found = examine_apart(name, size, Path(folder) / name)
            say("backbones", " · ".join(found.values()))
            failed += [name] * (found["works"] != "yes")
            if write:
                write_row(found, size)
    if failed:
        raise UserError(f"{len(failed)} failed: {', '.join(failed)}")


def examine_apart(name: str, size: int, folder: Path) -> dict[str, str]:
    """A row of the table, found in a process of its own, whatever becomes of that."""
    started, out = time.monotonic(), folder / "row.json"
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "tests.backbones",
        name,
        "--size",
        str(size),
        "--row",
        str(out),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        last = last.replace(f"{folder}/", "").replace("|", "/")
        works = f"no: {short(last, 150)}"
        if done.returncode < 0:
            works = f"crashes in PyTorch ({signal.Signals(-done.returncode).name})"
    except subprocess.TimeoutExpired:
        works = f"not in {LONGEST} s"
    found = records.read_json(out) if out.exists() else {"works": works}
    family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    seconds = f"{time.monotonic() - started:.0f}"
    return {"family": family, "model": f"`{name}`", **found, "seconds": seconds}


def write_row(row: dict[str, str], size: int) -> None:
    """Put it into the page's table, in the place of the model's former one."""
    prose, _, table = PAGE.read_text().partition(WRITTEN)
    lines = {line.split("|")[2].strip(): line for line in table.splitlines() if "| `" in line}
    lines[row["model"]] = line_of([row.get(column, "") for column in COLUMNS])
    order = {f"`{name}`": place for place, name in enumerate(SMALLEST)}
    known = [lines[name] for name in sorted(lines, key=lambda name: order.get(name, len(order)))]
    precision = make_accelerator(Runtime()).mixed_precision
    how = f"({size} px; timm {timm.__version__}, torch {torch.__version__.partition('+')[0]}, "
    how += f"{cores()} cores, precision {precision}).\n"
    head = [line_of(COLUMNS), line_of(["---"] * len(COLUMNS))]
    with records.writing(PAGE) as tmp:
        tmp.write_text("\n".join([f"{prose}{WRITTEN}\n{how}", *head, *known]) + "\n")


def line_of(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def examine(name: str, size: int, home: Path) -> dict[str, str]:
    """What the table says. Raises an error of any kind where something does not hold."""
    for folder in ("data", "runs", "folds", "labels", "submissions", "weights"):
        os.environ[f"{folder.upper()}_DIR"] = str(home / folder)
    draw_competition(home / "data" / "demo", train=36, test=6, species=3, size=64, workers=1)
    takes = str(size)
    try:
        found = layout(Model(backbone=name, size=size))
    except UserError:
        check_refused(experiment(home, name, size, {}))
        size, takes = own_size(name), f"{own_size(name)} only"
        found = layout(Model(backbone=name, size=size))
    path = experiment(home, name, size, found.arguments)
    with elsewhere() as pool:
        check_model(load_experiment(path).model, home / "model.safetensors", pool)
    check_stages(path)
    weights = load_file(home / "first.safetensors")
    return {
        "works": "yes",
        "size": takes + " (built for it)" * bool(found.arguments),
        "reads": "its end" if END in found.taps else f"{len(found.taps)} blocks",
        "width": f"{sum(found.taps.values()):,}",
        "parameters": f"{sum(v.numel() for v in weights.values()) / 1e6:.1f} M",
    }


def check_refused(path: str) -> None:
    """A size that it cannot take is one line, before any picture is read."""
    try:
        prepare.main(path)
    except UserError as error:
        assert str(error).startswith("model.size: "), error
        assert "\n" not in str(error), error
        assert not [*root("runs").rglob("pixels.npy")]
    else:
        raise AssertionError("prepare took the size")


if __name__ == "__main__":
    sys.argv[0] = "backbones"
    run_stage(main)
