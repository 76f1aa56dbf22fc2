"""Kaggle's own client, signed in, and every way it can fail told in one line.

It is imported late, since importing it signs in, and judged by what it returns and raises: its
exit codes and printed words say success for a failed upload.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Literal, TypeVar

from pipeline.parts.cli import UserError
from pipeline.parts.competition import Competition

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from requests import HTTPError

Kind = Literal["competition", "dataset", "notebook"]
Answer = TypeVar("Answer")

TOKEN = (
    "make one at https://www.kaggle.com/settings (API, Generate New Token) and put it into the "
    "variable KAGGLE_API_TOKEN or the file ~/.kaggle/access_token"
)


def sign_in() -> KaggleApi:
    """The client, ready for calls. Raises UserError: no token, a refused one, no network."""
    with redirect_stdout(io.StringIO()):  # it prints a page of help
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi
            from kagglesdk.kaggle_env import get_access_token_from_env
        except ModuleNotFoundError as error:
            raise UserError(f"{error}; run pip install -r requirements.txt") from None
        api = KaggleApi()
        try:
            with told("competition", ""):
                api.authenticate()
        except SystemExit:
            token, source = get_access_token_from_env()
            raise UserError(
                f"Kaggle refuses the token of {source}: expired or revoked; {TOKEN}"
                if token
                else f"no Kaggle token; {TOKEN}"
            ) from None
    return api


@contextmanager
def told(kind: Kind, name: str) -> Iterator[None]:
    """Around calls of the client about one competition (its slug), dataset or notebook (its
    OWNER/SLUG): whatever goes wrong in them or in the network becomes one UserError."""
    from requests import HTTPError, RequestException
    from urllib3.exceptions import HTTPError as TransportError

    try:
        yield
    except HTTPError as error:
        raise UserError(_refusal(kind, name, error)) from None
    except (RequestException, TransportError, ConnectionError) as error:
        raise UserError(
            f"cannot reach Kaggle ({type(error).__name__}); check the network, then the same "
            "command goes on"
        ) from None
    except ValueError as error:  # the client's own checks of what it was given
        raise UserError(f"{kind} {name}: {error}") from None


def _refusal(kind: Kind, name: str, error: HTTPError) -> str:
    status = error.response.status_code if error.response is not None else 0
    said = " ".join(str(error).split())
    page = f"https://www.kaggle.com/competitions/{name}"
    if status == 401:
        return f"Kaggle refuses the token ({said}); {TOKEN}"
    if status == 403 and kind == "competition":
        return f"Kaggle says {said!r}; join and accept the rules at {page}/rules, then again"
    if status == 404 and kind == "competition":
        return f"Kaggle has no competition {name!r}; a slug is the end of the address {page}"
    if status in (403, 404):
        return f"Kaggle has no {kind} {name!r}, or it is not yours ({said})"
    if status == 429:
        return "Kaggle says too many requests; wait some minutes, then the same command"
    if status >= 500:
        return f"Kaggle fails on its side ({said}); try the same command later"
    return f"{kind} {name}: Kaggle refuses: {said}"


def on_kaggle(competition: Competition) -> str:
    """A competition's slug. Raises UserError where it has none."""
    if not competition.slug:
        raise UserError(f"{competition.name} has no slug: it is not on Kaggle")
    return competition.slug


def accepted(answer: Answer, what: str) -> Answer:
    """`answer`, unless it carries an error or dropped inputs, which come with HTTP status 200.

    Raises UserError with all of them.
    """
    names = ["error", *(name for name in dir(answer) if name.startswith("invalid_"))]
    bad = {name: value for name in names if (value := getattr(answer, name, None))}
    if bad:
        told_bad = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in bad.items())
        raise UserError(f"Kaggle refuses {what}: {told_bad}")
    return answer
