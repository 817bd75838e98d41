"""A real S3 endpoint on loopback, and a proxy before it that fails as it is told."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = "softmix-tests"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def s3_server() -> Iterator[int]:
    """Start moto as a process of its own, with one bucket; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    if ask(port, "PUT", f"/{BUCKET}")[0] == 200:
                        break
                except OSError:
                    assert process.poll() is None, "moto ended"
                    time.sleep(0.1)
            else:
                raise AssertionError("moto does not answer")
            yield port
        finally:
            process.terminate()


class Proxy:
    """Passes requests on, but for those that ``fails`` picks.

    Attributes
    ----------
    fails : callable
        Takes method and path of a request; true where it fails.
    status : int or None
        Of the answer to those; None drops the connection in the middle of a true answer.
    body : bytes
        Of that answer; the request's headers where it is empty.
    delay : float
        Seconds before a GET is answered.
    failed, most : int
        Requests that failed, and GETs that were under way at one time at most.
    """

    def __init__(self, target: int):
        self.target = target
        self.fails: Callable[[str, str], bool] = lambda method, path: False
        self.status: int | None = 503
        self.body, self.delay = b"", 0.0
        self.failed = self.most = self._now = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one packet: apart, they wait for each other's acknowledgement.
            wbufsize = -1

            def log_message(self, *arguments: Any) -> None:
                pass

            def any(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            self._now += request.command == "GET"
            self.most = max(self.most, self._now)
            fails = self.fails(request.command, request.path)
            self.failed += fails
        try:
            if request.command == "GET":
                time.sleep(self.delay)
            if fails and self.status is not None:
                self.answer(request, self.status, {}, self.body or bytes(request.headers))
                return
            connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)
            connection.request(request.command, request.path, body, dict(request.headers))
            found = connection.getresponse()
            content = found.read()
            connection.close()
            self.answer(request, found.status, dict(found.getheaders()), content, cut=fails)
        except OSError:
            request.close_connection = True
        finally:
            with self._lock:
                self._now -= request.command == "GET"

    def answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        content: bytes,
        cut: bool = False,
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "date", "server"):
                request.send_header(name, value)
        size = int(headers.get("Content-Length", 0)) if request.command == "HEAD" else len(content)
        request.send_header("Content-Length", str(size))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            request.close_connection = True

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
