"""Calling a plugin's code: nothing that it raises gets past but a real interrupt, and all of it is told by name.

Commands whose standard output somebody reads (`--json`) keep it to themselves: what a plugin prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from . import boundary
from .errors import JobsError, PluginError
from .loaders.importing import pinpointed


class Plugin(Protocol):
    """Whose code is called; its text names it with its distribution."""

    name: str


on_command_line = False
"""Whether this process runs a command of ours: then descriptor 1 is guarded as well, for programs and C code."""

on_call: Callable[[Plugin | None, str], object] | None = None
"""Told of each call before it begins, and (None, "") after it: where one ends the process, nobody else can say which it was."""


@contextlib.contextmanager
def blaming(plugin: Plugin, what: str, *, key: str = "", hide: Callable[[str], str] = str) -> Iterator[None]:
    """Call a plugin in the body: what it raises becomes a PluginError that names it and what it was asked for.

    `key` is the configuration's, for which it is asked; `hide` takes secrets out of the text.
    """
    with calling(plugin, what, lambda error: blamed(plugin, what, error, key=key, hide=hide)):
        yield


def blamed(plugin: Plugin, what: str, error: BaseException, *, key: str = "", hide: Callable[[str], str] = str) -> PluginError:
    """The error for what a plugin raised; see `blaming`."""
    where = f"{key}: " if key else ""
    return PluginError(hide(pinpointed(f"{where}{plugin}: {what} raised", error)))


@contextlib.contextmanager
def calling(plugin: Plugin | None, what: str, error_for: Callable[[BaseException], JobsError]) -> Iterator[None]:
    """Call a plugin in the body: what it raises becomes what `error_for` makes of it.

    Errors of ours pass, for they name key and fix; so do real interrupts.
    """
    try:
        with telling(plugin, what):
            yield
    except JobsError:
        raise
    except BaseException as error:
        if boundary.passes(error):
            raise
        raise error_for(error) from error


@contextlib.contextmanager
def telling(plugin: Plugin | None, what: str) -> Iterator[None]:
    """Tell `on_call` of what is called in the body."""
    if on_call is None or plugin is None:
        yield
        return
    on_call(plugin, what)
    try:
        yield
    finally:
        on_call(None, "")


@contextlib.contextmanager
def without_stdout(*, always: bool = False) -> Iterator[None]:
    """Send what the body prints to standard error: in commands, elsewhere only if `always`.

    Elsewhere it is `sys.stdout` alone that changes: other threads of an application go on writing to descriptor 1.
    """
    if not (on_command_line or always):
        yield
        return
    with contextlib.redirect_stdout(sys.stderr), _descriptor() if on_command_line else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _descriptor() -> Iterator[None]:
    try:
        _flush()
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        _flush()  # into standard error: it was written meanwhile
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    if sys.__stdout__ is not None:
        with contextlib.suppress(ValueError, OSError):
            sys.__stdout__.flush()
