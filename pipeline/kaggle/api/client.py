"""Kaggle's own client, signed in, and every way it can fail told in one line.

It is imported late, since importing it signs in, and judged by what it returns and raises: its
exit codes and printed words say success for a failed upload.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.base.cli import UserError, duration, say, short
from pipeline.base.competition import Competition

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from requests import Response

Kind = Literal["competition", "dataset", "notebook"]
Answer = TypeVar("Answer")

TIMEOUT = 300  # seconds without a byte, after which a connection counts as broken
FIRST_PAUSE, LONGEST_PAUSE = 5, 300  # seconds between two attempts: twice as long each time
PATIENCE = 2 * 3600  # seconds of pauses, after which a call is given up
TRANSIENT = {408, 425, 429, *range(500, 600)} - {501}  # statuses that may be well in a while

TOKEN = (
    "make one at https://www.kaggle.com/settings (API, Generate New Token) and put it into the "
    "variable KAGGLE_API_TOKEN or the file ~/.kaggle/access_token"
)
PAGE = "https://www.kaggle.com/competitions"


def sign_in() -> KaggleApi:
    """The client, ready for calls. Raises UserError: no token, a refused one, no network."""
    with redirect_stdout(io.StringIO()):  # it prints a page of help
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi
            from kagglesdk.kaggle_env import get_access_token_from_env
        except ModuleNotFoundError as error:
            raise UserError(f"{error}; run pip install -r requirements.txt") from None
        set_timeout()
        api = KaggleApi()
        api.with_retry = lambda call, *_, **__: call  # it repeats some, blindly: `ask` does it all
        try:
            ask("competition", "", api.authenticate, patience=0)
        except SystemExit:
            token, source = get_access_token_from_env()
            refused = f"Kaggle refuses the token of {source}: expired or revoked"
            raise UserError(f"{refused if token else 'no Kaggle token'}; {TOKEN}") from None
    return api


@cache  # once is enough
def set_timeout() -> None:
    """The client waits for ever for an answer that never comes; from now on for TIMEOUT."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    def limited(self: HTTPAdapter, request: Any, **options: Any) -> Response:
        return send(self, request, **{**options, "timeout": options.get("timeout") or TIMEOUT})

    HTTPAdapter.send = limited


def ask(
    kind: Kind,
    name: str,
    call: Callable[[], Answer],
    done: Callable[[], Answer | None] | None = None,
    patience: float = PATIENCE,
) -> Answer:
    """`call()` of the client about one competition (its slug), dataset or notebook (OWNER/SLUG).

    It is repeated while Kaggle is ill or away; pauses double from 5 s to 5 min, `patience` seconds
    in all. A call that changes something comes with `done`: asked before each repetition, it
    returns what the call would have returned had it taken effect, else None. Raises UserError.
    """
    waited, pause = 0, FIRST_PAUSE
    while True:
        try:
            answer = done() if waited and done else None
            answer = call() if answer is None else answer
        except Exception as error:
            text, transient = explain(error, kind, name)
            if not transient or waited >= patience:
                tried = f" (tried for {duration(waited)})" if waited else ""
                raise UserError(text + tried) from None
        else:
            if waited:
                say("kaggle", f"answers again, after {duration(waited)}")
            return answer
        if not waited:
            reason = text.partition(";")[0]
            say("kaggle", f"{reason}; asked again, for at most {duration(patience)}")
        pause = min(pause, patience - waited)
        time.sleep(pause)
        waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE)


def explain(error: Exception, kind: Kind, name: str) -> tuple[str, bool]:
    """What went wrong in a call of the client, in one line, and whether waiting may help.

    Raises what is neither Kaggle's doing nor the network's again.
    """
    from requests import HTTPError, RequestException
    from urllib3.exceptions import HTTPError as TransportError

    if isinstance(error, HTTPError):
        status = 0 if error.response is None else error.response.status_code
        return refusal(kind, name, status, short(error, 300)), status in TRANSIENT
    if isinstance(error, JSONDecodeError):  # a page that tells people of a repair
        return "Kaggle answers with a page instead of data; try the same command later", True
    if isinstance(error, RequestException | TransportError | ConnectionError | TimeoutError):
        text = f"cannot reach Kaggle ({type(error).__name__}); check the network, then the same"
        return f"{text} command goes on", True
    if isinstance(error, ValueError):  # the client's own checks of what it was given, and this one
        return f"{kind} {name}: {error}", "Upload unsuccessful" in str(error)
    raise error


def refusal(kind: Kind, name: str, status: int, said: str) -> str:
    if status == 401:
        return f"Kaggle refuses the token ({said}); {TOKEN}"
    if status == 403 and kind == "competition":
        return f"Kaggle says {said!r}; join and accept the rules at {PAGE}/{name}/rules, then again"
    if status == 404 and kind == "competition":
        return f"Kaggle has no competition {name!r}; a slug is the end of its address {PAGE}/SLUG"
    if status in (403, 404):
        return f"Kaggle has no {kind} {name!r}, or it is not yours ({said})"
    if status in TRANSIENT:
        return f"Kaggle is busy or ill ({status}, {said}); try the same command later"
    return f"{kind} {name}: Kaggle refuses: {said}"


def unless_absent(call: Callable[[], Answer]) -> Answer | None:
    """`call()`; None for what is not there, which Kaggle does not tell from what is foreign."""
    from requests import HTTPError

    try:
        return call()
    except HTTPError as error:
        if error.response.status_code not in (403, 404):
            raise
        return None


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
        text = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in bad.items())
        raise UserError(f"Kaggle refuses {what}: {text}")
    return answer


def new_version(
    kind: Kind, ref: str, current: Callable[[], int], make: Callable[[int], Any]
) -> int:
    """Make a version of a dataset or notebook by `make(number of the last)`; returns its number.

    `current()` tells the number of the latest version, 0 where there is none.
    """
    before = ask(kind, ref, current)

    def made() -> int:
        answer = accepted(make(before), f"{kind} {ref}")
        return getattr(answer, "version_number", None) or before + 1  # a dataset's has none

    def lost() -> int | None:
        return now if (now := current()) > before else None

    return ask(kind, ref, made, lost)
