"""Plants one defect after another in a copy of the code; each must turn its tests red.

reads   pipeline/, tests/ and docs/, of which it makes a copy
run     python -m tests.mutations [--only resume]

A defect is (name, file, a line's text, its replacement, tests). Text that does not stand exactly
once means that the code has moved on and the list must follow.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from pipeline.base.cli import UserError, run_stage, say

ROOT = Path(__file__).parents[1]


class Defect(NamedTuple):
    name: str
    file: str  # below pipeline/
    old: str
    new: str
    tests: str


DEFECTS = [
    Defect(
        "classes reversed in predict",
        "predict.py",
        'Predictions(list(chosen.id), self.record["classes"], prob, kind',
        'Predictions(list(chosen.id), self.record["classes"][::-1], prob, kind',
        "test_predict.py",
    ),
    Defect(
        "normalisation shift dropped",
        "inference/predictor.py",
        "images.add_(self.shift)",
        "images",
        "test_predict.py",
    ),
    Defect(
        "twins leaked",
        "folds.py",
        "twin_groups(list(train.hash),",
        "twin_groups(list(train.id),",
        "test_folds.py",
    ),
    Defect(
        "resumed an epoch too far",
        "training/checkpoint.py",
        'trainer.epoch, trainer.log = state["epoch"], state["log"]',
        'trainer.epoch, trainer.log = state["epoch"] + 1, state["log"]',
        "test_train.py",
    ),
    Defect(
        "the finished model's size forgotten by a resume",
        "training/checkpoint.py",
        'state.get("preprocessing", trainer.preprocessing)',
        "trainer.preprocessing",
        "test_train.py",
    ),
    Defect(
        "a trained head as it was beside one for larger pictures",
        "training/head_end.py",
        "if now.size != before.size:",
        "if now.size < before.size:",
        "test_head.py",
    ),
    Defect(
        "mixing ends an epoch late",
        "data/mix.py",
        "epochs - settings.off_epochs",
        "epochs - settings.off_epochs + 1",
        "test_mix.py",
    ),
    Defect(
        "a wrong diagonal view",
        "inference/tta.py",
        "partial(dihedral, turns=t, flip=t % 2 == 1)",
        "partial(dihedral, turns=t, flip=t % 2 == 0)",
        "test_tta.py",
    ),
    Defect(
        "averaged weights not saved",
        "training/trainer.py",
        "return self.ema.module if self.ema else",
        "return self.ema.module if False else",
        "test_train.py",
    ),
    Defect(
        "test mean of fold 0 alone",
        "inference/blending.py",
        "[np.mean(folds, axis=0) for folds in runs]",
        "[folds[0] for folds in runs]",
        "test_ensemble.py",
    ),
    Defect(
        "logits averaged",
        "inference/predictor.py",
        "torch.stack([self.answer(one) for one in logits]).mean(0)",
        "self.answer(torch.stack(logits).mean(0))",
        "test_predict.py",
    ),
    Defect(
        "out-of-fold of training rows",
        "predict.py",
        "table.image[table.fold == k]",
        "table.image[table.fold != k]",
        "test_predict.py",
    ),
    Defect(
        "head_lr_mult ignored",
        "training/optim.py",
        '"lr_scale": settings.head_lr_mult',
        '"lr_scale": 1.0',
        "test_model.py",
    ),
    Defect(
        "frozen BatchNorm trains",
        "model/freeze.py",
        'if batchnorm == "frozen" or',
        'if batchnorm == "never" or',
        "test_model.py",
    ),
    Defect(
        "the notebook ignores weights",
        "kaggle/notebook/models.py",
        "[share[run] for run in found]",
        "[1 for run in found]",
        "test_submit_session.py test_bundle.py",
    ),
    Defect(
        "a cosine that ends above 0",
        "training/optim.py",
        "warmup_prefix=True,",
        "warmup_prefix=True,\n        lr_min=settings.lr / 10,",
        "test_model.py test_train.py",
    ),
    Defect(
        "a flip in validation",
        "inference/tta.py",
        '"none": [partial(dihedral, turns=0, flip=False)]',
        '"none": [partial(dihedral, turns=0, flip=True)]',
        "test_tta.py test_predict.py",
    ),
    Defect(
        "fold left out of the seed",
        "training/trainer.py",
        'derive_seed(settings.train.seed, "fold", fold)',
        'derive_seed(settings.train.seed, "fold", 0)',
        "test_train.py",
    ),
    Defect(
        "a class's name is markup in a page",
        "pages/page.py",
        "autoescape=True",
        "autoescape=False",
        "test_page.py",
    ),
    Defect(
        "the report is written again and again",
        "pages/compose.py",
        "return blend is not None and records.is_current(report_path(name), key_of(blend))",
        "return False",
        "test_report.py",
    ),
    Defect(
        "a table of the report sorts numbers as text",
        "pages/report.js",
        "return a - b;",
        "return a.localeCompare(b);",
        "test_report_browser.py",
    ),
    Defect(
        "a picture asks the network",
        "pages/report.js",
        "src = sources[frame.dataset.key]",
        'src = "https://example.org/" + frame.dataset.key',
        "test_report_browser.py",
    ),
    Defect(
        "calibration without the bins' sizes",
        "inference/reliability.py",
        "np.sum(self.n * np.abs(self.confidence - self.accuracy)) / self.n.sum()",
        "np.mean(np.abs(self.confidence - self.accuracy))",
        "test_calibration.py",
    ),
    Defect(
        "the ceiling counts the rarest label",
        "analysis/classes.py",
        "counts.groupby(level=0).max()",
        "counts.groupby(level=0).min()",
        "test_classes.py",
    ),
    Defect(
        "evidence shows another picture",
        "analysis/evidence.py",
        "return np.array([where[image] for image in images], dtype=int)",
        "return np.array([where[image] for image in images][::-1], dtype=int)",
        "test_evidence.py",
    ),
    Defect(
        "compare: twins count twice",
        "analysis/paired.py",
        "group = pd.factorize(np.asarray(groups))[0]",
        "group = np.arange(len(np.asarray(groups)))",
        "test_paired.py",
    ),
    Defect(
        "compare: the first run wins what the second does",
        "analysis/paired.py",
        "won, lost = int((b.errors < a.errors).sum())",
        "lost, won = int((b.errors < a.errors).sum())",
        "test_paired.py",
    ),
    Defect(
        "compare: one luck moves the offset",
        "analysis/leaderboard.py",
        "offset = float(np.median(away))",
        "offset = float(np.mean(away))",
        "test_leaderboard.py",
    ),
    Defect(
        "compare: a forecast knows the runs' strength",
        "analysis/leaderboard.py",
        "return self.covariance * (1 + self.rows / rows)",
        "return self.covariance * (0.01 * self.rows / rows)",
        "test_leaderboard.py",
    ),
    Defect(
        "compare: what two differ by is worth nothing",
        "analysis/leaderboard.py",
        " + spread * norm.pdf(alpha)",
        "",
        "test_leaderboard.py",
    ),
    Defect(
        "compare: rows that review touched are compared",
        "analysis/evidence.py",
        "kept = ~evidence.table.touched.to_numpy(bool)",
        "kept = np.ones(len(evidence.table), dtype=bool)",
        "test_compare.py",
    ),
    Defect(
        "attention looks at what speaks against",
        "inference/attention.py",
        "share = (slope * (x",
        "share = -(slope * (x",
        "test_attention.py",
    ),
    Defect(
        "curves are drawn after every epoch, however short",
        "figures/curves.py",
        "self.rested = now + (now - started) / SHARE",
        "self.rested = now",
        "test_curves.py",
    ),
    Defect(
        "a resumed fold sends its rows again",
        "training/tracker.py",
        "self.log, self.sent = log, len(log)",
        "self.log, self.sent = log, 0",
        "test_tracker.py",
    ),
    Defect(
        "a review click is answered before it is on the disk",
        "data/decisions.py",
        "            os.fsync(file.fileno())\n",
        "",
        "test_decisions.py",
    ),
    Defect(
        "a review click that is sent again counts twice",
        "data/decisions.py",
        'if line["click"] not in there]',
        'if line["click"]]',
        "test_decisions.py",
    ),
    Defect(
        "a review decision follows the id whatever the pixels",
        "data/decisions.py",
        'left_on=["id", "pixel_hash"], right_on=["id", "hash"]',
        'on="id"',
        "test_decisions.py",
    ),
    Defect(
        "a picture that review left out is trained on",
        "data/splits.py",
        "table = table[table.fold >= -1].reset_index(drop=True)",
        "table = table.reset_index(drop=True)",
        "test_decisions.py",
    ),
    Defect(
        "the review page answers without its token",
        "pages/server.py",
        "if known else PlainTextResponse(text, 403)",
        "if given else PlainTextResponse(text, 403)",
        "test_review.py",
    ),
    Defect(
        "the review page answers to any host",
        "pages/server.py",
        'hosts = ["127.0.0.1", "localhost"]',
        'hosts = ["*"]',
        "test_review.py",
    ),
    Defect(
        "a held key decides in the review again and again",
        "pages/review.js",
        "if (!event.repeat || ",
        "if (true || ",
        "test_review.py",
    ),
    Defect(
        "a key decides in the review what was shown before",
        "pages/review.js",
        "  shown = null; // no key acts on a picture that nobody sees yet\n",
        "",
        "test_review.py",
    ),
    Defect(
        "the review forgets what the server did not confirm",
        "pages/review.js",
        "  if (!problem || problem.status === 422) keep(",
        "  if (true) keep(",
        "test_review.py",
    ),
    Defect(
        "a folded norm keeps the statistics it had before training",
        "model/fused.py",
        "        norm.statistics = None  # its kernels tell nobody that they move them\n",
        "",
        "test_fused.py",
    ),
    Defect(
        "a recorded step filled up with pictures that move BatchNorm's statistics",
        "training/graph.py",
        "not training_norms(model)",
        "True",
        "test_graph.py",
    ),
    Defect(
        "a kernel's answers by TF32",
        "model/kernel.py",
        'torch.set_float32_matmul_precision("highest")',
        "pass",
        "test_kernel_ridge.py",
    ),
    Defect(
        "training takes a validation's kernels",
        "model/depthwise.py",
        "            conv.few = few\n",
        "            conv.few = True\n",
        "test_depthwise.py",
    ),
    Defect(
        "crops on a GPU half a pixel off",
        "data/canvas.py",
        "(left - 0.5 + wide / 2)",
        "(left + wide / 2)",
        "test_on_device.py",
    ),
    Defect(
        "other pictures mixed after a lack of memory",
        "training/parts.py",
        "np.random.set_state(drawn)",
        "np.random.set_state(np.random.get_state())",
        "test_train.py",
    ),
    Defect(
        "sides of maps read as channels",
        "model/pooling.py",
        "maps = is_grid(second, third) and not (is_grid(first, second) and channels_last)",
        "maps = not channels_last",
        "test_block_head.py",
    ),
    Defect(
        "the last block of a ViT is not read",
        "model/taps.py",
        "if not shared_name(owners[-1]):",
        "if owners is None:",
        "test_backbones.py",
    ),
    Defect(
        "stages wider than the bound are read",
        "model/taps.py",
        "if not taps or sum(taps.values()) + coarse[name] <= MAX_WIDTH:",
        "if taps is not None:",
        "test_block_head.py",
    ),
    Defect(
        "averaged weights are judged as they were",
        "inference/predictor.py",
        "model.train().eval(), preprocessing",
        "model.eval(), preprocessing",
        "test_predict.py",
    ),
    Defect(
        "all layers have one rate",
        "training/optim.py",
        "spared, layer_decay=layer_decay)",
        "spared, layer_decay=1.0)",
        "test_backbones.py",
    ),
    Defect(
        "what is listed before is frozen, too",
        "model/taps.py",
        "free = set(without_slope(backbone, read))",
        "free = set(without_slope(backbone, read)[-1:])",
        "test_model.py",
    ),
    Defect(
        "a process that died is not replaced",
        "launchers/pool.py",
        "or job in again:",
        "or job not in again:",
        "test_launch.py",
    ),
    Defect(
        "shares of several GPUs in a row",
        "kaggle/notebook/answer.py",
        "prob[np.argsort(there)]",
        "prob[there]",
        "test_answer.py test_submit_session.py",
    ),
    Defect(
        "the seed of a run that is one of several",
        "launchers/local.py",
        'key["train"]["seed"]',
        'key["fold"]',
        "test_launch.py",
    ),
    Defect(
        "an experiment edited while its folds train",
        "training/keys.py",
        "if changes := key_changes(launched, key):",
        "if changes := []:",
        "test_launch.py",
    ),
    Defect(
        "seeds that count more than another run",
        "analysis/members.py",
        "weight=1 / len(runs)",
        "weight=1",
        "test_seeds.py",
    ),
    Defect(
        "the newest features removed",
        "inference/features.py",
        "sorted(others, key=last_use, reverse=True)",
        "sorted(others, key=last_use)",
        "test_features.py",
    ),
    Defect(
        "a blend's score is that of its first run",
        "ensemble.py",
        'scores["blend"] = score(mended, found,',
        'scores["blend"] = score(mended, oof[0],',
        "test_ensemble.py",
    ),
    Defect(
        "a threshold is judged on what it was fitted on",
        "inference/thresholds.py",
        "target[~own], prob[~own], score",
        "target, prob, score",
        "test_thresholds.py",
    ),
    Defect(
        "fitted weights are judged on what they were fitted on",
        "analysis/blend_weights.py",
        "climb(held, terms, ~out)",
        "climb(held, terms, every)",
        "test_blending.py",
    ),
    Defect(
        "mixed pictures keep their labels",
        "training/trainer.py",
        "images, target = self.mixer(",
        "images, _ = self.mixer(",
        "test_train.py",
    ),
    Defect(
        "class weights forgotten",
        "training/loss.py",
        "class_weights(settings.train, rows, classes), own",
        "None, own",
        "test_loss.py",
    ),
    Defect(
        "the same external pictures every epoch",
        "data/sampler.py",
        "(self.seed, epoch, 2)",
        "(self.seed, 2)",
        "test_sampler.py",
    ),
    Defect(
        "labels taught as they were before the review",
        "train.py",
        "classes, fold, changes, form)",
        "classes, fold, None, form)",
        "test_decisions.py",
    ),
    Defect(
        "another decision, the same key",
        "data/decisions.py",
        "records.digest([sorted(self.label.items()), sorted(self.dropped)])",
        "records.digest([])",
        "test_decisions.py",
    ),
    Defect(
        "--force goes on from an epoch of other settings",
        "training/keys.py",
        'model.name, "last.pt", "started.json")',
        'model.name, "started.json")',
        "test_train.py",
    ),
    Defect(
        "a fold's process is told of no deadline",
        "launchers/local.py",
        "if math.isfinite(deadline.seconds):",
        "if math.isnan(deadline.seconds):",
        "test_launch.py",
    ),
]


def main(only: Annotated[str, typer.Option(help="those whose name holds this")] = "") -> None:
    chosen, missed = [defect for defect in DEFECTS if only in defect.name], []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pipeline", "tests", "docs", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder, name))
        for defect in chosen:
            caught = plant(Path(folder), defect)
            say("mutations", f"{defect.name}: {caught or 'not caught'}")
            missed += [] if caught else [defect.name]
    if missed:
        raise UserError(f"not caught: {', '.join(missed)}")
    say("mutations", f"{len(chosen)} of {len(chosen)} caught")


def plant(copy: Path, defect: Defect) -> str:
    """The first test that a defect turns red, or nothing."""
    path = copy / "pipeline" / defect.file
    text = path.read_text()
    if text.count(defect.old) != 1:
        raise UserError(f"{defect.file}: {defect.old!r} stands {text.count(defect.old)} times")
    path.write_text(text.replace(defect.old, defect.new))
    tests = [path for name in defect.tests.split() for path in copy.glob(f"tests/**/{name}")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    said = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    path.write_text(text)
    failed = [line for line in said.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].partition(" - ")[0] if said.returncode == 1 and failed else ""


if __name__ == "__main__":
    run_stage(main)
