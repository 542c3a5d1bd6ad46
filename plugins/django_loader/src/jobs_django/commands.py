"""Management commands as jobs."""

from __future__ import annotations

import logging
from typing import Any

from jobs_core import JobDefinitionError, JobFunction, job
from jobs_core.loaders.base import log_printed


def django_command(name: str, /, **options: Any) -> JobFunction[..., None, None]:
    """Return a job function that runs a management command: `django_command("clearsessions", cron="0 4 * * *")`.

    The options are those of `@job`. The job's name is `django.` followed by the command's name, unless the options have a
    `name`. Its arguments are those of `call_command`, as JSON: `load.enqueue("rows.csv", dry_run=True)`. The command's
    output is logged at level info, its standard error at level warning. A command that may ask questions gets
    `interactive=False`. Raises JobDefinitionError for a command that no installed app has.
    """
    _refuse_unknown(name)
    logger = logging.getLogger(f"jobs_django.{name}")

    def command(*args: Any, **arguments: Any) -> None:
        from django.core.management import call_command

        with log_printed(logger):
            try:
                call_command(name, *args, **_defaults(name, arguments), **arguments)
            except SystemExit as end:
                if end.code:  # a command that exits with code 0 has succeeded
                    raise

    command.__name__ = command.__qualname__ = name
    options.setdefault("name", f"django.{name}")
    made: JobFunction[..., None, None] = job(**options)(command)
    return made


def _refuse_unknown(name: str) -> None:
    """Raise JobDefinitionError for an unknown command; before Django knows its apps, leave that to the run."""
    from django.apps import apps
    from django.core.management import get_commands

    if apps.ready and name not in get_commands():
        import difflib  # late: every process imports this module, and only errors need it

        near = difflib.get_close_matches(str(name), get_commands(), 1)
        hint = f"did you mean {near[0]!r}?" if near else "`manage.py help` lists the commands of INSTALLED_APPS"
        raise JobDefinitionError(f"django_command: there is no management command {name!r}; {hint}")


def _defaults(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that suit a job: no colours, and if the command has that option, no questions."""
    from django.core.management import get_commands, load_command_class
    from django.core.management.base import BaseCommand

    found: dict[str, Any] = {}
    if not given.keys() & {"no_color", "force_color"}:
        found["no_color"] = True
    app = get_commands().get(name)
    if app is not None and "interactive" not in given:
        command = app if isinstance(app, BaseCommand) else load_command_class(app, name)
        if any(action.dest == "interactive" for action in command.create_parser("", name)._actions):
            found["interactive"] = False
    return found
