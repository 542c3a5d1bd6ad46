"""The sessions of users who have logged in: each is a file in the run directory, and ends when the file is deleted.

The cookie alone would be valid until it expires, even after a logout, for whoever has copied it. A request costs one look for
its file. A login costs the same however many sessions there are: it writes its file, and looks at the age of SWEPT others.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

DIRECTORY = "web.sessions"

SWEPT = 20
"""Files whose age a login looks at. Each login adds one, so those that have expired become fewer with each."""


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
        self._lock = threading.Lock()  # protects the next attribute
        self._round = self._files()

    def begin(self, nonce: str, user: str, client: str, agent: str) -> None:
        """Store a session, and forget some of those that have expired. Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._sweep()
        record = Record(id_of(nonce), user, time.time(), client[:100], agent[:200])
        temporary = self._directory / f".{record.id}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(record))
        finally:
            os.close(descriptor)
        os.replace(temporary, self._directory / record.id)

    def is_open(self, nonce: str) -> bool:
        """Return whether a session has begun, was not ended, and has not expired."""
        with contextlib.suppress(OSError):
            return self._is_young(os.stat(self._directory / id_of(nonce)).st_mtime)
        return False

    def end(self, session: str) -> None:
        """End a session, which may have ended already."""
        (self._directory / session).unlink(missing_ok=True)

    def end_of(self, nonce: str) -> None:
        """End the session of a browser."""
        self.end(id_of(nonce))

    def __iter__(self) -> Iterator[Record]:
        """Yield all sessions that have not expired, in no order. It reads them all: for operators, not for requests."""
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            names = [name for name in os.listdir(self._directory) if not name.startswith(".")]
        for name in names:
            with contextlib.suppress(OSError, msgspec.MsgspecError):  # it has ended meanwhile
                record = msgspec.json.decode((self._directory / name).read_bytes(), type=Record)
                if self._is_young(record.since):
                    yield record

    def _is_young(self, since: float) -> bool:
        return since >= time.time() - self._seconds

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Yield all files of the directory, also those that a crash has left half written."""
        with os.scandir(self._directory) as found:
            yield from found

    def _sweep(self) -> None:
        """Go on with the round through all files by a few: delete those that have expired."""
        with self._lock:
            looked = 0
            for file in itertools.islice(self._round, SWEPT):
                looked += 1
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    if not self._is_young(file.stat(follow_symlinks=False).st_mtime):
                        os.unlink(file.path)
            if looked < SWEPT:
                self._round = self._files()


def id_of(nonce: str) -> str:
    """Return the id of a session, under which operators see it."""
    return hashlib.sha256(nonce.encode()).hexdigest()[:12]
