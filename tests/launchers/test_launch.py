"""Folds in processes of their own: side by side, a slot each, and one death is not the others'."""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base import records
from pipeline.base.cli import Exit, UserError
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.launchers import local

FOLD = """
import os, sys, time
code, out = int(sys.argv[1]), sys.argv[2]
started = time.time()
time.sleep(0.4)
gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
open(out, "w").write(f"{started} {time.time()} {gpu} {os.environ['OMP_NUM_THREADS']}")
sys.exit(code)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, list[str]]]:
    """Run folds whose processes only sleep and end with these codes; returns what each noted."""

    def run_fake(
        codes: dict[int, int],
        gpus: list[str],
        error: str | None = None,
        seconds: float = math.inf,
        **runtime: int,
    ) -> dict[int, list[str]]:
        def start(_: str, fold: int, slot: dict[str, str], ranks: int, __: Deadline) -> local.Fold:
            command = [sys.executable, "-c", FOLD, str(codes[fold]), str(tmp_path / f"{fold}")]
            return local.Fold(command, {"OMP_NUM_THREADS": "-", **slot}, ranks)

        monkeypatch.setattr(local, "start", start)
        monkeypatch.setattr(local, "visible_gpus", lambda: gpus)
        try:
            local.train_folds("any", codes, Runtime(**runtime), Deadline(seconds))
        except UserError as told:
            assert error, told
            assert error in str(told)
        return {
            k: (tmp_path / f"{k}").read_text().split()
            for k in codes
            if (tmp_path / f"{k}").exists()
        }

    return run_fake


def overlap(one: list[str], other: list[str]) -> bool:
    return max(float(one[0]), float(other[0])) < min(float(one[1]), float(other[1]))


def test_a_fold_a_gpu_and_the_next_fold_takes_the_gpu_that_is_free(fake, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    noted = fake({0: 0, 1: 0, 2: 0, 3: 0}, gpus=["3", "5"])
    assert sorted(note[2] for note in noted.values()) == ["3", "3", "5", "5"]
    assert {note[3] for note in noted.values()} == {"4"}, "the cores are shared evenly"
    for gpu in ("3", "5"):
        one, other = (note for note in noted.values() if note[2] == gpu)
        assert not overlap(one, other), "a GPU has one fold at a time"
    assert overlap(noted[0], noted[1])


def test_one_at_a_time_on_a_cpu_and_processes_of_them_where_asked(fake) -> None:
    noted = fake({0: 0, 1: 0}, gpus=[])
    assert noted[0][2:] == ["none", "-"]
    assert not overlap(noted[0], noted[1])
    noted = fake({0: 0, 1: 0, 2: 0}, gpus=[], processes=3)
    assert overlap(noted[0], noted[1])
    assert overlap(noted[1], noted[2])


def test_a_dead_fold_takes_no_other_with_it(fake) -> None:
    told = "fold 1 (exit 7) died; folds [0, 2, 3] are done; the same command goes on"
    noted = fake({0: 0, 1: 7, 2: 0, 3: 0}, gpus=["0", "1"], error=told)
    assert set(noted) == {0, 1, 2, 3}


def test_after_bad_input_no_further_fold_is_started(fake, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        fake({0: 2, 1: 0}, gpus=[])
    assert end.value.code == 2
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(("code", "seconds"), [(Exit.PAUSED, 9.0), (0, 0.0)])
def test_when_the_time_is_over_no_further_fold_is_started(
    fake, tmp_path: Path, code: int, seconds: float
) -> None:
    with pytest.raises(SystemExit) as end:
        fake({0: code, 1: 0}, gpus=[], seconds=seconds)
    assert end.value.code == Exit.PAUSED
    assert (tmp_path / "0").exists(), "the first is begun all the same"
    assert not (tmp_path / "1").exists()


def test_several_gpus_a_fold(fake, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    four = ["a", "b", "c", "d"]
    monkeypatch.setattr(local, "visible_gpus", lambda: four)
    two, alone = (local.gpu_slots(Runtime(gpus_per_fold=2), folds) for folds in (5, 1))
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in two] == ["a,b", "c,d"]
    assert [slot["OMP_NUM_THREADS"] for slot in two + alone] == ["2", "2", "4"]
    assert "TERM" not in alone[0], "one fold at a time may draw its bar"
    three = local.gpu_slots(Runtime(gpus_per_fold=3), 5)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in three] == ["a,b,c"]
    with pytest.raises(UserError, match="only 4 GPUs are visible"):
        local.gpu_slots(Runtime(gpus_per_fold=5), 5)
    four.clear()
    assert local.gpu_slots(Runtime(gpus_per_fold=2), 5) == [{"OMP_NUM_THREADS": "4"}]


def end_of(code: str, ranks: int = 2) -> int:
    """Exit code of a fold whose processes run this."""
    fold = local.Fold([sys.executable, "-c", f"import os, sys, time\n{code}"], {}, ranks)
    started = time.monotonic()
    while (end := fold.poll()) is None and time.monotonic() < started + 20:
        time.sleep(0.05)
    assert all(rank.returncode is not None for rank in fold.ranks)
    return end


def test_a_dead_rank_ends_the_others_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    assert end_of("print(os.environ['RANK'], os.environ['WORLD_SIZE'])") == 0
    assert capfd.readouterr().out == "0 2\n", "rank 0 alone speaks"
    why = "rank = os.environ['RANK']; print('why', rank, file=sys.stderr); "
    started = time.monotonic()
    assert end_of(f"{why} time.sleep(60) if rank == '0' else sys.exit(7)") == 7
    assert time.monotonic() - started < 10
    assert sorted(capfd.readouterr().err.splitlines()) == ["why 0", "why 1"]
    assert end_of(f"{why} sys.exit(2)") == 2
    assert end_of(f"{why} time.sleep(60 * int(rank)); sys.exit(2)") == 2
    assert set(capfd.readouterr().err.splitlines()) >= {"why 0"}


def test_visible_gpus_are_those_that_the_environment_allows(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb")
    assert local.visible_gpus() == ["GPU-aa", "GPU-bb"]


def test_two_folds_train_side_by_side_and_the_failed_one_is_made_up_for(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
) -> None:
    experiment = split(write(runtime={"processes": 2}, train={"epochs": 1}))
    blocked = space / "runs" / "tiny" / "fold1"
    blocked.parent.mkdir(parents=True)
    blocked.touch()  # its process cannot make its folder
    run("train", experiment, expect=2)
    assert not records.load(blocked / "model.safetensors")
    first = records.load(space / "runs" / "tiny" / "fold0" / "model.safetensors")
    blocked.unlink()
    assert "2 folds, accuracy" in run("train", experiment)
    assert records.load(space / "runs" / "tiny" / "fold0" / "model.safetensors") == first
    assert records.load(blocked / "model.safetensors")["key"]["fold"] == 1


def test_a_fold_that_does_not_listen_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE", 0.2)
    fold = local.Fold([sys.executable, "-c", "import time; time.sleep(60)"], {}, ranks=2)
    started = time.monotonic()
    local.stop([fold])
    assert None not in [rank.returncode for rank in fold.ranks]
    assert time.monotonic() - started < 5


def test_what_was_asked_for_on_the_command_line_wins_over_the_yaml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fold's process reads the YAML again, and launched a second group."""
    given = []
    monkeypatch.setattr(local, "Fold", lambda command, environment, ranks: given.append(command))
    local.start("any", 3, {}, 1, Deadline())
    at = given[0].index("--gpus-per-fold")
    assert given[0][at : at + 2] == ["--gpus-per-fold", "1"]
    assert given[0][-4:-2] == ["--fold", "3"]
