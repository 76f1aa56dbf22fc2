"""The review page over HTTP: for this machine alone, behind an address that nobody can guess."""

import secrets
import socket
import threading
from json import JSONDecodeError
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from pipeline.base.cli import UserError, explain, say
from pipeline.pages.choices import about
from pipeline.pages.desk import Desk, NoDecisionError
from pipeline.pages.page import HERE, environment, shrunk, webp

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
FIELDS = ("row", "id", "click", "action", "new", "note")  # of a decision
OWN_FILES = {f"{name}.js": "text/javascript" for name in ("review", "labels", "whatif")}
OWN_FILES |= {f"{name}.css": "text/css" for name in ("review", "style")}


def serve(desk: Desk, port: int) -> None:
    """Answer until Ctrl-C. A port that is taken gives way to any that is free."""
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


def make_app(desk: Desk, token: str) -> Starlette:
    """The page under /TOKEN/. Whoever asks by another host name or without the token gets none."""

    async def guard(request: Request, call_next: Any) -> Response:
        given = request.url.path.lstrip("/").partition("/")[0]
        known = secrets.compare_digest(given.encode(), token.encode())
        text = "no page here: open the address that the terminal shows\n"
        response = await call_next(request) if known else PlainTextResponse(text, 403)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def told(_: Request, error: Exception) -> Response:
        status = 422 if isinstance(error, NoDecisionError) else 500
        return JSONResponse({"error": explain(error) or "the server failed"}, status)

    hosts = ["127.0.0.1", "localhost"]  # another name that leads here is an attack by DNS
    return Starlette(
        routes=[Mount(f"/{token}", routes=Answers(desk).routes)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(BaseHTTPMiddleware, dispatch=guard),
        ],
        exception_handlers={UserError: told, OSError: told},
    )


class Answers:
    """What is asked of the desk. All but a decision is read in threads, side by side."""

    def __init__(self, desk: Desk):
        self.desk, self.page = desk, environment().get_template("review.html")
        self.routes = [
            Route("/", self.index),
            Route("/list", self.listed),
            Route("/picture/{row:int}", self.picture),
            Route("/image/{row:int}.webp", self.image),
            Route("/attention/{row:int}/{target:int}.webp", self.attention),
            Route("/whatif", self.what_if),
            Route("/decide", self.decide, methods=["POST"]),
            Route("/{name}", self.own_file),
        ]

    def index(self, _: Request) -> Response:
        desk = self.desk
        data = {
            "live": True,
            **about(desk.evidence),
            "kinds": desk.queue.kind.value_counts().to_dict(),
            "pairs": desk.pairs(),
            "progress": desk.progress(),
        }
        return HTMLResponse(self.page.render(name=desk.evidence.name, data=data, own=None))

    def own_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in OWN_FILES:
            raise HTTPException(404)
        return Response((HERE / name).read_bytes(), media_type=OWN_FILES[name])

    def listed(self, request: Request) -> Response:
        asked = request.query_params
        view, a, b, start = (asked.get(name, "") for name in ("view", "a", "b", "start"))
        number = int(start) if start.isdecimal() else 0
        return JSONResponse(self.desk.listed(view, a, b, number))

    def picture(self, request: Request) -> Response:
        return JSONResponse(self.desk.picture(self.row(request)))

    def row(self, request: Request) -> int:
        row = request.path_params["row"]
        if row not in self.desk.at and row not in self.desk.tested:
            raise HTTPException(404)
        return row

    def image(self, request: Request) -> Response:
        row = self.row(request)
        if "small" in request.query_params:
            body = webp(shrunk(self.desk.packed(row), SMALL))
        else:
            body = webp(shrunk(self.desk.large(row), LARGE), 85)
        return Response(body, media_type="image/webp", headers=KEPT)

    def attention(self, request: Request) -> Response:
        target = request.path_params["target"]
        if target >= len(self.desk.evidence.classes):
            raise HTTPException(404)
        pixels = self.desk.attention(self.row(request), target)
        return Response(webp(shrunk(pixels, LARGE)), media_type="image/webp", headers=KEPT)

    def what_if(self, request: Request) -> Response:
        more, count = (request.query_params.get(name, "") for name in ("more", "count"))
        return JSONResponse(self.desk.what_if(more, int(count) if count.isdecimal() else 0))

    async def decide(self, request: Request) -> Response:
        try:
            asked = await request.json()
            given = {name: value for name, value in asked.items() if name in FIELDS}
            return JSONResponse(await run_in_threadpool(self.desk.decide, **given))
        except (JSONDecodeError, AttributeError, TypeError):
            text = f"no decision: {', '.join(FIELDS)} are expected"
            raise NoDecisionError(text) from None
