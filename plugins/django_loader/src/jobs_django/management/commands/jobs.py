"""`manage.py jobs …`: all of `jobsctl`, with this project's settings."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from jobs_core import run_command
from jobs_core.errors import ConfigError
from jobs_django import settings


class Command(BaseCommand):
    """Passes its arguments to `jobsctl`, options and `--help` included."""

    help = "Background jobs: start, status, worker, topics and the rest of jobsctl; `manage.py jobs --help` lists them."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's name and shape

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            code = _run(argv[2:])
        except ConfigError as error:
            self.stderr.write(str(error))
            code = 2
        sys.exit(code)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *args: Any, **options: Any) -> None:
        """Support `call_command("jobs", "topics")`."""
        try:
            code = _run([str(argument) for argument in options["arguments"]])
        except ConfigError as error:
            raise CommandError(str(error), returncode=2) from None
        if code:
            raise CommandError(f"jobs ended with exit code {code}", returncode=code)


def _run(arguments: list[str]) -> int:
    return run_command(
        arguments,
        settings=settings.complete(),
        settings_name=settings.name(),
        directory=settings.directory(),
        called="manage.py jobs",
    )
