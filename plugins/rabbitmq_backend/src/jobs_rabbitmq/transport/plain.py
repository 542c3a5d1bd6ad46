"""The transport of pika alone: its SelectConnection on its event loop.

It is slower, and sends heartbeats later while a job holds the interpreter, but it hardly uses undocumented parts of pika.
`use_library` says when it is used.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from pika.adapters import select_connection
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.exceptions import AMQPConnectionError, IncompatibleProtocolError

from jobs_core.backend_kit import Address

from ..url import CONNECT_TIMEOUT, Target
from .connection import BrokerConnection, OpenChannel
from .loop import LONGEST_TURN, Loop


class PlainLoop(Loop):
    """A `Loop` that runs pika's event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.ioloop = _new_ioloop()
        self.ioloop.activate_poller()
        weakref.finalize(self, self.ioloop.close)
        heard = weakref.WeakMethod(self._hear)  # weak: pika's loop, which is closed after this object, must not keep it alive
        self.ioloop.add_handler(self._interrupts.fileno(), lambda *_: (heard() or _nothing)(), IOLoop.READ)

    def look(self) -> None:
        self._turn(0.0)

    def _turn(self, longest: float) -> None:
        end = self.ioloop.call_later(min(longest, LONGEST_TURN), _nothing)
        self.ioloop.poll()
        self.ioloop.process_timeouts()
        self.ioloop.remove_timeout(end)


class PlainConnection(BrokerConnection, SelectConnection):
    """A connection through pika's own adapter."""

    def __init__(
        self, target: Target, address: Address, loop: PlainLoop, *, heartbeat: int, name: str, patience: float = CONNECT_TIMEOUT
    ) -> None:
        super().__init__(target, address, loop, heartbeat=heartbeat, name=name, patience=patience, custom_ioloop=loop.ioloop)

    def writable(self) -> None:
        """Do nothing: the next turn of the loop writes."""

    def flush(self) -> None:
        if self._unsent():
            self.wait_for(lambda: not self._unsent())

    def abort(self, reason: BaseException) -> None:
        if self.is_closed:  # pika is closing its channels, and tells us after that
            self.failure = self.failure or reason
        elif self.failure is None:
            super().abort(reason)
            self._loop.look()  # this turn closes the socket

    def _unsent(self) -> int:
        return 0 if self._transport is None else int(self._get_write_buffer_size())

    def _create_channel(self, channel_number: int, on_open_callback: Callable[[Any], Any] | None) -> OpenChannel:
        return OpenChannel(self, channel_number, on_open_callback)

    def _on_end(self, connection: Any, error: BaseException) -> None:
        if isinstance(error, IncompatibleProtocolError) and self.params.ssl_options is not None:
            error = AMQPConnectionError(*error.args)  # pika blames AMQP, but the TLS handshake has failed
        super()._on_end(connection, _cause(error))


def _new_ioloop() -> IOLoop:
    """Return a loop on poll(): forked processes would share an epoll() with us, and could change our registrations."""
    before, select_connection.SELECT_TYPE = select_connection.SELECT_TYPE, "poll"
    try:
        return IOLoop()
    finally:
        select_connection.SELECT_TYPE = before


def _cause(error: BaseException) -> BaseException:
    """Return the error of the operating system or the broker that pika has wrapped."""
    while True:
        inner = [*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args]
        wrapped = [each for each in inner if isinstance(each, BaseException)]
        if not wrapped:
            return error
        error = wrapped[-1] if getattr(error, "exceptions", ()) else wrapped[0]


def _nothing() -> None:
    """Do nothing: a callback that only ends a wait."""
