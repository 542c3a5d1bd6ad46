"""Work that may end its process, done in a child: what is imported may call `os._exit`, or crash in C code."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from .patience import waiting

Say = Callable[[Any], None]


def apart(work: Callable[[Say], None], hear: Say, what: str | Callable[[], str] = "the plugins to be imported") -> str:
    """Run `work` in a child; what it says, JSON documents, is heard here. How the child ended; "" if `work` returned.

    `what` names what is waited for, should it take long.
    """
    _flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer)
    os.close(writer)
    try:
        with waiting(what):  # after the fork
            finished = _listen(reader, os.pidfd_open(child), hear)
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return "" if finished else f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _work(work: Callable[[Say], None], writer: int) -> NoReturn:
    def say(document: Any) -> None:
        try:
            os.write(writer, msgspec.json.encode(document) + b"\n")
        except BrokenPipeError:  # the command has ended: its own output was cut off, as by `| head`
            os._exit(1)

    try:
        with contextlib.suppress(OSError, RuntimeError):  # standard error may be closed, or no file
            faulthandler.enable()  # a crash prints where it was
        work(say)
        say(None)
    except KeyboardInterrupt:  # the parent has heard it, too
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(1)


def _listen(reader: int, ended: int, hear: Say) -> bool:
    """Until the child ends, and not the pipe: what it has forked may hold that open. Whether `work` returned."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(ended, select.POLLIN)
    rest, finished = b"", False
    try:
        while reader in [descriptor for descriptor, _ in poll.poll()]:
            data = os.read(reader, 65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                document = msgspec.json.decode(line)
                finished = document is None
                if document is not None:
                    hear(document)
        return finished
    finally:
        os.close(ended)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
