"""The sessions of users who have logged in: each is a file in the run directory, and ends when the file is deleted.

The cookie alone would be valid until it expires, even after a logout, for whoever has copied it. A request costs one look for
its file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

DIRECTORY = "web.sessions"


class Record(Struct, frozen=True):
    """What is known of a session. Its id is no secret: the cookie has a signature beside the number of which it is a hash."""

    id: str
    user: str
    since: float
    client: str
    agent: str


class Sessions:
    """The sessions of an installation. Any thread and process may use it."""

    def __init__(self, run_dir: Path, seconds: float) -> None:
        self._directory = run_dir / DIRECTORY
        self._seconds = seconds

    def begin(self, nonce: str, user: str, client: str, agent: str) -> None:
        """Store a session, and forget those that have expired. Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for record in self:
            if record.since < time.time() - self._seconds:
                self.end(record.id)
        record = Record(id_of(nonce), user, time.time(), client[:100], agent[:200])
        temporary = self._directory / f".{record.id}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(record))
        finally:
            os.close(descriptor)
        os.replace(temporary, self._directory / record.id)

    def is_open(self, nonce: str) -> bool:
        """Return whether a session has begun and was not ended."""
        return (self._directory / id_of(nonce)).exists()

    def end(self, session: str) -> None:
        """End a session, which may have ended already."""
        (self._directory / session).unlink(missing_ok=True)

    def end_of(self, nonce: str) -> None:
        """End the session of a browser."""
        self.end(id_of(nonce))

    def __iter__(self) -> Iterator[Record]:
        """Yield all sessions, in no order."""
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            names = [name for name in os.listdir(self._directory) if not name.startswith(".")]
        for name in names:
            with contextlib.suppress(OSError, msgspec.MsgspecError):  # it has ended meanwhile
                yield msgspec.json.decode((self._directory / name).read_bytes(), type=Record)


def id_of(nonce: str) -> str:
    """Return the id of a session, under which operators see it."""
    return hashlib.sha256(nonce.encode()).hexdigest()[:12]
