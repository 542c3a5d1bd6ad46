"""A real HTTP server on loopback that keeps the requests that it gets and answers as it is told."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .project import until
from .stopwatch import Stopwatch


class Receiver:
    """Answer every POST with `status` and `answer`; `drip` sends the answer a byte at a time, `hang` none at all."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.paths: list[str] = []
        self.bodies: list[Any] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status, self.answer, self.location = 200, b"ok", ""
        self.busy = 0  # so many more requests are answered with 503 and Retry-After
        self.drip = 0.0
        self.hang = threading.Event()
        self.hang.set()  # set: does not hang
        self._ended = threading.Event()
        self._lock = threading.Lock()  # requests come in threads of their own, and the lists belong together
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._receive(self)

            def log_message(self, *args: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore clients that disconnect: some tests are about them."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def _receive(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        with self._lock:
            self.headers.append(dict(request.headers))
            self.paths.append(request.path)
            self.raw.append(body)
            self.bodies.append(json.loads(body))
        self.hang.wait()
        with self._lock:
            is_busy = self.busy > 0
            self.busy -= is_busy
        if is_busy:
            request.wfile.write(b"HTTP/1.0 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
            return
        head = f"HTTP/1.0 {self.status} Said\r\n" + (f"Location: {self.location}\r\n" if self.location else "")
        answer = (head + f"Content-Length: {len(self.answer)}\r\n\r\n").encode() + self.answer
        if not self.drip:
            request.wfile.write(answer)
            return
        for byte in answer:
            if self._ended.wait(self.drip):
                return
            request.wfile.write(bytes([byte]))

    def until(self, number: int) -> list[Any]:
        """Return the bodies once there are this many."""
        until(lambda: len(self.bodies) >= number)
        return self.bodies

    def close(self) -> None:
        self.hang.set()
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def seconds(action: Any) -> float:
    """Return how long a request took."""
    watch = Stopwatch()
    action()
    return watch.stop()
