"""Click commands of the application as jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs_core import ArgumentError, JobDefinitionError, JobFunction, job
from jobs_core.loaders.base import log_printed

if TYPE_CHECKING:
    import click


def flask_command(name: str, /, **options: Any) -> JobFunction[..., None, None]:
    """Return a job function that runs a command of `flask`: `flask_command("send-digest", cron="0 7 * * *")`.

    For a command in a group, include the group: `flask_command("user create")`. The options are those of `@job`. The job's
    name is `flask.` followed by the command's words with dots between them, unless the options have a `name`. The job's
    positional arguments are the command's arguments, its keywords the command's options:
    `create.enqueue("ada", admin=True, tags=["a", "b"])`. The command's output is logged at level info, its standard error
    at level warning. If the application has no such command, or the command no such option, the job fails. Raises
    JobDefinitionError for options that `@job` refuses.
    """
    words = name.split()
    if not words:
        raise JobDefinitionError('flask_command: name a command of the application, such as "send-digest" or "user create"')
    logger = logging.getLogger(f"jobs_flask.{'.'.join(words)}")

    def command(*args: Any, **arguments: Any) -> None:
        with log_printed(logger):
            _run(words, args, arguments)

    command.__name__ = command.__qualname__ = words[-1]
    options.setdefault("name", ".".join(["flask", *words]))
    made: JobFunction[..., None, None] = job(**options)(command)
    return made


def _run(words: list[str], args: Sequence[Any], arguments: Mapping[str, Any]) -> None:
    """Run a command of the current application, or of one of Flask's extensions."""
    from click import ClickException
    from click.exceptions import Exit
    from flask import current_app
    from flask.cli import FlaskGroup

    app = current_app._get_current_object()  # type: ignore[attr-defined]
    group = FlaskGroup(create_app=lambda: app, add_version_option=False, load_dotenv=False, set_debug_flag=False)
    try:
        line = [*words, *_options(_find(group, words), words, arguments), "--", *map(_text, args)]
        with group.make_context("flask", line) as context:
            group.invoke(context)
    except ClickException as error:
        raise ArgumentError(f"flask {' '.join(words)}: {error.format_message()}") from error
    except (Exit, SystemExit) as end:
        code = end.exit_code if isinstance(end, Exit) else end.code
        if code:  # a command that exits with code 0 has succeeded
            raise RuntimeError(f"flask {' '.join(words)} exited with {code}") from end


def _find(group: click.Group, words: list[str]) -> click.Command:
    from click import Group

    found: click.Command = group
    with group.make_context("flask", words[:1], resilient_parsing=True) as context:
        for word in words:
            commands = found if isinstance(found, Group) else None
            inner = commands.get_command(context, word) if commands else None
            if inner is None:
                import difflib  # late: every process imports this module, and only errors need it

                near = difflib.get_close_matches(word, commands.list_commands(context) if commands else (), 1)
                hint = f"did you mean {near[0]!r}?" if near else "`flask --help` lists the commands"
                raise ArgumentError(f"flask_command: the application has no command {' '.join(words)!r}; {hint}")
            found = inner
    return found


def _options(command: click.Command, words: list[str], given: Mapping[str, Any]) -> Iterator[str]:
    """Convert keyword arguments to command-line options."""
    from click import Option

    known = {option.name: option for option in command.params if isinstance(option, Option)}
    for key, value in given.items():
        option = known.get(key)
        if option is None:
            have = ", ".join(str(each) for each in known) or "none"
            raise ArgumentError(f"flask {' '.join(words)}: there is no option {key!r}; its options are {have}", argument=key)
        yield from _option(option, value)


def _option(option: click.Option, value: Any) -> Iterator[str]:
    on, off = option.opts[-1], option.secondary_opts[-1:]
    if value is None:
        return
    if option.is_flag and isinstance(value, bool):
        yield from [on] if value else off
    elif option.count:
        yield from [on] * int(value)
    else:
        for one in value if option.multiple else [value]:
            yield from (on, *map(_text, one if option.nargs != 1 else [one]))


def _text(value: Any) -> str:
    """Convert a value to its form on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
