"""The listening socket, with its access control and ZeroMQ's reports of closed connections."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import zmq

from jobs_core.errors import BackendError

from .. import keys, sockets
from .. import protocol as p
from .authentication import DOMAIN, Authenticator
from .ipc import PrivateSocket

logger = logging.getLogger("jobs.broker")

SAY_EVERY = 60.0
"""Seconds between log lines which say that no further clients can connect."""

SPARE = 32
"""File descriptors reserved for the broker, and for rejecting clients; at most an eighth of the limit."""


class Listener:
    """The listening socket; creating it raises BackendError if it cannot listen as configured."""

    def __init__(self, endpoints: Sequence[str], keys_directory: Path | None) -> None:
        self.authenticator: Authenticator | None = None
        self.endpoints: list[str] = []
        """The addresses on which it listens, with the actual port where a wildcard was configured."""
        self._private: list[PrivateSocket] = []
        self._said = -SAY_EVERY
        self.socket = sockets.context().socket(zmq.ROUTER)
        self.monitor = self.socket.get_monitor_socket(zmq.Event.DISCONNECTED)
        try:
            self._set_options(any("[" in endpoint for endpoint in endpoints))
            if keys_directory is not None:
                self._lock(keys_directory)
            else:
                self._count()
            for endpoint in endpoints:
                if endpoint.startswith("ipc://"):
                    self._private.append(PrivateSocket(Path(endpoint.removeprefix("ipc://"))))
                self._bind(endpoint)
        except BaseException:
            self.close()
            raise

    def _set_options(self, ipv6: bool) -> None:
        sockets.beat(self.socket)
        for option, value in (
            (zmq.LINGER, 200),
            (zmq.ROUTER_MANDATORY, 1),  # sending to a client that has disconnected raises an error
            (zmq.MAXMSGSIZE, p.MAX_FRAME),
            (zmq.HANDSHAKE_IVL, 5000),
            (zmq.BACKLOG, 1024),
            (zmq.SNDHWM, 10_000),  # never reached: a client has one request at a time
            (zmq.RCVHWM, 10_000),
            (zmq.IPV6, int(ipv6)),
        ):
            self.socket.setsockopt(option, value)

    def _lock(self, directory: Path) -> None:
        """Accept only clients on the list, and encrypt their connections."""
        public, secret = keys.load_pair(directory / f"{keys.BROKER}.key_secret")
        self.authenticator = Authenticator(sockets.context(), keys.AllowList(directory / keys.CLIENTS), self.has_room)
        self.socket.zap_domain = DOMAIN
        self.socket.curve_server = True
        self.socket.curve_publickey, self.socket.curve_secretkey = public, secret

    def _count(self) -> None:
        """Accept all clients, as long as there are file descriptors."""
        with contextlib.suppress(zmq.ZMQError):  # tests run many brokers in a process; only one can have an authenticator
            self.authenticator = Authenticator(sockets.context(), None, self.has_room)
            self.socket.zap_domain = DOMAIN

    def _bind(self, endpoint: str) -> None:
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise BackendError(f"cannot listen at {endpoint}: {error}") from None
        self.endpoints.append(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def close(self) -> None:
        """Stop listening; answers that are already queued are still sent."""
        self.socket.disable_monitor()
        self.socket.close()
        self.monitor.close(0)
        if self.authenticator is not None:
            self.authenticator.close()
        for private in self._private:
            private.close()

    def has_news(self) -> bool:
        """Return whether a connection has ended since the last call, by a close or two missed heartbeats."""
        ended = False
        while sockets.readable(self.monitor):
            self.monitor.recv_multipart(zmq.NOBLOCK)
            ended = True
        return ended

    def has_room(self) -> bool:
        """Return whether file descriptors are left for more clients; if not, log it every SAY_EVERY seconds."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit == resource.RLIM_INFINITY or self._lowest_free() < limit - min(SPARE, limit // 8):
            return True
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            logger.warning(
                "no descriptor is left (the limit is %d): no more clients can connect until some leave; "
                "allow more: `ulimit -n`, or LimitNOFILE= in a systemd unit",
                limit,
            )
        return False

    def _lowest_free(self) -> float:
        """Return the lowest free descriptor number, which is at most the number of descriptors in use."""
        try:
            free = os.dup(int(self.monitor.FD))
        except OSError as error:
            return float("inf") if error.errno in (errno.EMFILE, errno.ENFILE) else 0.0
        os.close(free)
        return free
