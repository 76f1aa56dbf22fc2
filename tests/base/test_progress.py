"""Progress: lines in a log, and none of what is done before the first is due."""

import re
import time

import pytest

from pipeline.base import progress
from pipeline.base.progress import Progress


def test_a_log_gets_whole_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 0.05)
    with Progress("fold 0", 400, "images") as bar:
        for _ in range(4):
            time.sleep(0.03)
            bar.advance(100)
    told = capsys.readouterr().err
    lines = told.splitlines()
    assert 1 <= len(lines) <= 3, "not one for each step"
    assert all(re.match(r"fold 0  \d00/400 images, .* images/s, .* left$", li) for li in lines)
    assert "\r" not in told


def test_what_is_done_soon_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("prepare", 20_000, "images") as bar:
        for _ in range(20_000):
            bar.advance()
    assert capsys.readouterr().err == ""


def test_a_dumb_terminal_gets_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folds side by side write into one terminal: their bars would overwrite each other."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for terminal, drawn in (("dumb", False), ("xterm", True)):
        monkeypatch.setenv("TERM", terminal)
        with Progress("fold 0", 8, "images") as bar:
            bar.advance(4)
        assert ("fold 0" in capsys.readouterr().err) is drawn
