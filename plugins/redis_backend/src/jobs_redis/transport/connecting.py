"""Connect to a server and log in, without redis-py, whose import takes longer than the rest of a first enqueue together."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .failures import Unreachable
from .opening import Opening
from .own import OwnProtocol

if TYPE_CHECKING:
    from ssl import SSLSocket

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Options by which the kernel notices a peer that has vanished; not every platform has them."""


class OwnConnection:
    """A connection to one server. One thread at a time."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._sock: socket.socket | None = None
        self._protocol: OwnProtocol | None = None
        self._pid = 0

    def connect(self) -> None:
        """Connect and log in, unless connected; raise a Failure or an OSError."""
        if self._sock is not None:
            return
        opening = self._opening
        try:
            self._sock = _connected(opening)
        except TimeoutError:
            raise TimeoutError("the time for connecting is over") from None
        except OSError as error:
            number, *text = error.args or ("",)
            told = f"Error {number} connecting to {opening.where}." + "".join(f" {part}." for part in text[:1])
            raise Unreachable(told) from error
        self._pid = os.getpid()
        try:
            self._protocol = OwnProtocol(self._sock, opening.timeout)
            commands = opening.login()
            if commands:
                self._protocol.send(*commands)
                for _ in commands:
                    self._protocol.read()
        except BaseException:
            self.disconnect()
            raise

    def ask(self, *command: Any) -> Any:
        """Send a command and return its reply."""
        assert self._protocol is not None
        self._protocol.send(command)
        return self._protocol.read()

    def disconnect(self) -> None:
        connected, self._sock, self._protocol = self._sock, None, None
        if connected is None:
            return
        if self._pid == os.getpid():  # in a forked child, this would end the parent's connection
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            connected.close()


def _connected(opening: Opening) -> socket.socket:
    if opening.address is None:
        return _to(opening, socket.AF_UNIX, 0, opening.path)
    failed: OSError | None = None
    for family, _, number, _, place in opening.found:
        try:
            connected = _to(opening, family, number, place)
        except OSError as error:
            failed = error
        else:
            return connected if opening.tls is None else _wrapped(connected, opening.address[0], opening.tls)
    raise failed or OSError("the host has no address")


def _to(opening: Opening, family: int, number: int, place: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM, number)
    try:
        if family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):
                    made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        made.settimeout(opening.connect_timeout)
        made.connect(place)
        made.settimeout(opening.timeout)
    except BaseException:
        made.close()
        raise
    return made


def _wrapped(connected: socket.socket, host: str, tls: Mapping[str, Any]) -> SSLSocket:
    """Return the socket after the handshake of TLS, which verifies the server's certificate and its name."""
    import ssl  # late: 20 ms, and most connections are without

    try:
        context = ssl.create_default_context()
        if tls["ssl_certfile"] or tls["ssl_keyfile"]:
            context.load_cert_chain(tls["ssl_certfile"], tls["ssl_keyfile"])
        if tls["ssl_ca_certs"] is not None:
            context.load_verify_locations(tls["ssl_ca_certs"])
        return context.wrap_socket(connected, server_hostname=host)
    except BaseException:
        connected.close()
        raise
