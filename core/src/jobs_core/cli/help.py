"""`jobsctl help`: print the same as `--help`, for users who type it the other way round."""

from __future__ import annotations

import click

from . import output
from .types import TEXT


@click.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1, type=TEXT)
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show what COMMAND does, or all commands."""
    context = ctx.find_root()
    command: click.Command = context.command
    for word in words:
        name, found, _ = command.resolve_command(context, [word]) if isinstance(command, click.Group) else (None, None, [])
        if found is None:
            ctx.fail(f"{context.command_path} has no command {word!r}")
        context, command = click.Context(found, info_name=name, parent=context), found
    output.echo(command.get_help(context))
