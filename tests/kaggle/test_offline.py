"""The kernel of a rehearsal has no network where the system allows that, and fails loudly."""

import socket
from pathlib import Path

import pytest

from pipeline.base.cli import UserError
from pipeline.kaggle.bundle import offline
from pipeline.kaggle.bundle.notebook_file import write_notebook

pytest.importorskip("nbclient")

TRY = """\
import os, socket
from pathlib import Path
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    print("connected")
except OSError as error:
    print("refused:", error)
print(Path.cwd() == Path(os.environ["KAGGLE_WORKING_DIR"]), os.environ.get("RUNS_DIR"))
Path("submission.csv").write_text("a")
"""


def executed(tmp_path: Path, text: str) -> str:
    write_notebook(tmp_path, "a test", [text])
    folders = [tmp_path / name for name in ("input", "working", "temp")]
    for folder in folders:
        folder.mkdir()
    return offline.execute(tmp_path / "notebook" / "notebook.ipynb", *folders)


@pytest.mark.parametrize("allowed", [True, False])
def test_no_network(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: bool,
) -> None:
    monkeypatch.setenv("RUNS_DIR", "ours")
    if not allowed:
        monkeypatch.setattr(offline, "NAMESPACE", ["false"])
    isolated = bool(offline.without_network())
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = executed(tmp_path, TRY.format(port=server.getsockname()[1]))
    assert ("refused: " in said) is isolated and ("connected" in said) is not isolated
    assert ("the notebook has a network" in capsys.readouterr().err) is not isolated
    assert "True None" in said


def test_a_cell_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fails: ZeroDivisionError: division by zero$"):
        executed(tmp_path, "1 / 0")
