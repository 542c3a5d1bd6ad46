"""Call a plugin's code: only a real interrupt passes; every other exception is reported with the plugin's name.

Commands keep standard output (`--json`) to themselves: output that a plugin prints goes to standard error.
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
    """The plugin whose code is called; its text names it with its distribution."""

    name: str


on_command_line = False
"""True if this process runs a command of ours: then descriptor 1 is guarded as well, for programs and C code."""

on_call: Callable[[Plugin | None, str], object] | None = None
"""Called before each call, and with (None, "") after it: if a call ends the process, its name is known nowhere else."""


@contextlib.contextmanager
def blaming(plugin: Plugin, what: str, *, key: str = "", hide: Callable[[str], str] = str) -> Iterator[None]:
    """Call a plugin in the body: an exception becomes a PluginError that names the plugin and the call.

    `key` is the configuration key for which it is called; `hide` removes secrets from the text.
    """
    with calling(plugin, what, lambda error: blamed(plugin, what, error, key=key, hide=hide)):
        yield


def blamed(plugin: Plugin, what: str, error: BaseException, *, key: str = "", hide: Callable[[str], str] = str) -> PluginError:
    """Return the error for an exception of a plugin; see `blaming`."""
    where = f"{key}: " if key else ""
    return PluginError(hide(pinpointed(f"{where}{plugin}: {what} raised", error)))


@contextlib.contextmanager
def calling(plugin: Plugin | None, what: str, error_for: Callable[[BaseException], JobsError]) -> Iterator[None]:
    """Call a plugin in the body: an exception is converted by `error_for`.

    Errors of ours pass, because they name key and fix; so do real interrupts.
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
    """Report the call in the body to `on_call`."""
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
    """Redirect output of the body to standard error: in commands, elsewhere only if `always`.

    Elsewhere only `sys.stdout` changes: other threads of an application continue to write to descriptor 1.
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
        _flush()  # to standard error: this was written meanwhile
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    if sys.__stdout__ is not None:
        with contextlib.suppress(ValueError, OSError):
            sys.__stdout__.flush()
