"""Kaggle's real client against a stand-in: signing in, and each failure in one line."""

import sys

import pytest
from kaggle_stub import KaggleStub

from pipeline.kaggle.client import accepted, sign_in, told
from pipeline.parts.cli import UserError


def message(kind: str, name: str, call) -> str:
    with pytest.raises(UserError) as caught, told(kind, name):
        call()
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
        (429, "competition", "too many requests; wait"),
        (503, "competition", "fails on its side"),
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
