"""A stand-in for Kaggle on the loopback, for Kaggle's real client in this or another process.

The client is sent here by two variables: KAGGLE_API_ENVIRONMENT=LOCALHOST makes it talk plain
HTTP to `localhost`, and http_proxy makes that name end here.
"""

import io
import json
import re
import socket
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

HOST = "http://localhost"
Json = dict[str, Any]


@dataclass
class Trouble:
    """Calls of a method that go wrong: from the `first` of them on, `times` in a row.

    `how` is an HTTP status, "reset" of the connection, "silence" on it, or "page": an HTML page
    with status 200. `done`: it takes effect all the same, and the answer alone is lost.
    """

    how: int | str = 503
    first: int = 1
    times: int = 1
    done: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class KaggleStub:
    """What this Kaggle holds, what was asked of it, and how it is to fail. A context manager."""

    def __init__(self) -> None:
        self.calls: list[str] = []  # method names in order, GET and PUT paths too
        self.requests: dict[str, Json] = {}  # the last request of each method
        self.fail: dict[str, tuple[int, str]] = {}  # method -> HTTP status and message
        self.trouble: dict[str, Trouble] = {}  # by method, or PUT and GET
        self.stale_polls = 0  # after a push of a notebook, that tell the end of the last version
        self.stale = {"status": "COMPLETE"}
        self.answer: dict[str, Json] = {}  # method -> answer in place of the stub's own
        self.silent = threading.Event()  # set: who waits in silence is let go
        self.token = "good-token"
        self.competitions: dict[str, dict[str, bytes]] = {}  # slug -> its files
        self.cut: int | None = None  # the next download breaks off after so many bytes
        self.lost = False  # nothing answers one who asks for the rest of it
        self.daily = 5
        self.pending_polls = 0  # polls before a submission has its score, a notebook its end
        self.score = ("0.91", "0.90")  # public, private
        self.verdict = "COMPLETE"  # or ERROR
        self.submissions: list[Json] = []
        self.datasets: dict[str, list[Json]] = {}  # OWNER/SLUG -> a request per version
        self.kernels: dict[str, list[Json]] = {}
        self.output: dict[str, bytes] = {"submission.csv": b"id,label\n2,1\n"}
        self.outputs: dict[str, dict[str, bytes]] = {}  # by v1, v2, …, in place of `output`
        self._stale_left = 0
        self.blobs: dict[str, bytes] = {}
        self.downloads: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.stub = True, self
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.silent.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send the real client here."""
        port = self.server.server_address[1]
        return {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": f"http://127.0.0.1:{port}"}

    # what it answers: one function per RPC, request in, answer out
    def IntrospectToken(self, ask: Json) -> Json:
        return {"active": ask.get("token") == self.token, "username": "tester"}

    def ListDataFiles(self, ask: Json) -> Json:
        files = self._competition(ask).items()
        return {"files": [{"name": name, "totalBytes": len(data)} for name, data in files]}

    def DownloadDataFiles(self, ask: Json) -> str:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self._competition(ask).items():
                archive.writestr(zipfile.ZipInfo(name), data)
        name = f"{ask['competitionName']}.zip"
        self.downloads[name] = packed.getvalue()
        return f"{HOST}/files/{name}"

    def _competition(self, ask: Json) -> dict[str, bytes]:
        if ask["competitionName"] not in self.competitions:
            raise RefusedError(404, "Not found")
        return self.competitions[ask["competitionName"]]

    def StartSubmissionUpload(self, ask: Json) -> Json:
        return self._upload()

    def StartBlobUpload(self, ask: Json) -> Json:
        return self._upload()

    def _upload(self) -> Json:
        token = f"blob{self.calls.count('PUT') + 1}"
        return {"token": token, "createUrl": f"{HOST}/upload/{token}"}

    def CreateSubmission(self, ask: Json) -> Json:
        self.submissions.append({**ask, "csv": self.blobs[ask["blobFileTokens"]].decode()})
        return {"message": "Successfully submitted", "ref": len(self.submissions)}

    def CreateCodeSubmission(self, ask: Json) -> Json:
        self.submissions.append(ask)
        return {"message": "Successfully submitted notebook", "ref": len(self.submissions)}

    def GetSubmissionLimits(self, ask: Json) -> Json:
        made = len(self.submissions)
        return {"numToday": made, "numAllowedNow": self.daily - made}

    def ListSubmissions(self, ask: Json) -> Json:
        waiting = self._waiting()
        public, private = ("", "") if waiting else self.score
        about = {
            "date": "2026-11-24T00:00:00Z",
            "status": "PENDING" if waiting else self.verdict,
            "errorDescription": "" if self.verdict == "COMPLETE" else "Missing rows",
            "publicScore": public,
            "privateScore": private,
        }
        made = list(enumerate(self.submissions, start=1))[::-1][: ask.get("pageSize", 20)]
        return {
            "submissions": [
                {"ref": ref, "description": one["submissionDescription"], **about}
                for ref, one in made
            ]
        }

    def _waiting(self) -> bool:
        self.pending_polls -= 1
        return self.pending_polls >= 0

    def GetDatasetStatus(self, ask: Json) -> Json:
        if f"{ask['ownerSlug']}/{ask['datasetSlug']}" not in self.datasets:
            raise RefusedError(404, "Not found")
        return {"status": "READY"}

    def GetDataset(self, ask: Json) -> Json:
        ref = f"{ask['ownerSlug']}/{ask['datasetSlug']}"
        return {"ref": ref, "currentVersionNumber": len(self.datasets[ref])}

    def CreateDataset(self, ask: Json) -> Json:
        return self._keep(self.datasets, f"{ask['ownerSlug']}/{ask['slug']}", ask)

    def CreateDatasetVersion(self, ask: Json) -> Json:
        return self._keep(self.datasets, f"{ask['ownerSlug']}/{ask['datasetSlug']}", ask)

    def SaveKernel(self, ask: Json) -> Json:
        self._stale_left = self.stale_polls
        return self._keep(self.kernels, ask["slug"], ask)

    def GetKernel(self, ask: Json) -> Json:
        ref = f"{ask['userName']}/{ask['kernelSlug']}"
        if ref not in self.kernels:
            raise RefusedError(404, "Not found")
        return {"metadata": {"ref": ref, "currentVersionNumber": len(self.kernels[ref])}}

    def _keep(self, where: dict[str, list[Json]], ref: str, ask: Json) -> Json:
        where.setdefault(ref, []).append(ask)
        url = f"https://www.kaggle.com/{ref}"
        return {"ref": ref, "url": url, "status": "ok", "versionNumber": len(where[ref])}

    def GetKernelSessionStatus(self, ask: Json) -> Json:
        self._stale_left -= 1
        if self._stale_left >= 0:
            return self.stale
        return {"status": "RUNNING" if self._waiting() else "COMPLETE"}

    def ListKernelSessionOutput(self, ask: Json) -> Json:
        made = self.kernels.get(f"{ask['userName']}/{ask['kernelSlug']}", [])
        output = self.outputs.get(ask.get("versionLabel", f"v{len(made)}"), self.output)
        self.downloads |= output
        files = [{"url": f"{HOST}/files/{name}", "fileName": name} for name in output]
        return {"files": files, "log": "[]"}


class RefusedError(Exception):
    """An HTTP status and a message instead of an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's delayed ACK

    @property
    def stub(self) -> KaggleStub:
        return self.server.stub

    def log_message(self, *_: object) -> None:
        """Silence."""

    def handle_one_request(self) -> None:
        """The client sends a body 40 ms after its head, unless that is acknowledged at once."""
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        super().handle_one_request()

    def do_POST(self) -> None:
        ask = json.loads(self._body() or b"{}")
        method = re.search(r"/v1/[\w.]+/(\w+)$", urlsplit(self.path).path)[1]
        self.stub.calls.append(method)
        self.stub.requests[method] = ask
        trouble = self._trouble(method)
        if trouble and not trouble.done:
            return self._fail(trouble)
        try:
            if method in self.stub.fail:
                raise RefusedError(*self.stub.fail[method])
            answer = self.stub.answer.get(method) or getattr(self.stub, method)(ask)
        except RefusedError as refused:
            code, message = refused.args
            return self._json(code, {"code": code, "message": message})
        if trouble:
            return self._fail(trouble)
        if isinstance(answer, str):
            return self._send(302, b"", Location=answer)
        return self._json(200, answer)

    def do_PUT(self) -> None:
        body = self._body()
        self.stub.calls.append("PUT")
        if trouble := self._trouble("PUT"):
            return self._fail(trouble)
        if "PUT" in self.stub.fail:
            return self._json(self.stub.fail["PUT"][0], {})
        self.stub.blobs[self.path.rsplit("/", 1)[-1]] = body
        return self._json(200, {"ok": True})

    def do_GET(self) -> None:
        """A file whole, or from the byte a Range header asks for; broken off if so told."""
        name = unquote(urlsplit(self.path).path.partition("/files/")[2])
        whole = self.stub.downloads[name]
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        self.stub.calls.append(f"GET {start}")
        if trouble := self._trouble("GET"):
            return self._fail(trouble)
        if start and self.stub.lost:
            self.close_connection = True
            return None
        data = whole[start:]
        about = {"Last-Modified": "Thu, 02 Jan 2020 02:17:12 GMT", "Accept-Ranges": "bytes"}
        if wanted:
            about["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        cut, self.stub.cut = self.stub.cut, None
        return self._send(206 if wanted else 200, data, cut, **about)

    def _trouble(self, method: str) -> Trouble | None:
        """What is to go wrong with this call, which is in `calls` already."""
        trouble = self.stub.trouble.get(method)
        made = sum(call.split()[0] == method for call in self.stub.calls)
        ill = trouble and trouble.first <= made < trouble.first + trouble.times
        return trouble if ill else None

    def _fail(self, trouble: Trouble) -> None:
        if trouble.how == "page":
            page = b"<html>We are back soon</html>"
            return self._send(200, page, **{"Content-Type": "text/html"})
        if isinstance(trouble.how, int):
            body = json.dumps({"code": trouble.how, "message": "ill"}).encode()
            about = {"Content-Type": "application/json", **trouble.headers}
            return self._send(trouble.how, body, **about)
        self.close_connection = True
        if trouble.how == "silence":
            self.stub.silent.wait(20)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
        return self.connection.close()

    def _json(self, code: int, body: Json) -> None:
        self._send(code, json.dumps(body).encode(), **{"Content-Type": "application/json"})

    def _send(self, code: int, body: bytes, cut: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = self.close_connection or cut is not None

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
