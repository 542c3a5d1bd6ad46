"""`jobsctl payloads`: the payload store."""

from __future__ import annotations

import click

from ..operating.formatting import count
from . import output
from .common import Context, fail, pass_context


@click.group("payloads")
def payloads_command() -> None:
    """Look after the payload store."""


@payloads_command.command("clean")
@pass_context
def clean_payloads(context: Context) -> None:
    """Delete payloads that no job needs: their jobs were purged, or a process died before it had enqueued them.

    Payloads younger than payloads.grace stay. If the backend cannot look up jobs, all payloads older than payloads.keep are
    deleted. The housekeeper does the same every hour.
    """
    if context.effective.config.payloads.url is None:
        fail("there is no payload store: payloads.url is not set")
    context.require_shared_queue()  # else every payload would look like one that no job needs
    with context.asking():
        deleted = context.app.clean_payloads()
    output.echo(f"{count(deleted, 'payload')} deleted")
