"""The review page over HTTP: for this machine alone, behind an address that nobody can guess."""

import secrets
import socket
import threading
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.base.cli import UserError, explain, say
from pipeline.pages.desk import Desk, NoDecisionError
from pipeline.pages.page import HERE, environment, shrunk, webp

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

SMALL, LARGE = 160, 1024  # px
HEADERS = {
    # no script, style or picture but ours; the page stands in no other page
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
KEPT = {"Cache-Control": "private, max-age=3600"}  # pictures do not change while the page is open
OWN_FILES = {"review.js": "text/javascript", "review.css": "text/css", "style.css": "text/css"}


def serve(desk: Desk, port: int) -> None:
    """Answer until Ctrl-C. A port that is taken gives way to any that is free."""
    import uvicorn  # late: few stages need it

    threading.Thread(target=desk.warm_up, daemon=True).start()
    token = secrets.token_urlsafe(16)
    place = listening(port)
    address = f"http://127.0.0.1:{place.getsockname()[1]}/{token}/"
    say("review", f"open {address} (this machine only; Ctrl-C ends it)")
    config = uvicorn.Config(make_app(desk, token), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[place])


def listening(port: int) -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind(("127.0.0.1", port))
    except OSError:
        place.bind(("127.0.0.1", 0))
    place.listen()  # the address is told next
    return place


def make_app(desk: Desk, token: str) -> "Starlette":
    """The page under /TOKEN/. Whoever asks by another host name or without the token gets none."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Mount

    async def guard(request: "Request", call_next: Any) -> "Response":
        given = request.url.path.split("/")[1]
        known = secrets.compare_digest(given.encode(), token.encode())
        text = "no page here: open the address that the terminal shows\n"
        response = await call_next(request) if known else PlainTextResponse(text, 403)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def told(_: "Request", error: Exception) -> "Response":
        status = 422 if isinstance(error, NoDecisionError) else 500
        return JSONResponse({"error": explain(error) or "the server failed"}, status)

    hosts = ["127.0.0.1", "localhost"]  # another name that leads here is an attack by DNS
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes(desk))],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(BaseHTTPMiddleware, dispatch=guard),
        ],
        exception_handlers={UserError: told, OSError: told},
    )


def routes(desk: Desk) -> list[Any]:
    """What is asked of the desk. All but a decision is read in threads, side by side."""
    from starlette.exceptions import HTTPException
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    page = environment().get_template("review.html")

    def index(_: "Request") -> "Response":
        return HTMLResponse(page.render(name=desk.evidence.name, data=page_data(desk), own=None))

    def own_file(request: "Request") -> "Response":
        name = request.path_params["name"]
        if name not in OWN_FILES:
            raise HTTPException(404)
        return Response((HERE / name).read_bytes(), media_type=OWN_FILES[name])

    def listed(request: "Request") -> "Response":
        asked = dict(request.query_params)
        start = asked.pop("start", "0")
        given = {name: asked.get(name, "") for name in ("view", "a", "b")}
        return JSONResponse(desk.listed(**given, start=int(start) if start.isdecimal() else 0))

    def picture(request: "Request") -> "Response":
        return JSONResponse(desk.picture(known_row(request)))

    def known_row(request: "Request") -> int:
        row = request.path_params["row"]
        if row not in desk.at and row not in desk.tested:
            raise HTTPException(404)
        return row

    def encoded(row: int, small: bool) -> bytes:
        if small:
            return webp(shrunk(desk.evidence.prepared.pixels[row], SMALL))
        return webp(shrunk(desk.large(row), LARGE), 85)

    def image(request: "Request") -> "Response":
        body = encoded(known_row(request), small="small" in request.query_params)
        return Response(body, media_type="image/webp", headers=KEPT)

    def attention(request: "Request") -> "Response":
        target = request.path_params["target"]
        if target >= len(desk.evidence.classes):
            raise HTTPException(404)
        pixels: np.ndarray = desk.attention(known_row(request), target)
        return Response(webp(shrunk(pixels, LARGE)), media_type="image/webp", headers=KEPT)

    def what_if(_: "Request") -> "Response":
        return JSONResponse(desk.what_if())

    async def decide(request: "Request") -> "Response":
        from starlette.concurrency import run_in_threadpool

        try:
            asked = await request.json()
            given = {name: value for name, value in asked.items() if name in FIELDS}
            return JSONResponse(await run_in_threadpool(desk.decide, **given))
        except (JSONDecodeError, AttributeError, TypeError):
            raise NoDecisionError(
                "no decision: row, click, action, new and note are expected"
            ) from None

    return [
        Route("/", index),
        Route("/list", listed),
        Route("/picture/{row:int}", picture),
        Route("/image/{row:int}.webp", image),
        Route("/attention/{row:int}/{target:int}.webp", attention),
        Route("/whatif", what_if),
        Route("/decide", decide, methods=["POST"]),
        Route("/{name}", own_file),
    ]


FIELDS = ("row", "click", "action", "new", "note")


def page_data(desk: Desk) -> dict[str, Any]:
    """What the script knows from the start."""
    return {
        "live": True,
        "name": desk.evidence.name,
        "classes": desk.evidence.classes,
        "kinds": desk.queue.kind.value_counts().to_dict(),
        "pairs": desk.pairs(),
        "progress": desk.progress(),
    }
