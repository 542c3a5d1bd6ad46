"""The entry point of the command line: commands in groups, commands of plugins, and errors as sentences.

A command's module is imported when the command is used, so that `jobsctl --help` and `jobsctl push` stay fast.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import foreign, guard
from ..app import set_app_source
from ..errors import JobsError
from ..plugins import PluginInfo
from ..version import __version__
from . import output
from .common import Context, exit_code
from .exits import Exit
from .extensions import commands, named, short_help
from .types import FILE
from .waiting import waiting

_PLUGIN = "jobs.plugin"  # in a context's meta: the running plugin command, and its plugin

GROUPS = {
    "Set up": {
        "help": ("help", "Show what a command does."),
        "init": ("setup", "Write a commented jobs.toml."),
        "check": ("check", "Check configuration, plugins, application, backend and queued messages."),
        "setup": ("setup", "Create what the backend needs, and define limits and fair topics."),
        "plugins": ("setup", "List the plugins found and what they provide."),
        "migrate": ("migrate", "Show what the tasks of another job system would look like here."),
        "completion": ("setup", "Print the completion script for a shell."),
        "demo": ("demo", "Run a demo: real jobs on sample files."),
    },
    "Run": {
        "start": ("start", "Start the supervisor and its workers."),
        "stop": ("control", "Finish running jobs, release the rest, and stop."),
        "exit": ("control", "Stop immediately; jobs return to their topics."),
        "restart": ("control", "Stop, wait until everything has ended, and start."),
        "reload": ("control", "Load new code and configuration without a gap in service."),
        "quiet": ("control", "Take no new jobs on this machine."),
        "scale": ("control", "Set the number of workers in a pool."),
        "worker": ("worker", "Run one worker in the foreground."),
        "status": ("status", "Show workers, topics and running jobs, problems first."),
        "top": ("top", "Show running jobs and their rates, live."),
        "stack": ("stack", "Print the stack of every thread and asyncio task in a worker."),
        "schedule": ("schedule", "Show and change the schedule."),
        "machines": ("machines", "Show all machines, and give them commands."),
        "alert": ("alert", "Test the alert channels."),
        "webhooks": ("webhooks", "Test the receivers of events."),
        "diagnose": ("diagnose", "Write an archive for a bug report, without secrets."),
        "systemd": ("systemd", "Print a systemd unit for this configuration."),
    },
    "Jobs": {
        "push": ("push", "Enqueue jobs from the command line or from JSON lines."),
        "run": ("run", "Run one job here and now, in this process."),
        "list": ("jobs", "List the jobs of a topic."),
        "show": ("jobs", "Show everything known about a job."),
        "follow": ("follow", "Show the progress and log lines of a job, live."),
        "why": ("why", "Explain why a job does not run, ran twice or is dead."),
        "result": ("jobs", "Print a job's result."),
        "cancel": ("jobs", "Cancel jobs."),
        "flows": ("flows", "List flows: jobs that wait for one another."),
        "flow": ("flows", "Show, cancel and retry one flow."),
    },
    "Topics": {
        "topics": ("topics", "List every topic with its jobs by state."),
        "stats": ("stats", "Show what workers did over time, by topic and job."),
        "limits": ("limits", "Show and override limits on concurrency and rate."),
        "pause": ("topics", "Let no worker reserve jobs of a topic."),
        "resume": ("topics", "Resume a paused topic."),
        "purge": ("topics", "Delete all queued jobs of a topic."),
        "payloads": ("payloads", "Look after the payload store."),
        "outbox": ("outbox", "Show and repair jobs in the database of the application."),
        "dead": ("dead", "List, group, show, retry and delete dead letters."),
    },
    "Plugin authors": {
        "new-plugin": ("new_plugin", "Write a package of a plugin that works, with its tests."),
        "contract": ("contract", "Test a backend against the contract, or measure it."),
    },
}
OURS = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}


class _Help(click.HelpFormatter):
    """A help formatter that shows the command under the name by which it was called."""

    def getvalue(self) -> str:
        return output.in_this_command(super().getvalue())


class _ClickContext(click.Context):
    formatter_class = _Help


FROM_PLUGINS = {"web": "jobs-web", "broker": "jobs-zeromq"}
"""Commands that plugins of ours add, and their distributions."""

DESTRUCTIVE = ("purge", "cancel", "stop", "exit")
"""Commands that delete or end something. They are suggested only for a word that can hardly mean another one."""

TYPO = 0.8
"""Least similarity of such a word, as difflib measures it: one letter of five is missing."""


class JobsCommand(click.Group):
    """A group that imports commands on use, shows them by section, and adds those of plugins."""

    context_class = _ClickContext

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse arguments that are not UTF-8, for all commands, because they could not be stored or shown."""
        for number, text in enumerate(args, 1):
            try:
                text.encode()
            except UnicodeEncodeError:
                ctx.fail(f"argument {number} is not valid UTF-8: {text.encode(errors='backslashreplace').decode()[:80]}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; if it raises a JobsError, print the error and end with its exit code."""
        try:
            try:
                return super().invoke(ctx)
            except BaseException:
                if _PLUGIN not in ctx.meta:
                    raise
                with named(*ctx.meta[_PLUGIN]):
                    raise
        except JobsError as error:
            for line in str(error).splitlines():
                output.echo(f"jobs: {line}", err=True)
            if isinstance(ctx.obj, Context) and error is ctx.obj.broken:
                output.echo(
                    "jobs: until this is fixed, only commands for a running supervisor work (status, top, stack, quiet, "
                    "scale, stop, exit); `jobsctl check` checks it again",
                    err=True,
                )
            code = exit_code(error)
            if code is Exit.UNAVAILABLE:
                output.echo("jobs: `jobsctl status` works without the backend, and shows the workers of this machine", err=True)
            raise click.exceptions.Exit(code) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, and redirect output of plugins from standard output to standard error."""
        before, guard.on_command_line = guard.on_command_line, True
        try:
            return super().main(*args, **kwargs)
        finally:
            guard.on_command_line = before

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*OURS, *_plugin_commands()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in OURS:
            module = importlib.import_module(f"{__package__}.{OURS[name]}")
            command: click.Command = getattr(module, f"{name.replace('-', '_')}_command")
            command.context_class = _ClickContext
            return command
        return _plugin_commands()[name][0] if name in _plugin_commands() else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            if args[0] in FROM_PLUGINS:
                ctx.fail(f"the command {args[0]!r} comes with a plugin: pip install {FROM_PLUGINS[args[0]]}")
            known = foreign.COMMANDS.get(args[0])
            harmless = [name for name in self.list_commands(ctx) if name not in DESTRUCTIVE]
            near = difflib.get_close_matches(args[0], DESTRUCTIVE, 1, TYPO) or difflib.get_close_matches(args[0], harmless, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"`{ctx.command_path} --help` lists the commands"
            ctx.fail(f"there is no command {args[0]!r}; {known.advice('job') if known else hint}")
        if args and args[0] not in OURS and args[0] in _plugin_commands():
            ctx.meta[_PLUGIN] = (args[0], _plugin_commands()[args[0]][1])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in group.items()])
        added = _plugin_commands()
        if added:
            with formatter.section("From plugins"):
                formatter.write_dl([(name, short_help(name, *added[name])) for name in sorted(added)])


def _plugin_commands() -> dict[str, tuple[click.Command, PluginInfo]]:
    from ..plugins import Plugins

    global _added
    if _added is None:
        with waiting("the plugins to be imported"):
            _added = commands(Plugins.discover(), OURS)
    return _added


_added: dict[str, tuple[click.Command, PluginInfo]] | None = None


@click.group(
    cls=JobsCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Configuration: jobs.toml, [tool.jobs] in pyproject.toml, or JOBS_ variables. "
    "Exit codes: 0 fine, 1 failed, 2 usage or configuration, 3 not running, 69 backend unavailable.",
)
@click.option("-c", "--config", metavar="FILE", type=FILE, help="The configuration file (default: jobs.toml here).")
@click.version_option(__version__, message="jobs-core %(version)s")
@click.pass_context
def cli(ctx: click.Context, config: str | None) -> None:
    """Run ordinary Python functions as background jobs."""
    ctx.obj = Context(config)
    ctx.call_on_close(ctx.obj.close)
    if _PLUGIN in ctx.meta:
        before = set_app_source(lambda: ctx.obj.app)  # made when the command asks for it
        ctx.call_on_close(lambda: set_app_source(before))


def _called() -> str:
    """Return the name by which this program was called: `jobs`, `jobsctl` or `python -m jobs_core`."""
    name = os.path.basename(sys.argv[0])
    return name if name in ("jobs", "jobsctl") else "python -m jobs_core"


def run(arguments: Sequence[str] | None = None, called: str | None = None) -> int:
    """Run the given command line, or this process's own, and return an exit code of `Exit`."""
    before, output.command = output.command, called or "jobsctl"
    try:
        return _run(arguments, called)
    finally:
        output.command = before


def _run(arguments: Sequence[str] | None, called: str | None) -> int:
    try:  # click returns the code of an Exit that a command raises
        given = None if arguments is None else list(arguments)
        code = cli.main(given, prog_name=called or _called(), standalone_mode=False) or Exit.FINE
    except click.exceptions.Abort:
        output.echo("jobs: interrupted", err=True)
        code = Exit.FAILED
    except click.UsageError as error:
        show(error)
        code = Exit.USAGE
    except click.ClickException as error:
        show(error)
        code = Exit.FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `jobsctl list | head` is not an error
        code = Exit.FINE
    return int(code)


def show(error: click.ClickException) -> None:
    """Print an error in the command line, with click's text."""
    text = io.StringIO()
    error.show(text)
    output.echo(text.getvalue(), err=True, nl=False)


def main() -> None:
    """Run the command line; end the process with an exit code of `Exit`.

    If a command ran the application's code, which may leave threads running, the wait for these threads is bounded.
    """
    code = run()
    if f"{__package__.rpartition('.')[0]}.worker.main" in sys.modules:
        from ..supervisor.processes import exit_functions

        exit_functions.exit_process(code, exit_functions.PATIENCE)
    sys.exit(code)


if __name__ == "__main__":
    main()
