"""One POST of JSON that ends in time, whatever the server does. Imported only when there is something to send."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.error import HTTPError, URLError

import msgspec

PATIENCE = 5.0
"""Seconds for the whole request: name, connection, TLS, request and answer."""

_LONGEST_ANSWER = 65536


def post(url: str, document: Any, headers: Mapping[str, str] = {}, *, patience: float = PATIENCE) -> bytes:
    """Send JSON and return the body of the answer; raise ConnectionError, whose text contains no part of the URL.

    Certificates are verified, HTTPS_PROXY, HTTP_PROXY and NO_PROXY apply, and redirects are not followed.
    """
    request = urllib.request.Request(
        url,
        msgspec.json.encode(document, enc_hook=str),
        {"Content-Type": "application/json; charset=utf-8", "User-Agent": "jobs", **headers},
        method="POST",
    )
    try:
        with _deadline(patience) as limit, limit.opener.open(request, timeout=patience) as response:
            return limit.read(response)
    except HTTPError as error:
        with error:
            raise ConnectionError(_refusal(error)) from None
    except URLError as error:
        raise ConnectionError(f"cannot be reached: {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"gave no usable answer: {error}") from None


def _refusal(error: HTTPError) -> str:
    if 300 <= error.code < 400:
        return f"answered {error.code}, a redirect, which is not followed: configure the address it leads to"
    first = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        first = error.read(200).strip()
    said = first.decode(errors="replace").splitlines()
    return f"answered {error.code} {error.reason}" + (f": {said[0]}" if said else "")


class _Limit:
    """Shuts the connections of one request when its time is over, because urllib's timeout bounds only each single read."""

    def __init__(self, patience: float) -> None:
        self._end = time.monotonic() + patience
        self._connections: list[socket.socket] = []
        self.opener = urllib.request.OpenerDirector()  # not build_opener, which adds handlers for files, FTP and redirects
        for handler in (
            urllib.request.ProxyHandler(),
            _Http(self._connections),
            _Https(self._connections),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            self.opener.add_handler(handler)

    def read(self, response: Any) -> bytes:
        """Return the first `_LONGEST_ANSWER` bytes of the body, or all of it."""
        body = b""
        while len(body) < _LONGEST_ANSWER and (part := response.read1(_LONGEST_ANSWER)):
            body += part
        if time.monotonic() > self._end:
            raise TimeoutError("timed out")
        return body

    def shut(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@contextlib.contextmanager
def _deadline(patience: float) -> Iterator[_Limit]:
    limit = _Limit(patience)
    timer = threading.Timer(patience, limit.shut)
    timer.daemon = True
    timer.start()
    try:
        yield limit
    finally:
        timer.cancel()
        timer.join()  # later, it would shut a closed connection, whose descriptor may have been reused
        limit.close()


class _BoundedConnection(http.client.HTTPConnection):
    """Keeps a second handle on its socket as soon as it exists, before TLS begins on it."""

    noted: list[socket.socket]

    def connect(self) -> None:
        super().connect()
        self.noted.append(self.sock.dup())


class _TlsConnection(http.client.HTTPSConnection, _BoundedConnection):
    """With this order of bases, HTTPSConnection connects through `_BoundedConnection`."""


class _Http(urllib.request.HTTPHandler):
    def __init__(self, noted: list[socket.socket]) -> None:
        super().__init__()
        self._plain = cast("type[_BoundedConnection]", type("_Plain", (_BoundedConnection,), {"noted": noted}))

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._plain, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, noted: list[socket.socket]) -> None:
        super().__init__()
        self._tls = cast("type[_TlsConnection]", type("_Tls", (_TlsConnection,), {"noted": noted}))

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._tls, request, context=ssl.create_default_context())
