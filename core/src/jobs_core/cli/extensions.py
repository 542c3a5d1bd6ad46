"""Plugins on the command line: reports about them, and the commands that they add.

A plugin's command runs like one of ours; an error in it, or in its help, is reported with the plugin's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import click

from .. import boundary, guard
from ..errors import JobsError, PluginError
from ..plugins import MADE, PluginInfo, Plugins
from . import output
from .in_child import Say, run_in_child

COMMANDS = "jobs_cli_commands"


def commands(plugins: Plugins, ours: Collection[str]) -> dict[str, tuple[click.Command, PluginInfo]]:
    """Return the commands of plugins by name; record an object that is not a command as a problem of its plugin."""
    found: dict[str, tuple[click.Command, PluginInfo]] = {}
    for name, offers in plugins.provided(COMMANDS).items():
        for command, info in offers:
            if not isinstance(command, click.Command):
                kind = boundary.name_of(type(command))
                info.problems.append(f"{COMMANDS} returned {kind} for {name!r}, expected a click command")
            elif name in ours:
                info.notes.append(f"provides the command {name!r}, which is a command of jobs itself: it is not used")
        plugin = plugins.provider(COMMANDS, name)
        for command, info in offers:
            if info is plugin and isinstance(command, click.Command) and name not in ours:
                found[name] = (command, info)
    return found


def reported(plugins: Plugins, ours: Collection[str]) -> list[PluginInfo]:
    """Return every plugin with all its problems, for `jobsctl plugins` and `jobsctl check`."""
    commands(plugins, ours)
    return plugins.ask(MADE)


def short_help(name: str, command: click.Command, info: PluginInfo) -> str:
    """Return the short help of a plugin's command, for the list of commands."""
    try:
        with guard.blaming(info, f"the help of command {name!r}"), guard.without_stdout():
            return str(command.get_short_help_str(80))
    except PluginError as error:
        return f"({' '.join(str(error).split())})"


@contextmanager
def named(command: str, info: PluginInfo) -> Iterator[None]:
    """Run code of a plugin's command: pass on its exit code, and report its exceptions with the plugin's name."""
    try:
        yield
    except (JobsError, click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except SystemExit as error:
        raise click.exceptions.Exit(_told_code(error, command, info)) from None
    except BaseException as error:
        if boundary.passes(error) or isinstance(error, BrokenPipeError):
            raise
        with guard.blaming(info, f"command {command!r}"):
            raise


def _told_code(error: SystemExit, command: str, info: PluginInfo) -> int:
    """Return the exit code of a command that called sys.exit; report a code other than 0."""
    code = error.code
    if code is None or code == 0:
        return 0
    if isinstance(code, int):
        output.echo(f"jobs: {info}: command {command!r} ended with exit code {code}", err=True)
        return code
    output.echo(f"jobs: {info}: command {command!r}: {boundary.text_of(code)}", err=True)
    return 1


def disable_fatal_plugins(vet: Callable[[], object]) -> dict[str, str]:
    """Call `vet` in a child first; disable every plugin that ends the child, by os._exit or a crash.

    Returns a report about each such plugin by name. Other commands skip this because of its cost: such a plugin ends them.
    """
    said: dict[str, str] = {}
    while True:
        name, what, how = _ended_in(vet)
        if not name or name in said:
            return said
        said[name] = f"ends the process in its {what} ({how}), by os._exit or a crash: it is left out here"
        os.environ["JOBS_DISABLE_PLUGINS"] = ",".join(filter(None, [os.environ.get("JOBS_DISABLE_PLUGINS", ""), name]))


def _ended_in(vet: Callable[[], object]) -> tuple[str, str, str]:
    """Return the plugin in which the child ended, the call, and how it ended; empty strings if it did not end in a plugin."""
    doing = ("", "")

    def work(say: Say) -> None:
        guard.on_call = lambda plugin, what: say((plugin.name if plugin else "", what))
        vet()

    def hear(said: list[str]) -> None:
        nonlocal doing
        doing = (said[0], said[1])

    how = run_in_child(work, hear)
    return (*doing, how) if how else ("", "", "")
