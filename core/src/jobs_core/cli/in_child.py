"""Run work in a child if it may end its process: imported code may call `os._exit`, or crash in C code."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from ..loaders import importing
from .waiting import waiting

Say = Callable[[Any], None]


IMPORT_TIMEOUT = 30.0
"""Seconds that `check` and `restart` wait for the application's import."""

LOOK = 0.5
"""Seconds between two reports of a child about its position in the code."""


class TookTooLong(Exception):
    """Raised when the child was killed because it took too long; `place` is its last known position in the code."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


def run_in_child(
    work: Callable[[Say], None],
    hear: Say,
    what: str | Callable[[], str] = "the plugins to be imported",
    bound: Callable[[], float | None] = lambda: None,
) -> str:
    """Run `work` in a child, pass the JSON documents that it sends to `hear`, and return how the child ended.

    Returns "" if `work` returned.

    `what` names the work in the message of a long wait; `bound` returns how many seconds it may take in all, as of now.
    Raises TookTooLong.
    """
    _flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer)
    os.close(writer)
    output = _ChildOutput(hear)
    try:
        with waiting(lambda: (what if isinstance(what, str) else what()) + output.told_place()):  # after the fork
            in_time = _listen(reader, os.pidfd_open(child), output, bound)
        if not in_time:
            os.kill(child, signal.SIGKILL)
            raise TookTooLong(output.place)
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return "" if output.finished else f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class _ChildOutput:
    """The output of a child: lines of JSON documents; a line that begins with @ holds its position in the code."""

    def __init__(self, hear: Say) -> None:
        self.finished = False
        self.place = ""
        self._hear = hear
        self._rest = b""

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            document = msgspec.json.decode(line.removeprefix(b"@"))
            if line.startswith(b"@"):
                self.place = document
            elif document is None:
                self.finished = True
            else:
                self.place = ""
                self._hear(document)

    def told_place(self) -> str:
        return f", now at {self.place}" if self.place else ""


def _work(work: Callable[[Say], None], writer: int) -> NoReturn:
    lock = threading.Lock()  # a pipe may accept a long line in several parts

    def say(document: Any, mark: bytes = b"") -> None:
        try:
            with lock:
                os.write(writer, mark + msgspec.json.encode(document) + b"\n")
        except BrokenPipeError:  # the command has ended, for example because `| head` closed its output
            os._exit(1)

    try:
        with contextlib.suppress(OSError, RuntimeError):  # standard error may be closed, or not a file
            faulthandler.enable()  # a crash prints its position
        looking = threading.Thread(target=_look, args=(threading.get_ident(), say), name="jobs-looking", daemon=True)
        looking.start()
        work(say)
        say(None)
    except KeyboardInterrupt:  # the parent has received it, too
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(1)


def _look(thread: int, say: Callable[[Any, bytes], None]) -> None:
    """Report the position of a thread every LOOK seconds, as long as the thread releases the GIL, as most waits do."""
    while True:
        time.sleep(LOOK)
        if place := importing.place_of(thread):
            say(place, b"@")


def _listen(reader: int, ended: int, output: _ChildOutput, bound: Callable[[], float | None]) -> bool:
    """Read the child's output until the child ends; return False if that takes too long.

    Do not wait for the end of the pipe, because processes that the child has forked may keep it open.
    """
    begin = time.monotonic()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(ended, select.POLLIN)
    try:
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(LOOK * 1000)]
            if reader in ready:
                data = os.read(reader, 65536)
                if not data:
                    return True
                output.take(data)
            elif ready:
                return True
            most = bound()
            if most is not None and time.monotonic() - begin > most:
                return False
    finally:
        os.close(ended)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
