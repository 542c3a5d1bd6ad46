"""`python -m jobs_fastapi shop.main:app start`: all of `jobsctl`, for an application and with its settings."""

from __future__ import annotations

import sys

import click

from jobs_core import run_command
from jobs_core.errors import JobsError
from jobs_core.loaders.base import add_to_path

from . import extension
from .application import find
from .extension import NAME, extension_of


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
)
@click.argument("app", metavar="APP")
@click.argument("arguments", metavar="COMMAND", nargs=-1, type=click.UNPROCESSED)
def main(app: str, arguments: tuple[str, ...]) -> None:
    """Run any command of `jobsctl` for APP ("shop.main:app"), with the settings that its JobsFastAPI was given."""
    from pathlib import Path

    add_to_path(Path.cwd())
    extension.in_worker = True
    try:
        tied = extension_of(find(app))
    except JobsError as error:
        raise click.ClickException(str(error)) from None
    values = dict(tied.settings) if tied is not None else {}
    values.setdefault("framework", "fastapi")
    values.setdefault("fastapi", {})["app"] = app
    file = tied.file if tied is not None else None
    given = ["-c", str(file), *arguments] if file and "-c" not in arguments and "--config" not in arguments else arguments
    sys.exit(run_command(given, settings=values, settings_name=NAME, called=f"python -m jobs_fastapi {app}"))


if __name__ == "__main__":
    main()
