"""Safe access to the application's objects and exceptions, whatever their methods do.

Exceptions, reasons, delays and results are objects of the application, and their methods are its code: `str(error)` may
raise, or return text that cannot be stored. All access to such an object outside the job's own run goes through here.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from opcode import opmap
from types import FrameType
from typing import Any

from .errors import JobCancelled, JobTimeout
from .units import count

LONGEST_TEXT = 2000
LONGEST_TRACEBACK = 20_000
_RAISE = opmap["RAISE_VARARGS"]

_qualname: Callable[[type], Any] = type.__dict__["__qualname__"].__get__
_module: Callable[[type], Any] = type.__dict__["__module__"].__get__
_own_traceback: Callable[[BaseException], Any] = BaseException.__dict__["__traceback__"].__get__


def interrupts(error: BaseException) -> bool:
    """Return whether a signal raised this exception in order to end a run: it must then propagate from wherever it struck."""
    return type(error) in (JobTimeout, JobCancelled) and error.struck  # type: ignore[attr-defined]


def passes(error: BaseException) -> bool:
    """Return whether this exception must propagate through our guards: it interrupts a run, or is a user's Ctrl-C."""
    return interrupts(error) or (type(error) is KeyboardInterrupt and _of_a_signal(error))


def _of_a_signal(error: KeyboardInterrupt) -> bool:
    """Return whether a signal caused this KeyboardInterrupt, and not a plain `raise KeyboardInterrupt`.

    Python's handler raises between any two instructions, and a handler of the application raises in its own code. Any other
    `raise` statement does not count.
    """
    handler: Any = signal.getsignal(signal.SIGINT)
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None)
    innermost = step = _own_traceback(error)
    while step is not None:
        if step.tb_frame.f_code is code:
            return True
        innermost, step = step, step.tb_next
    return innermost is None or innermost.tb_frame.f_code.co_code[innermost.tb_lasti] != _RAISE


def text_of(value: object, limit: int = LONGEST_TEXT) -> str:
    """Return `str(value)` cut to `limit` characters, with those that cannot be stored escaped; a substitute if it raises."""
    try:
        text = str(value)
    except BaseException as error:
        if interrupts(error):
            raise
        return f"({name_of(type(value))} has no text: its __str__ raised {name_of(type(error))})"
    return storable(text, limit)


def storable(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return `text` without its middle if it is too long, and with unpaired surrogates escaped."""
    text = clip(str.__str__(text), limit)  # str.__str__: a subclass may override the conversion
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def clip(text: str, limit: int) -> str:
    """Return `text`, with its middle left out if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {count(len(text) - limit, 'character')} left out …\n{text[-half:]}"


def name_of(kind: type) -> str:
    """Return the name of a class with its module, even if the class overrides its attributes."""
    name = storable(_qualname(kind), 200)
    try:
        module = _module(kind)
    except AttributeError:
        return name
    if type(module) is not str or module in ("builtins", "__main__"):
        return name
    return f"{storable(module, 200)}.{name}"


def told(error: BaseException) -> str:
    """Describe an error by the name of its class and its text."""
    text = text_of(error)
    name = name_of(type(error)).rpartition(".")[2]
    return f"{name}: {text}" if text else name


@contextlib.contextmanager
def exit_told(what: str, *, least: int = 0) -> Iterator[None]:
    """If the body calls `os._exit`, report it on standard error first, because no code runs afterwards.

    Used around imports and, by commands, around jobs. `least` is the smallest exit code: a command that ended halfway must
    not look like a success. A crash in C code is not reported, nor the end of processes that the body has forked, nor a call
    by our own code. An empty `what` reports nothing.
    """
    exit_process, process = os._exit, os.getpid()
    inside = True

    def exit_and_tell(status: int) -> None:
        if inside and os.getpid() == process and not _is_ours(sys._getframe(1)):
            if what:
                with contextlib.suppress(Exception):  # standard error is closed, or the status cannot be shown
                    os.write(2, f"jobs: {what} ended this process: it called os._exit({status})\n".encode(errors="replace"))
            status = status or least
        exit_process(status)

    os._exit = exit_and_tell  # type: ignore[assignment]
    try:
        yield
    finally:
        inside = False  # other code may have kept a reference to the function
        if os._exit is exit_and_tell:
            os._exit = exit_process


def _is_ours(frame: FrameType) -> bool:
    """Return whether a frame belongs to this package, other than to `exit_told` itself."""
    return frame.f_code.co_filename != __file__ and str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


_PACKAGE = __name__.partition(".")[0]


def traceback_of(error: BaseException, plumbing: tuple[str, ...] = ()) -> str:
    """Return the traceback with its causes, without the outermost frames whose file names start with one of `plumbing`."""
    try:
        frames = traceback.TracebackException.from_exception(error, limit=-50)
        while plumbing and len(frames.stack) > 1 and frames.stack[0].filename.startswith(plumbing):
            del frames.stack[0]
        return storable("".join(frames.format()), LONGEST_TRACEBACK)
    except BaseException as trouble:
        if interrupts(trouble):
            raise
    try:  # formatting notes, causes or source lines has failed: show at least the position
        lines = "".join(traceback.format_tb(_own_traceback(error), limit=-50))
    except BaseException as trouble:
        if interrupts(trouble):
            raise
        lines = ""
    return storable(f"Traceback (most recent call last):\n{lines}{told(error)}\n", LONGEST_TRACEBACK)


class _OwnLogger(logging.Logger):
    """A logger that the application's logging configuration cannot disable, as dictConfig does by default."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def own_logger(name: str) -> logging.Logger:
    """Return the logger of this name ("jobs", or one below), which the application's configuration cannot disable.

    Use it for lines that an operator must see.
    """
    logger = logging.getLogger(name)
    logger.__dict__.pop("disabled", None)
    logger.__class__ = _OwnLogger
    return logger


last_resort: Callable[[int, str], None] | None = None
"""Called with (level, text) if the application's logging has failed; supervised processes write to the supervisor's pipe."""


def log(
    logger: logging.Logger, level: int, text: str, *args: object, error: BaseException | None = None, **extra: object
) -> None:
    """Log a line; if a handler of the application raises, report its exception with the line and continue.

    Unpaired surrogates in texts and traceback are escaped first, because not every handler can write them.
    """
    args = tuple(storable(arg, LONGEST_TRACEBACK) if isinstance(arg, str) else arg for arg in args)
    try:
        if not logger.isEnabledFor(level):
            return
        told_from = logger.findCaller(stacklevel=2)
        exc_info = (type(error), error, _own_traceback(error)) if error is not None else None
        record = logger.makeRecord(logger.name, level, *told_from[:2], text, args, exc_info, told_from[2], extra)
        if error is not None:
            record.exc_text = traceback_of(error)
        logger.handle(record)
    except BaseException as trouble:
        if interrupts(trouble):
            raise
        line = text % tuple(map(text_of, args)) if args else text
        log_past(level, f"{line} (a handler of the application's logging failed: {told(trouble)})", error)


def log_past(level: int, text: str, error: BaseException | None = None) -> None:
    """Write a line into the log, bypassing the application's logging. Raises nothing but an interrupt."""
    if error is not None:
        text = f"{text}\n{traceback_of(error)}"
    try:
        if last_resort is not None:
            last_resort(level, text)
            return
    except BaseException as trouble:  # the application has replaced functions of Python, too
        if interrupts(trouble):
            raise
    with contextlib.suppress(OSError):  # there is no other place to report it
        os.write(2, f"jobs: {text}\n".encode("utf-8", "backslashreplace"))
