"""A server of files on this machine that fails in the ways that servers do."""

import collections
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STALL = 3.0
"""Seconds without a byte."""


class LoopbackServer:
    """Serves `files`, by ranges too, and `answers`; `faults` come first, one for each request.

    Faults: a status, optionally with Retry-After as (status, seconds); "stall" and "truncate",
    half-way through the body; "no ranges"; "other part" of the file.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Any] = {}
        self.faults: dict[str, list[Any]] = collections.defaultdict(list)
        self.asked: list[tuple[str, str]] = []
        self.most = self._under_way = 0
        self._lock = threading.Lock()
        self.address = ""

    def count(self, change: int) -> None:
        with self._lock:
            self._under_way += change
            self.most = max(self.most, self._under_way)


@contextmanager
def serve() -> Iterator[LoopbackServer]:
    server = LoopbackServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            server.count(1)
            try:
                answer(server, self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                server.count(-1)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.address = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def answer(server: LoopbackServer, request: BaseHTTPRequestHandler) -> None:
    path, wanted = request.path.partition("?")[0], request.headers.get("Range", "")
    server.asked.append((request.path, wanted))
    fault = server.faults[path].pop(0) if server.faults[path] else None
    status, wait = fault if isinstance(fault, tuple) else (fault, None)
    if isinstance(status, int):
        headers = {} if wait is None else {"Retry-After": str(wait)}
        reply(request, status, b"", headers)
        return
    body = server.files.get(path)
    if request.path in server.answers:
        body = server.answers[request.path]
    if body is None:
        reply(request, 404, b"")
        return
    first = 0
    if wanted and fault != "no ranges":
        first = int(wanted.removeprefix("bytes=").rstrip("-"))
        first += fault == "other part"
    if first >= len(body) > 0:
        reply(request, 416, b"")
        return
    headers = {"ETag": '"1"'}
    if first:
        headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
    reply(request, 206 if first else 200, body[first:], headers, fault)


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    fault: str | None = None,
) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    half = len(body) // 2
    if fault not in ("stall", "truncate"):
        request.wfile.write(body)
        return
    request.wfile.write(body[:half])
    request.wfile.flush()
    if fault == "stall":
        time.sleep(STALL)
    request.close_connection = True
