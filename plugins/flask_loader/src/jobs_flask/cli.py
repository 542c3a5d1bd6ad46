"""`flask jobs …`: all of `jobsctl`, for this application and with its configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from flask.cli import ScriptInfo

from jobs_core import run_command
from jobs_core.errors import ConfigError

from .settings import NAME, settings


@click.command(
    "jobs",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    short_help="Background jobs: start, status, worker, topics and the rest of jobsctl.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def jobs(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """All commands of `jobsctl`, with this application and its JOBS_ settings."""
    info = ctx.ensure_object(ScriptInfo)
    app = info.load_app()
    try:
        values = settings(app)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    values.setdefault("framework", "flask")
    path = info.app_import_path or _found_by_flask()
    if path:
        values.setdefault("flask", {})["app"] = path
    file = app.config.get("JOBS_CONFIG")
    given = ["-c", str(file), *arguments] if file and "-c" not in arguments and "--config" not in arguments else arguments
    sys.exit(run_command(given, settings=values, settings_name=NAME, called="flask jobs"))


def _found_by_flask() -> str | None:
    """Return the file in which `flask` looks for the application if none is named."""
    return next((name for name in ("wsgi.py", "app.py") if Path(name).is_file()), None)
