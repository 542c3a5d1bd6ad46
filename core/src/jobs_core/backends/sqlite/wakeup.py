"""Wake a waiting process from another process: one named pipe per topic beside the database.

A push writes a byte, and the kernel wakes a waiting worker. There is no polling and no registration, and nothing to clean up
after a kill, because the kernel knows the readers. Each waiter watches with EPOLLEXCLUSIVE, so that a byte wakes only one of
them, which writes another byte if it leaves jobs behind. A byte that no waiter has read stays for the next waiter. Each owner
also has its own pipe, for wake-ups that are meant for it alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Collection, Iterable
from pathlib import Path

from ... import private
from ...backend_kit import SelfPipe

_READABLE = select.POLLIN
_EXCLUSIVE = getattr(select, "EPOLLEXCLUSIVE", 0)

_NO_MATTER = {
    errno.ENOENT: "no process ever waited",
    errno.ENXIO: "no process is waiting",
    errno.EPIPE: "likewise",
    errno.EAGAIN: "enough bytes are waiting",
    errno.EMFILE: "out of descriptors: waiting processes look again by themselves, and the jobs are stored",
    errno.ENFILE: "likewise",
}
"""Errors of a write that are ignored: the pipe has no reader, is gone, or cannot be opened."""


def pipe_of(owner: str) -> str:
    """Return the name of an owner's pipe; it begins with a dot, as no topic does."""
    import hashlib  # late: it loads OpenSSL, and producers have no owner

    return f".{hashlib.sha256(owner.encode()).hexdigest()[:24]}"


class WakeUp:
    """The pipes in one directory. One thread uses it, except for `interrupt`, which any thread may call."""

    def __init__(self, directory: Path, owners: Collection[int] = ()) -> None:
        self._directory = directory
        private.directory(directory, owners)
        self._heard: dict[str, int] = {}  # topic: descriptor to read from
        self._writers: dict[str, int] = {}  # topic: descriptor to write to
        self._interrupts = SelfPipe()
        self._poller = select.epoll() if hasattr(select, "epoll") else select.poll()
        self._own_poller = select.poll()  # watches interrupts and the owner's pipe, but no topics
        for poller in (self._poller, self._own_poller):
            poller.register(self._interrupts.fileno(), _READABLE)
        self._own = -1
        self._own_path: Path | None = None
        self._process = os.getpid()

    def close(self) -> None:
        """Close every descriptor."""
        if isinstance(self._poller, select.epoll):
            self._poller.close()
        if self._own_path is not None:
            if os.getpid() == self._process:
                self._own_path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                os.close(self._own)
        for descriptor in (*self._heard.values(), *self._writers.values()):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._heard, self._writers = {}, {}
        self._interrupts.close()

    def listen_for(self, owner: str) -> None:
        """Listen to the pipe of this owner from now on, until `close`."""
        self._own_path = self._directory / pipe_of(owner)
        self._own = self._open_pipe(self._own_path)
        for poller in (self._poller, self._own_poller):
            poller.register(self._own, _READABLE)

    def forget(self, owner: str) -> None:
        """Remove the pipe of an owner that has ended."""
        (self._directory / pipe_of(owner)).unlink(missing_ok=True)

    def wake(self, topics: Iterable[str]) -> None:
        """Wake one waiting process for each of these topics, if there is one. Never blocks."""
        for topic in topics:
            try:
                if topic.startswith("."):
                    self._wake_owner(topic)
                else:
                    os.write(self._writer(topic), b"\0")
            except OSError as error:
                if error.errno not in _NO_MATTER:
                    raise

    def _wake_owner(self, pipe: str) -> None:
        """Wake an owner. Its pipe is closed again afterwards, because owners come and go."""
        descriptor = os.open(self._directory / pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, b"\0")
        finally:
            os.close(descriptor)

    def _writer(self, topic: str) -> int:
        if topic not in self._writers:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            self._writers[topic] = os.open(self._directory / topic, flags)
        return self._writers[topic]

    def listen(self, topics: Iterable[str]) -> None:
        """Listen to the pipes of exactly these topics from now on."""
        wanted = set(topics)
        for topic in self._heard.keys() - wanted:
            descriptor = self._heard.pop(topic)
            self._poller.unregister(descriptor)
            os.close(descriptor)
        for topic in wanted - self._heard.keys():
            descriptor = self._open_pipe(self._directory / topic)
            self._poller.register(descriptor, _READABLE | _EXCLUSIVE)
            self._heard[topic] = descriptor

    @staticmethod
    def _open_pipe(path: Path) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # With both reading and writing, `open` does not block, and the pipe never reports an end when a writer closes it.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def wait(self, timeout: float, *, for_topics: bool = True) -> tuple[bool, bool, bool]:
        """Sleep until a wake-up, an interrupt, or for `timeout` seconds.

        Returns whether it was woken for a topic, whether it was interrupted, and whether its owner was woken.
        """
        seconds = max(0.0, timeout)
        if for_topics:
            events = self._poller.poll(seconds if _EXCLUSIVE else seconds * 1000)
        else:
            events = self._own_poller.poll(seconds * 1000)
        woken = interrupted = called = False
        for descriptor, _ in events:
            _drain(descriptor)
            if descriptor == self._interrupts.fileno():
                interrupted = True
            elif descriptor == self._own:
                called = True
            else:
                woken = True
        return woken, interrupted, called

    def interrupt(self) -> None:
        """End the current wait, or the next one. Any thread or signal handler may call it."""
        self._interrupts.wake()


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)
