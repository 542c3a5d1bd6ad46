"""Call a plugin's code: real interrupts propagate; every other exception is reported with the plugin's name.

In commands, output that a plugin prints goes to standard error, because scripts parse standard output (`--json`).
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
    """The plugin whose code is called; `str` gives its name and its distribution."""

    name: str


on_command_line = False
"""True if this process runs a command of ours: descriptor 1 is then redirected too, for subprocesses and C code."""

on_call: Callable[[Plugin | None, str], object] | None = None
"""Called before each call, and with (None, "") after it, so that a call that ends the process can be named."""


@contextlib.contextmanager
def blaming(plugin: Plugin, what: str, *, key: str = "", hide: Callable[[str], str] = str) -> Iterator[None]:
    """Turn an exception of the body, which calls a plugin, into a PluginError that names the plugin and the call.

    `key` is the configuration key for which the plugin is called; `hide` removes secrets from the error.
    """
    with calling(plugin, what, lambda error: blamed(plugin, what, error, key=key, hide=hide)):
        yield


def blamed(plugin: Plugin, what: str, error: BaseException, *, key: str = "", hide: Callable[[str], str] = str) -> PluginError:
    """Return the error for an exception of a plugin; see `blaming`."""
    where = f"{key}: " if key else ""
    return PluginError(hide(pinpointed(f"{where}{plugin}: {what} raised", error)))


@contextlib.contextmanager
def calling(plugin: Plugin | None, what: str, error_for: Callable[[BaseException], JobsError]) -> Iterator[None]:
    """Convert an exception of the body, which calls a plugin, with `error_for`.

    A JobsError, which names key and fix, propagates unchanged, and so do real interrupts.
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
    """Report to `on_call` that the body calls a plugin."""
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
    """Redirect output of the body to standard error: always in commands, elsewhere only with `always`.

    Outside commands only `sys.stdout` is redirected, because other threads of the application may write to descriptor 1.
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
    except OSError:  # standard output is closed
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        _flush()  # before descriptor 1 is restored: text that was buffered in the body belongs on standard error
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    if sys.__stdout__ is not None:
        with contextlib.suppress(ValueError, OSError):
            sys.__stdout__.flush()
