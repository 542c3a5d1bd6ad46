"""`jobsctl migrate`: show what an application of another job system would be here."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..migrating import celery_app, text
from . import output
from .types import TEXT
from .waiting import importing_application


@click.group("migrate", no_args_is_help=True)
def migrate_command() -> None:
    """Show what the tasks, schedule and settings of another job system would look like here."""


@migrate_command.command("celery")
@click.argument("application", metavar="APPLICATION", type=TEXT)
@click.option("--settings", "only_settings", is_flag=True, help="Print only jobs.toml.")
def celery_command(application: str, only_settings: bool) -> None:
    """Print what a Celery application would look like here: jobs.toml, the decorator of every job, and the lines to change.

    APPLICATION is what follows `celery -A`, such as `shop` or `shop.celery:app`. Celery imports it; no broker is contacted.
    The Python files of the current directory are searched for calls of the tasks. Nothing is written, and passwords are not
    printed. Run it in the environment of the application.
    """
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    with importing_application():
        plan = celery_app.read(application, here)
    output.script(text.settings(plan) if only_settings else text.written(plan))
