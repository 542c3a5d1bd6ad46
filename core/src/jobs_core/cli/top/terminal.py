"""The keys of a terminal, and the signals and threads that wake its screen."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Final

END: Final = "\x04"
"""The key that ends the program, whatever is on the screen; signals, and the end of the terminal, count as this key."""

_SEQUENCES: Final = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "[5~": "page up", "[6~": "page down", "[H": "home", "[F": "end",
    "[1~": "home", "[4~": "end", "[7~": "home", "[8~": "end", "[Z": "back tab", "[15~": "refresh",
}  # fmt: skip
_SINGLE: Final = {
    "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\b": "backspace", "\x0c": "refresh",
    "\x15": "clear", "\x03": END,
}  # fmt: skip

ESCAPE_PAUSE: Final = 0.05
"""Seconds after which an escape character is the key Esc, and not the beginning of another key."""


class Keyboard:
    """The keys that are typed. `wake` may be called by any thread, and by signal handlers; the rest by the main thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._ended = False

    def wake(self) -> None:
        """Let the present or next `wait` return."""
        with contextlib.suppress(BlockingIOError, OSError):  # it is full of wake-ups already; or closed, at the end
            os.write(self._writer, b"x")

    def end(self) -> None:
        """Let the present or next `wait` return END."""
        self._ended = True
        self.wake()

    def wait(self, seconds: float) -> list[str]:
        """Wait up to `seconds` for keys, or until another thread or a signal wakes it; return the names of the keys."""
        ready = select.select([self._descriptor, self._reader], [], [], max(0.0, seconds))[0]
        if self._reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 65536)
        if self._ended:
            return [END]
        return self._keys() if self._descriptor in ready else []

    def _keys(self) -> list[str]:
        data = self._read()
        if data.endswith(b"\x1b") and select.select([self._descriptor], [], [], ESCAPE_PAUSE)[0]:
            data += self._read()
        return names_of(self._decoder.decode(data)) if data else [END]

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, 1024)
        except OSError:  # the terminal is gone
            return b""

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def names_of(text: str) -> list[str]:
    """Return the keys in what a terminal sends: printable characters as they are, others by name; unknown ones are dropped."""
    found = []
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character != "\x1b":
            found.append(_SINGLE.get(character, character if character.isprintable() or character == END else ""))
        elif at == len(text) or text[at] not in "[O":
            found.append("escape")
        else:
            begin, at = at, at + 1
            while at < len(text) and not "@" <= text[at] <= "~":
                at += 1
            at += 1
            found.append(_SEQUENCES.get("[" + text[begin + 1 : at], ""))
    return [key for key in found if key]


@contextlib.contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Yield the keyboard of standard input. The terminal is always restored afterwards.

    Signals do not raise exceptions, because Python ignores an exception in a finalizer, and the command would then continue.
    """
    keys = Keyboard(sys.stdin.fileno())

    def end(signum: int, frame: FrameType | None) -> None:
        keys.end()

    def resized(signum: int, frame: FrameType | None) -> None:
        keys.wake()

    def continued(signum: int, frame: FrameType | None) -> None:
        keys_at_once()  # the shell has set the terminal as it likes it
        keys.wake()

    def keys_at_once() -> None:
        tty.setcbreak(sys.stdin.fileno(), termios.TCSADRAIN)  # what was typed in the meantime counts

    before = termios.tcgetattr(sys.stdin.fileno())
    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, resized)
    handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, continued)
    keys_at_once()
    try:
        yield keys
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        keys.close()
