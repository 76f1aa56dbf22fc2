"""Kaggle's real client against a stand-in: signing in, and each failure in one line."""

import sys
import time

import pytest
from kaggle_stub import KaggleStub, Trouble

from pipeline.base.cli import UserError
from pipeline.kaggle.api import client
from pipeline.kaggle.api.client import accepted, ask, sign_in


def message(kind: str, name: str, call) -> str:
    with pytest.raises(UserError) as caught:
        ask(kind, name, call, patience=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_token_signs_in(kaggle: KaggleStub, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in()
    assert kaggle.calls[-1] == "IntrospectToken"


def test_an_old_key_pair_signs_in(kaggle: KaggleStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", "tester")
    monkeypatch.setenv("KAGGLE_KEY", "k")
    kaggle.competitions["tiny"] = {"train.csv": b"id\n"}
    listed = sign_in().competition_list_files("tiny")
    assert [(file.name, file.total_bytes) for file in listed.files] == [("train.csv", 3)]


def test_no_token(kaggle: KaggleStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    with pytest.raises(UserError, match=r"^no Kaggle token; make one at https://\S+/settings"):
        sign_in()


def test_bad_token(kaggle: KaggleStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "old-token")
    with pytest.raises(UserError, match="refuses the token of KAGGLE_API_TOKEN: expired"):
        sign_in()


def test_no_client(kaggle: KaggleStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", None)
    with pytest.raises(UserError, match=r"kaggle.*; run pip install -r requirements\.txt"):
        sign_in()


def test_network_gone(kaggle: KaggleStub) -> None:
    api = sign_in()
    kaggle.server.shutdown()
    kaggle.server.server_close()
    with pytest.raises(UserError, match=r"cannot reach Kaggle \(\w+\); check the network"):
        sign_in()
    assert "cannot reach" in message("competition", "x", lambda: api.competition_list_files("x"))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, "competition", "refuses the token"),
        (403, "competition", "rules at https://www.kaggle.com/competitions/tiny/rules"),
        (404, "competition", "no competition 'tiny'"),
        (404, "dataset", "no dataset 'tiny', or it is not yours"),
        (429, "competition", "busy or ill (429, because"),
        (503, "competition", "busy or ill (503, because"),
        (400, "competition", "Kaggle refuses: because"),
    ],
)
def test_each_refusal_in_one_line(kaggle: KaggleStub, status: int, kind: str, words: str) -> None:
    kaggle.fail["ListDataFiles"] = (status, "because")
    api = sign_in()
    assert words in message(kind, "tiny", lambda: api.competition_list_files("tiny"))


def test_an_error_in_a_good_answer_is_found(kaggle: KaggleStub) -> None:
    from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelResponse

    answer = ApiSaveKernelResponse()
    assert accepted(answer, "the notebook") is answer
    answer.error = "Maximum weekly GPU quota reached"
    answer.invalid_dataset_sources = ["me/x"]
    with pytest.raises(UserError, match=r"error: Maximum.*; invalid dataset sources: \['me/x'\]"):
        accepted(answer, "the notebook")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.mark.parametrize("how", [503, 429, 500, 502, 504, 408, "reset", "page"])
def test_what_passes_is_waited_out(
    kaggle: KaggleStub, pauses: list[float], how: int | str, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle.competitions["tiny"] = {"train.csv": b"id\n"}
    kaggle.trouble["ListDataFiles"] = Trouble(how, first=2, times=7)
    api = sign_in()
    for _ in range(3):
        answer = ask("competition", "tiny", lambda: api.competition_list_files("tiny"))
        assert [file.name for file in answer.files] == ["train.csv"]
    assert pauses == [5, 10, 20, 40, 80, 160, 300]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "; asked again, for at most 2.0 h" in said[0]
    assert said[1] == "kaggle    answers again, after 10.2 min"


def test_silence_is_an_end_too(
    kaggle: KaggleStub, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.05)
    kaggle.competitions["tiny"] = {}
    kaggle.trouble["ListDataFiles"] = Trouble("silence")
    api, started = sign_in(), time.monotonic()
    ask("competition", "tiny", lambda: api.competition_list_files("tiny"))
    assert pauses == [5] and time.monotonic() - started < 10


def test_patience_ends(
    kaggle: KaggleStub, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle.fail["ListDataFiles"] = (503, "because")
    api = sign_in()
    with pytest.raises(UserError, match=r"busy or ill \(503, because\).* \(tried for 2.0 h\)$"):
        ask("competition", "tiny", lambda: api.competition_list_files("tiny"))
    assert sum(pauses) == 7200 and pauses[-1] <= 300
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_refusal_is_told_at_once(kaggle: KaggleStub, pauses: list[float]) -> None:
    api = sign_in()
    for status in (400, 401, 403, 404, 501):
        kaggle.fail["ListDataFiles"] = (status, "because")
        with pytest.raises(UserError):
            ask("competition", "tiny", lambda: api.competition_list_files("tiny"))
    assert pauses == []


def test_a_change_that_took_effect_is_not_made_again(
    kaggle: KaggleStub, pauses: list[float]
) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        raise ConnectionError

    assert ask("dataset", "a/b", make, lambda: len(made) if len(made) == 3 else None) == 3
    assert pauses == [5, 10, 20]
