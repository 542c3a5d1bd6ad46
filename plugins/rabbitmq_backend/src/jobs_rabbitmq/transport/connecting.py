"""Connect without blocking the loop, so that other connections get their heartbeats meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

from jobs_core.backend_kit import Address, addresses

from .loop import Loop


class _Connecting:
    """A socket that is being connected, watched by the loop."""

    def __init__(self, stream: socket.socket) -> None:
        self._descriptor = stream.fileno()
        self.writes = True
        self.ready = False

    def fileno(self) -> int:
        return self._descriptor

    def wants_to_write(self) -> bool:
        return self.writes and not self.ready

    def readable(self) -> None:
        self.ready = True

    writable = readable

    def pulse(self) -> None:
        pass


def dial(address: Address, loop: Loop, timeout: float, tls: ssl.SSLContext | None) -> socket.socket:
    """Return a non-blocking socket that is connected to a host; raise OSError.

    `timeout` applies to resolving the host, and to each of its addresses.
    """
    last = OSError("it has no address")
    loop.pulse()
    for family, kind, protocol, _, where in addresses(*address, timeout):
        loop.pulse()  # each of these calls may have to wait for the interpreter
        stream = socket.socket(family, kind, protocol)
        loop.pulse()
        try:
            stream.setblocking(False)
            loop.pulse()
            _connect(stream, where, loop, timeout)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return _secured(stream, address[0], loop, timeout, tls) if tls is not None else stream
        except OSError as error:
            stream.close()
            last = error
    raise last


def _connect(stream: socket.socket, where: object, loop: Loop, timeout: float) -> None:
    with contextlib.suppress(BlockingIOError):
        stream.connect(where)  # type: ignore[arg-type]  # as getaddrinfo gave it
    _wait(_Connecting(stream), loop, timeout)
    number = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _secured(stream: socket.socket, host: str, loop: Loop, timeout: float, tls: ssl.SSLContext) -> ssl.SSLSocket:
    secured = tls.wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
    while True:
        waiting = _Connecting(secured)
        try:
            secured.do_handshake()
            return secured
        except ssl.SSLWantReadError:
            waiting.writes = False
        except ssl.SSLWantWriteError:
            pass
        except OSError:
            secured.close()
            raise
        _wait(waiting, loop, timeout)


def _wait(dialled: _Connecting, loop: Loop, timeout: float) -> None:
    loop.add(dialled)
    try:
        if not loop.answered(lambda: dialled.ready, timeout):
            raise TimeoutError("it does not answer")
    finally:
        loop.remove(dialled.fileno())
