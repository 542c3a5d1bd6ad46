"""Requests over a unix socket, as a probe or Prometheus behind a proxy makes them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def fetch(path: Path, url: str, headers: Mapping[str, str] | None = None) -> str:
    """Return the body of a response with status 200 from the server that listens on this socket."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", url, headers=dict(headers or {}))
        response = connection.getresponse()
        assert response.status == 200, response.status
        return response.read().decode()
    finally:
        connection.close()
