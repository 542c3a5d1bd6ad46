"""The AMQP connection: pika's, with our adapter, loop and codec, or with pika's own.

docs/transport.md says how much faster ours are, and how to measure that again.
"""

from __future__ import annotations

import logging
import math
import os

import pika
from pika import exceptions

from jobs_core.backend_kit import left
from jobs_core.errors import BackendError, BackendUnavailable

from ..url import CONNECT_TIMEOUT, Target
from .connection import COMMAND_TIMEOUT, BrokerConnection, OpenChannel
from .loop import Loop
from .own import OwnConnection
from .plain import PlainConnection, PlainLoop

KNOWN = ("1.4.",)
"""Releases of pika with whose internal interface our adapter is tested."""


def use_library() -> bool:
    """Return whether pika's own transport is used: with `JOBS_TRANSPORT=library`, or if the release is not in KNOWN."""
    return os.environ.get("JOBS_TRANSPORT") == "library" or not pika.__version__.startswith(KNOWN)


def new_loop() -> Loop:
    """Return the loop for the connections of one backend."""
    return PlainLoop() if use_library() else Loop()


def connect(target: Target, loop: Loop, *, heartbeat: int, name: str) -> BrokerConnection:
    """Connect to the first node that accepts a connection; if none does, raise the error of the last node."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # pika logs errors that we raise, with the fix
    last: BackendError = BackendUnavailable(f"{target.shown}: no node is named")
    for n, address in enumerate(target.addresses):
        patience = min(
            CONNECT_TIMEOUT, left(math.inf) / (len(target.addresses) - n)
        )  # a node that hangs must leave time for the others
        if isinstance(loop, PlainLoop):
            connection: BrokerConnection = PlainConnection(
                target, address, loop, heartbeat=heartbeat, name=name, patience=patience
            )
        else:
            connection = OwnConnection(target, address, loop, heartbeat=heartbeat, name=name, patience=patience)
        try:
            connection.opened()
            return connection
        except BackendUnavailable as error:
            last = error
        finally:
            if not connection.is_open:
                connection.abort(exceptions.AMQPConnectionError("given up"))
    raise last


__all__ = ["COMMAND_TIMEOUT", "Loop", "OpenChannel", "BrokerConnection", "connect", "new_loop"]
