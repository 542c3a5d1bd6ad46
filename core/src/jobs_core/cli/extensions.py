"""Plugins as the command line sees them: what is to be reported of them, and the commands they bring.

A plugin's command is run like any other; what goes wrong in it, or in its help, is told with the plugin's name.
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
from .apart import Say, apart

COMMANDS = "jobs_cli_commands"


def commands(plugins: Plugins, ours: Collection[str]) -> dict[str, tuple[click.Command, PluginInfo]]:
    """The commands of plugins by name; what cannot be one is noted as a problem of its plugin."""
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
    """Every plugin, with all that is wrong with it: what `plugins` shows and `check` repeats."""
    commands(plugins, ours)
    return plugins.ask(MADE)


def short_help(name: str, command: click.Command, info: PluginInfo) -> str:
    """The line of a plugin's command in the list of commands."""
    try:
        with guard.blaming(info, f"the help of command {name!r}"), guard.without_stdout():
            return str(command.get_short_help_str(80))
    except PluginError as error:
        return f"({' '.join(str(error).split())})"


@contextmanager
def named(command: str, info: PluginInfo) -> Iterator[None]:
    """Run what belongs to a plugin's command: its exit code is its own affair, what it raises is told by name."""
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
    """The exit code of a command that called sys.exit; one that is not 0 is not left without a word."""
    code = error.code
    if code is None or code == 0:
        return 0
    if isinstance(code, int):
        output.echo(f"jobs: {info}: command {command!r} ended with exit code {code}", err=True)
        return code
    output.echo(f"jobs: {info}: command {command!r}: {boundary.text_of(code)}", err=True)
    return 1


def leave_out_what_ends(vet: Callable[[], object]) -> dict[str, str]:
    """Call `vet` in a child first: a plugin in which that ends, by os._exit or a crash, is disabled here and in children.

    Returns what is to be said of each by name. Other commands do without, for what it costs: they end with such a plugin.
    """
    said: dict[str, str] = {}
    while True:
        name, what, how = _ended_in(vet)
        if not name or name in said:
            return said
        said[name] = f"ends the process in its {what} ({how}), by os._exit or a crash: it is left out here"
        os.environ["JOBS_DISABLE_PLUGINS"] = ",".join(filter(None, [os.environ.get("JOBS_DISABLE_PLUGINS", ""), name]))


def _ended_in(vet: Callable[[], object]) -> tuple[str, str, str]:
    """In which plugin the child ended, in which call, and how; empty if it did not, or in none."""
    doing = ("", "")

    def work(say: Say) -> None:
        guard.on_call = lambda plugin, what: say((plugin.name if plugin else "", what))
        vet()

    def hear(said: list[str]) -> None:
        nonlocal doing
        doing = (said[0], said[1])

    how = apart(work, hear)
    return (*doing, how) if how else ("", "", "")
