"""A small reverse proxy, as nginx is one: it publishes a server under a prefix, and says who its client is.

    with ReverseProxy(port, prefix="/jobs", strip=True, headers={"X-Forwarded-Proto": "https"}) as proxy:
        get(f"http://127.0.0.1:{proxy.port}/jobs/")

Its headers replace those of the client. Paths outside of the prefix are 404. Answers are passed on as they come, streams too.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

OWN = ("connection", "keep-alive", "transfer-encoding", "date", "server")
"""Headers that belong to one connection, which the proxy makes anew."""


class ReverseProxy:
    """A reverse proxy in front of a port or a unix socket; see the module."""

    def __init__(self, target: int | Path, *, prefix: str, strip: bool, headers: Mapping[str, str]) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy._pass_on(self)

            do_POST = do_GET  # noqa: N815 - the name is that of the library

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.target, self.prefix, self.strip, self.headers = target, prefix, strip, headers
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> ReverseProxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        if not handler.path.startswith(self.prefix):
            handler.send_error(404)
            return
        path = handler.path.removeprefix(self.prefix) if self.strip else handler.path
        replaced = {name.lower() for name in self.headers}
        given = {name: value for name, value in handler.headers.items() if name.lower() not in (*OWN, *replaced)}
        body = handler.rfile.read(int(handler.headers.get("content-length", "0")))
        with contextlib.closing(self._connection()) as connection:
            connection.request(handler.command, path or "/", body or None, {**given, **self.headers})
            response = connection.getresponse()
            handler.send_response(response.status)
            for name, value in response.headers.items():
                if name.lower() not in OWN:
                    handler.send_header(name, value)
            handler.end_headers()
            with contextlib.suppress(OSError, http.client.HTTPException):  # the client is gone, or the server
                while part := response.read1(65536):
                    handler.wfile.write(part)
                    handler.wfile.flush()

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self.target, int):
            return http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        made = http.client.HTTPConnection("localhost", timeout=60)
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.connect(str(self.target))
        return made
