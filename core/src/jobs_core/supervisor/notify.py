"""Report the supervisor's state to systemd or a compatible manager: ready, reloading, stopping, alive. See `man sd_notify`.

Without NOTIFY_SOCKET in the environment nothing is sent, at no cost.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

from ..escapes import one_line

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def address_of(environ: Mapping[str, str]) -> str | None:
    """Return the socket's address: a path, or a name that begins with NUL for an abstract one ("@" in the variable).

    None if no manager listens, or on an unsupported kind of socket (vsock, between virtual machines).
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        return "\0" + address[1:]
    return address if address.startswith("/") else None


def watchdog_of(environ: Mapping[str, str], pid: int) -> float | None:
    """Return after how many seconds of silence systemd kills the service; None if it does not watch this process."""
    microseconds, watched = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isascii() or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6 if watched in ("", str(pid)) else None


class Notifier:
    """The connection to systemd. It never blocks and never raises: a manager that hangs must not stop jobs."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        """Seconds of silence after which systemd kills the service; None: never."""
        self._beat_at = 0.0
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._address = address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ, pid: int | None = None) -> Notifier:
        """Return the notifier of this process; remove its variables from the environment, which jobs inherit."""
        made = cls(address_of(environ), watchdog_of(environ, pid or os.getpid()))
        for name in VARIABLES:
            environ.pop(name, None)
        return made

    def ready(self, status: str = "") -> None:
        """Report that the service is ready, after the start and again after each reload."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """Report that the service is loading a new configuration; `ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "", extend: float = 0.0) -> None:
        """Report that the service is stopping, and may take `extend` seconds from now, whatever TimeoutStopSec says."""
        self._send("STOPPING=1", *_extension(extend), *_status(status))

    def extend(self, seconds: float) -> None:
        """Allow the start, reload or stop in progress to take `seconds` seconds from now."""
        self._send(*_extension(seconds))

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(*_status(text))

    def beat(self) -> None:
        """Report that the service is alive, at most three times per watchdog interval, however often this is called."""
        if self.watchdog is None or time.monotonic() < self._beat_at:
            return
        if self._send("WATCHDOG=1"):
            self._beat_at = time.monotonic() + self.watchdog / 3

    def close(self) -> None:
        """Close the socket; later calls send nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> bool:
        if self._socket is None or not assignments:
            return False
        try:
            self._socket.sendto("\n".join(assignments).encode("utf-8", "backslashreplace"), self._address)
        except OSError:  # the manager is restarting, or its queue is full
            return False
        return True


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={one_line(text)}",) if text else ()


def _extension(seconds: float) -> tuple[str, ...]:
    return (f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}",) if seconds > 0 else ()
