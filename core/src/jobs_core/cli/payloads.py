"""`jobsctl payloads`: the payload store."""

from __future__ import annotations

import click

from . import output
from .common import Context, fail, pass_context
from .formatting import count


@click.group("payloads")
def payloads_command() -> None:
    """Look after the payload store."""


@payloads_command.command("clean")
@pass_context
def clean_payloads(context: Context) -> None:
    """Delete what no job needs any more: a process died before it had enqueued, or jobs were purged.

    What is younger than payloads.grace stays. If the backend cannot look up jobs, everything older than payloads.keep is
    deleted. The housekeeper does the same every hour.
    """
    if context.effective.config.payloads.url is None:
        fail("there is no payload store: payloads.url is not set")
    with context.asking():
        deleted = context.app.clean_payloads()
    output.echo(f"{count(deleted, 'payload')} deleted")
