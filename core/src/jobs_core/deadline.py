"""The time until which the current thread may wait for a server: one deadline for all waits of an enqueue.

`enqueue_timeout` holds even if the server is frozen, accepts and never answers, or answers each step just in time. So each
wait on the way (for a name's address, a connection, TLS, a login, a reply, a lock) asks `left` how long it may take. Without
a deadline, as in a worker, `left` returns the time that was asked for.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from typing import Any, Final, TypeAlias

Found: TypeAlias = "list[tuple[Any, Any, int, str, Any]]"


class Deadline(threading.local):
    """The time at which each thread gives up, by time.monotonic(). Code that sets it restores the previous value."""

    at: float = math.inf


deadline: Final = Deadline()


def left(most: float) -> float:
    """Return how many seconds a wait may take: `most`, or less if the deadline is nearer, down to 0."""
    rest = deadline.at - time.monotonic()
    if rest >= most:
        return most
    return max(0.0, rest)


def addresses(host: str, port: int, timeout: float) -> Found:
    """Return `socket.getaddrinfo` for TCP, within `timeout` and the deadline; raises OSError.

    The system's resolver cannot be interrupted: on a timeout, the thread that called it continues until it returns.
    """
    try:
        return socket.getaddrinfo(_name(host), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:  # it is a name
        pass
    answers: list[Found | OSError] = []

    def ask() -> None:
        try:
            answers.append(socket.getaddrinfo(_name(host), port, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.append(error)

    asking = threading.Thread(target=ask, name="jobs-resolve", daemon=True)
    asking.start()
    asking.join(left(timeout))
    if not answers:
        raise TimeoutError(f"the address of {host} could not be looked up in time: is the name server answering?")
    if isinstance(answers[0], OSError):
        raise answers[0]
    return answers[0]


def _name(host: str) -> bytes | str:
    """Return a host as bytes if it is ASCII: for a str, Python imports the codec of international names."""
    return host.encode() if host.isascii() else host


__all__ = ["Deadline", "addresses", "deadline", "left"]
