"""Folds in processes of their own: side by side, a slot each, and one death is not the others'."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.base import records
from pipeline.base.cli import Exit, UserError
from pipeline.base.config import Runtime
from pipeline.base.deadline import Deadline
from pipeline.base.runs import model_path
from pipeline.launchers import local, pool

FOLD = """
import os, sys, time
from pathlib import Path
code, out, company = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
started = time.time()
out.with_suffix(".begun").touch()
while len([*out.parent.glob("*.begun")]) < company and time.time() < started + 20:
    time.sleep(0.01)
time.sleep(0.2 if company else 0)
gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
out.write_text(f"{started} {time.time()} {gpu} {os.environ['OMP_NUM_THREADS']}")
sys.exit(code)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, list[str]]]:
    """Run folds whose processes only end with these codes; returns what each noted.

    With `company` one first waits until so many have begun, and a moment.
    """

    def run_fake(
        codes: dict[int, int],
        gpus: list[str],
        error: str | None = None,
        seconds: float = math.inf,
        company: int = 0,
        **runtime: int,
    ) -> dict[int, list[str]]:
        def start(job: local.Fold, key: local.Key, slot: pool.Slot, *_: object) -> pool.Process:
            fold, ranks = job[1], 1
            assert key == {"fold": fold}
            command = ["-c", FOLD, str(codes[fold]), str(tmp_path / f"{fold}"), str(company)]
            return pool.Process(command, {"OMP_NUM_THREADS": "-", **slot}, ranks)

        for begun in tmp_path.glob("*.begun"):
            begun.unlink()
        monkeypatch.setattr(local, "start_fold", start)
        monkeypatch.setattr(pool, "visible_gpus", lambda: gpus)
        try:
            jobs = {("any", k): {"fold": k} for k in codes}
            local.train_folds(jobs, Runtime(**runtime), Deadline(seconds))
        except UserError as told:
            assert error, told
            assert error in str(told)
        return {
            k: (tmp_path / f"{k}").read_text().split()
            for k in codes
            if (tmp_path / f"{k}").exists()
        }

    return run_fake


@pytest.mark.parametrize(("runs", "named"), [(["a", "b.yaml"], True), (["a"], False)])
def test_folds_of_several_runs_say_whose_they_are(
    runs: list[str], named: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    command = "from pipeline.base.cli import say, warn; say('train', 'fold 0'); warn('train', 'x')"

    def process(*given: object) -> pool.Process:
        return pool.Process(["-c", command], given[2])

    monkeypatch.setattr(local, "start_fold", process)
    local.train_folds({(run, 0): {} for run in runs}, Runtime(processes=1), Deadline())
    out, error = capfd.readouterr()
    own = [f"{Path(run).stem}  " if named else "" for run in runs]
    assert out.splitlines() == [f"train     {one}fold 0" for one in own]
    assert error.splitlines() == [f"train     {one}warning: x" for one in own]


def overlap(one: list[str], other: list[str]) -> bool:
    return max(float(one[0]), float(other[0])) < min(float(one[1]), float(other[1]))


def test_a_fold_a_gpu_and_the_next_fold_takes_the_gpu_that_is_free(fake, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    noted = fake({0: 0, 1: 0, 2: 0, 3: 0}, gpus=["3", "5"], company=2)
    assert sorted(note[2] for note in noted.values()) == ["3", "3", "5", "5"]
    assert {note[3] for note in noted.values()} == {"4"}, "the cores are shared evenly"
    for gpu in ("3", "5"):
        one, other = (note for note in noted.values() if note[2] == gpu)
        assert not overlap(one, other), "a GPU has one fold at a time"
    assert overlap(noted[0], noted[1])


def test_one_at_a_time_on_a_cpu_and_processes_of_them_where_asked(fake) -> None:
    noted = fake({0: 0, 1: 0}, gpus=[], company=1)
    assert noted[0][2:] == ["none", "-"]
    assert not overlap(noted[0], noted[1])
    noted = fake({0: 0, 1: 0, 2: 0}, gpus=[], company=3, processes=3)
    assert overlap(noted[0], noted[1])
    assert overlap(noted[1], noted[2])


TRIES = """
import os, signal, sys
with open(sys.argv[2], "a") as file:
    file.write(os.environ["GPU"])
tries = os.path.getsize(sys.argv[2])
if sys.argv[1] == "once" and tries == 1:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit({"once": 0, "always": 7, "refused": 2}[sys.argv[1]])
"""


def test_a_process_that_dies_is_replaced_once(tmp_path: Path, capfd) -> None:
    def start(job: str, slot: pool.Slot) -> pool.Process:
        return pool.Process(["-c", TRIES, job, str(tmp_path / job)], slot)

    jobs = ["once", "always", "refused", "once"]
    found = list(pool.run_jobs(iter(jobs[:3]), [{"GPU": "a"}, {"GPU": "b"}], start))
    assert sorted(found) == [("always", 7), ("once", 0), ("refused", 2)]
    tries = {job: (tmp_path / job).read_text() for job in jobs}
    assert tries["once"] == "aa" and tries["always"] == "bb", "each on the slot that it had"
    assert tries["refused"] in ("a", "b")
    said = capfd.readouterr().err
    assert "a process died (exit -9); another does its work" in said and "exit 7" in said


def test_a_dead_fold_takes_no_other_with_it(fake) -> None:
    told = "any fold 1 (exit 7) died; 3 of 4 are done; the same command goes on"
    noted = fake({0: 0, 1: 7, 2: 0, 3: 0}, gpus=["0", "1"], error=told)
    assert set(noted) == {0, 1, 2, 3}


def test_after_bad_input_no_further_fold_is_started(fake, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        fake({0: 2, 1: 0}, gpus=[])
    assert end.value.code == 2
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    ("code", "seconds", "first_epoch"), [(Exit.PAUSED, 9.0, 0), (0, 0.0, 0), (0, 9.0, 8)]
)
def test_when_the_time_is_over_no_further_fold_is_started(
    fake, logged, tmp_path: Path, code: int, seconds: float, first_epoch: int
) -> None:
    logged(first_epoch)
    with pytest.raises(SystemExit) as end:
        fake({0: code, 1: 0}, gpus=[], seconds=seconds)
    assert end.value.code == Exit.PAUSED
    assert (tmp_path / "0").exists(), "the first is begun all the same"
    assert not (tmp_path / "1").exists()


def test_a_fold_whose_first_epoch_fits_is_started(fake, logged) -> None:
    logged(3)
    assert set(fake({0: 0, 1: 0}, gpus=[], seconds=9.0)) == {0, 1}


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A log of fold 0, whose head and first epoch took so many seconds."""

    def write_log(seconds: int) -> None:
        monkeypatch.setenv("RUNS_DIR", str(tmp_path))
        log = tmp_path / "any" / "fold0" / "log.csv"
        log.parent.mkdir(parents=True)
        log.write_text(f"epoch,seconds\n0,1\n1,{seconds - 1}\n2,1000\n")

    return write_log


def test_several_gpus_a_fold(fake, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    four = ["a", "b", "c", "d"]
    monkeypatch.setattr(pool, "visible_gpus", lambda: four)
    two, alone = (pool.gpu_slots(Runtime(gpus_per_fold=2), folds) for folds in (5, 1))
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in two] == ["a,b", "c,d"]
    assert [slot["OMP_NUM_THREADS"] for slot in two + alone] == ["2", "2", "4"]
    assert "TERM" not in alone[0], "one fold at a time may draw its bar"
    three = pool.gpu_slots(Runtime(gpus_per_fold=3), 5)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in three] == ["a,b,c"]
    with pytest.raises(UserError, match="only 4 GPUs are visible"):
        pool.gpu_slots(Runtime(gpus_per_fold=5), 5)
    four.clear()
    assert pool.gpu_slots(Runtime(gpus_per_fold=2), 5) == [{"OMP_NUM_THREADS": "4"}]


@pytest.mark.parametrize("folds", [[], ["0", "1"]])
def test_a_group_is_of_one_fold(
    folds: list[str], run: Callable[..., str], write: Callable[..., str], monkeypatch
) -> None:
    """The second of two found that their group had ended with the first."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = [option for fold in folds for option in ("--fold", fold)]
    said = run("train", write(), *asked, expect=2)
    assert "several processes train one fold together: say which by --fold, --seed" in said


def end_of(code: str, ranks: int = 2) -> int:
    """Exit code of a fold whose processes run this."""
    fold = pool.Process(["-c", f"import os, sys, time\n{code}"], {}, ranks)
    started = time.monotonic()
    while (end := fold.poll()) is None and time.monotonic() < started + 20:
        time.sleep(0.05)
    assert all(rank.returncode is not None for rank in fold.ranks)
    return end


def test_a_dead_rank_ends_the_others_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    names = ["RANK", "WORLD_SIZE", pool.WORKER]
    assert end_of(f"print(*[os.environ[name] for name in {names}])") == 0
    assert capfd.readouterr().out == "0 2 1\n", "rank 0 alone speaks"
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
    assert pool.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb")
    assert pool.visible_gpus() == ["GPU-aa", "GPU-bb"]


def test_two_folds_train_side_by_side_and_the_failed_one_is_made_up_for(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    space: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two real processes; that which makes up for one of them is run in this one."""

    def here(command: list[str], slot: pool.Slot, _: int) -> SimpleNamespace:
        run("train", *command[2:])
        return SimpleNamespace(slot=slot, ranks=[], poll=lambda: 0)

    experiment = split(write(runtime={"processes": 2}, train={"epochs": 1}))
    blocked = space / "runs" / "tiny" / "fold1"
    blocked.parent.mkdir(parents=True)
    blocked.touch()  # its process cannot make its folder
    run("train", experiment, expect=2)
    assert not records.load(blocked / "model.safetensors")
    first = records.load(space / "runs" / "tiny" / "fold0" / "model.safetensors")
    blocked.unlink()
    monkeypatch.setattr(local, "Process", here)
    assert "2 folds, accuracy" in run("train", experiment)
    assert records.load(space / "runs" / "tiny" / "fold0" / "model.safetensors") == first
    assert records.load(blocked / "model.safetensors")["key"]["fold"] == 1


def test_folds_are_predicted_a_gpu_each(
    run: Callable[..., str], trained: str, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of two GPUs' processes are run in this one; what is current has none."""
    started = []

    class Here(pool.Process):
        def __init__(self, command: list[str], slot: pool.Slot) -> None:
            self.slot, self.ranks = slot, []
            started.append((slot["CUDA_VISIBLE_DEVICES"], command[4]))
            run(command[1].removeprefix("pipeline."), *command[2:])

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(local, "Process", Here)
    monkeypatch.setattr(pool, "visible_gpus", lambda: ["a", "b"])
    run("predict", trained, "--split", "oof", "--fold", "1", "--tta", "hflip")
    assert started == [], "one fold needs no other process"
    run("predict", trained, "--split", "test", "--tta", "hflip")
    assert started == [("a", "0"), ("b", "1")]
    run("predict", trained, "--split", "oof", "--tta", "hflip")
    assert "up to date" in run("predict", trained, "--tta", "hflip")
    assert len(started) == 2, "one was current"
    assert len(list((space / "runs" / "tiny").glob("fold*/*.hflip.npz"))) == 4


def test_a_fold_that_does_not_listen_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GRACE", 0.2)
    fold = pool.Process(["-c", "import time; time.sleep(60)"], {}, ranks=2)
    started = time.monotonic()
    pool.stop([fold])
    assert None not in [rank.returncode for rank in fold.ranks]
    assert time.monotonic() - started < 5


def test_what_was_asked_for_on_the_command_line_wins_over_the_yaml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fold's process reads the YAML again, and launched a second group.

    The launcher does not: a file that is broken meanwhile would end the folds that run.
    """
    given = []
    monkeypatch.setattr(local, "Process", lambda command, environment, ranks: given.append(command))
    local.start_fold(("broken", 3), {"train": {"seed": 7}, "fold": 3}, {}, 1, Deadline())
    at = given[0].index("--gpus-per-fold")
    assert given[0][at : at + 2] == ["--gpus-per-fold", "1"]
    assert given[0][:7] == ["-m", "pipeline.train", "broken", "--fold", "3", "--seed", "7"]


@pytest.mark.parametrize(("seconds", "hours"), [(5400.0, ["1.5"]), (-9.0, ["0.0"]), (math.inf, [])])
def test_the_time_that_is_left_is_handed_on(
    seconds: float, hours: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(local, "Process", lambda command, environment, ranks: given.extend(command))
    deadline = Deadline(seconds, clock=lambda: 0.0)
    local.start_fold(("any", 3), {"train": {"seed": 7}, "fold": 3}, {}, 1, deadline)
    assert given[-2:] == ["--hours", *hours] if hours else "--hours" not in given


def test_hours_are_of_3600_seconds(run: Callable[..., str], monkeypatch) -> None:
    def told(seconds: float) -> Deadline:
        raise UserError(f"{seconds} s")

    monkeypatch.setattr("pipeline.train.Deadline", told)
    assert "5400.0 s" in run("train", "any", "--hours", "1.5", expect=2)


def test_an_experiment_that_is_edited_while_its_folds_train_is_not_mixed(
    run: Callable[..., str],
    write: Callable[..., str],
    split: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folds' commands are run in this process; the YAML is edited when the first has ended."""
    experiment, said, codes = split(write(train={"epochs": 1})), [], [0, 2]

    class Here(pool.Process):
        def __init__(self, command: list[str], slot: pool.Slot, _: int) -> None:
            self.slot, self.ranks, self.code = slot, [], codes[len(said)]
            with monkeypatch.context() as patch:
                patch.setenv(local.KEY, slot[local.KEY])
                said.append(run("train", *command[2:], expect=self.code))
            write(train={"epochs": 1, "lr": 0.5})

        def poll(self) -> int:
            return self.code

    monkeypatch.setattr(local, "Process", Here)
    run("train", experiment, expect=2)
    assert "tiny was edited while its folds train: train.lr: 0.001 → 0.5; undo that" in said[1]
    assert len(said[1].splitlines()) == 1
    first = records.load(model_path("tiny", 0))
    assert first["key"]["train"]["lr"] == 0.001 and not records.load(model_path("tiny", 1))
    write(train={"epochs": 1})
    codes.append(0)
    assert "2 folds, accuracy" in run("train", experiment), "undone, it goes on"
    assert records.load(model_path("tiny", 0)) == first
