"""Kaggle's own client, signed in, and every way it can fail told in one line.

It is imported late, since importing it signs in, and judged by what it returns and raises: its
exit codes and printed words say success for a failed upload.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache, wraps
from json import JSONDecodeError
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.base.cli import UserError, duration, say
from pipeline.base.competition import Competition

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from requests import HTTPError, Response

Kind = Literal["competition", "dataset", "notebook"]
Answer = TypeVar("Answer")

SILENCE = 300  # seconds without a byte, after which a connection counts as broken
FIRST_PAUSE, LONGEST_PAUSE = 5, 300  # seconds between two attempts: twice as long each time
PATIENCE = 2 * 3600  # seconds of pauses, after which a call is given up
REMIND = 900  # seconds of pauses between two lines that say so

TOKEN = (
    "make one at https://www.kaggle.com/settings (API, Generate New Token) and put it into the "
    "variable KAGGLE_API_TOKEN or the file ~/.kaggle/access_token"
)


class PassingError(UserError):
    """Something on Kaggle's side or on the way there that may be well in a while."""

    def __init__(self, text: str, response: Response | None = None):
        super().__init__(text)
        self.asked_for = _retry_after(response)  # seconds


def sign_in() -> KaggleApi:
    """The client, ready for calls. Raises UserError: no token, a refused one, no network."""
    with redirect_stdout(io.StringIO()):  # it prints a page of help
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi
            from kagglesdk.kaggle_env import get_access_token_from_env
        except ModuleNotFoundError as error:
            raise UserError(f"{error}; run pip install -r requirements.txt") from None
        end_silence()
        api = KaggleApi()
        api.with_retry = lambda call, *_, **__: call  # it repeats some, blindly: `ask` does it all
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


@cache  # once is enough
def end_silence() -> None:
    """The client waits for ever for an answer that never comes; from now on for SILENCE."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    @wraps(send)
    def limited(
        self: HTTPAdapter, request: Any, stream: bool = False, timeout: Any = None, **rest: Any
    ) -> Response:
        return send(self, request, stream, timeout or SILENCE, **rest)

    HTTPAdapter.send = limited


def ask(
    kind: Kind,
    name: str,
    call: Callable[[], Answer],
    done: Callable[[], Answer | None] | None = None,
) -> Answer:
    """`call()` of the client about one thing (see `told`), repeated while Kaggle is ill or away.

    Pauses double from 5 s to 5 min, or are as long as Kaggle asks, two hours in all. A call that
    changes something comes with `done`: asked before each repetition, it returns what the call
    would have returned had it taken effect, else None. Raises UserError for all the rest.
    """
    waited, pause, attempt = 0.0, FIRST_PAUSE, call

    def again() -> Answer:
        found = done() if done else None
        return call() if found is None else found

    while True:
        try:
            with told(kind, name):
                answer = attempt()
        except PassingError as error:
            if waited >= PATIENCE:
                raise UserError(f"{error} (tried for {duration(waited)})") from None
            wait = min(max(pause, error.asked_for), PATIENCE - waited)
            if not waited or waited // REMIND < (waited + wait) // REMIND:
                so_far = f"{duration(waited)} now, " if waited else ""
                reason = str(error).partition(";")[0]
                say("kaggle", f"{reason}; asked again ({so_far}at most {duration(PATIENCE)})")
            time.sleep(wait)
            waited, pause, attempt = waited + wait, min(2 * pause, LONGEST_PAUSE), again
        else:
            if waited:
                say("kaggle", f"answers again, after {duration(waited)}")
            return answer


def unless_absent(call: Callable[[], Answer]) -> Answer | None:
    """`call()`; None for what is not there, which Kaggle does not tell from what is foreign."""
    from requests import HTTPError

    try:
        return call()
    except HTTPError as error:
        if error.response.status_code not in (403, 404):
            raise
        return None


@contextmanager
def told(kind: Kind, name: str) -> Iterator[None]:
    """Around calls of the client about one competition (its slug), dataset or notebook (its
    OWNER/SLUG): whatever goes wrong in them or in the network becomes one UserError, of class
    PassingError where waiting may help."""
    from requests import HTTPError, RequestException
    from urllib3.exceptions import HTTPError as TransportError

    try:
        yield
    except HTTPError as error:
        if _passing(error.response):
            raise PassingError(_refusal(kind, name, error), error.response) from None
        raise UserError(_refusal(kind, name, error)) from None
    except (RequestException, TransportError, ConnectionError, TimeoutError) as error:
        raise PassingError(
            f"cannot reach Kaggle ({type(error).__name__}); check the network, then the same "
            "command goes on"
        ) from None
    except JSONDecodeError:  # a page that tells people of a repair
        text = "Kaggle answers with a page instead of data; try the same command later"
        raise PassingError(text) from None
    except ValueError as error:  # the client's own checks of what it was given, and this one
        if "Upload unsuccessful" in str(error):
            raise PassingError(f"{kind} {name}: {error}") from None
        raise UserError(f"{kind} {name}: {error}") from None


def _passing(response: Response | None) -> bool:
    """Timeouts, too many requests, and what servers and those before them say when ill."""
    status = 0 if response is None else response.status_code
    return status in (408, 425, 429) or (status >= 500 and status != 501)


def _retry_after(response: Response | None) -> float:
    """Seconds that Kaggle asks to wait, told as a number or a date; 0 where it does not."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    told_us = "" if response is None else response.headers.get("Retry-After", "")
    try:
        return Retry().parse_retry_after(told_us) if told_us else 0.0
    except InvalidHeader:
        return 0.0


def _refusal(kind: Kind, name: str, error: HTTPError) -> str:
    status = error.response.status_code if error.response is not None else 0
    said = shorten(str(error), 300)
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
