"""`jobsctl top` on a terminal of its own: a real pseudo-terminal, whose screen pyte keeps."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pyte

from .project import PATIENCE, Project

KEYS = {"up": "\x1b[A", "down": "\x1b[B", "enter": "\r", "escape": "\x1b", "page down": "\x1b[6~", "home": "\x1b[H"}
REST = 0.03
"""Seconds without output after which a picture is whole: it is written at once, but may be read in pieces."""


class Screen:
    """A terminal with `jobsctl top` on it. Its tests wait for what it shows, never for a time."""

    def __init__(self, project: Project, *options: str, rows: int = 30, columns: int = 100, **environment: str) -> None:
        self.ours, self.its = pty.openpty()
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        """Everything that was written so far."""
        self._set_size(rows, columns)
        self.before = termios.tcgetattr(self.its)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs_core", "top", "--interval", "0.2", *options],
            cwd=project.root, env=project.environment(TERM="xterm-256color", **environment),
            stdin=self.its, stdout=self.its, stderr=self.its,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """Return what is on the screen now."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line_of(self, text: str) -> str:
        """Return the first line that contains a text."""
        return next(line for line in self.lines if text in line)

    def until(self, condition: str | Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait until a text is on the screen, or a condition on it holds, and the rest of the picture has arrived."""
        deadline = time.monotonic() + patience
        while not (condition in self.text if isinstance(condition, str) else condition()) or self._read(REST):
            assert time.monotonic() < deadline, f"never shown: {condition}\n{self.text}"
            self._read()

    def until_gone(self, text: str) -> None:
        """Wait until a text is no longer on the screen."""
        self.until(lambda: text not in self.text)

    def _read(self, patience: float = 0.2) -> bool:
        """Read what is written within this time; return whether it was anything."""
        if not select.select([self.ours], [], [], patience)[0]:
            return False
        data = os.read(self.ours, 65536)
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def type(self, text: str) -> None:
        """Type characters."""
        os.write(self.ours, text.encode())

    def press(self, *keys: str) -> None:
        """Press keys with names, or single characters."""
        for key in keys:
            self.type(KEYS.get(key, key))

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size, as its user does by pulling at a corner."""
        self._screen.resize(rows, columns)
        self._set_size(rows, columns)

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait(self) -> int:
        """Return the exit code; the last output is read, so that it can be written."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self._read()
        while select.select([self.ours], [], [], 0)[0]:
            self._read()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
        os.close(self.its)
