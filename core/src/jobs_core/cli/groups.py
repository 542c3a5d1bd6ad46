"""Groups of commands."""

from __future__ import annotations

import itertools

import click


class DefaultsToList(click.Group):
    """A group whose command `list` may be left out. A word that `list` cannot take is a command that does not exist."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(itertools.takewhile(lambda arg: not arg.startswith("-"), args))
        takes = sum(isinstance(each, click.Argument) for each in self.commands["list"].params)
        if words and words[0] not in self.commands and len(words) > takes:
            ctx.fail(f"no such command {words[0]!r}; commands are {', '.join(self.commands)}")
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)
