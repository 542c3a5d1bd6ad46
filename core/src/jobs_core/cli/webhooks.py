"""`jobsctl webhooks`: show the receivers of events, and send each a test."""

from __future__ import annotations

from datetime import datetime, timezone

import click

from ..boundary import text_of
from ..errors import JobsError
from ..ids import new_id
from . import output
from .common import Context, fail, pass_context
from .exits import Exit
from .types import TEXT
from .waiting import waiting


@click.group("webhooks")
def webhooks_command() -> None:
    """Test the receivers of events."""


@webhooks_command.command("test")
@click.argument("names", metavar="[NAME]...", nargs=-1, type=TEXT)
@pass_context
def test_webhooks(context: Context, names: tuple[str, ...]) -> None:
    """Send a test event to every receiver, or to those named, and report the outcome.

    The event has type `test`, and is sent by this command, not by a job.
    """
    from ..webhooks.sending import PATIENCE  # late: it imports the modules of HTTP and TLS

    known = context.app.config.webhooks
    unknown = [name for name in names if name not in known]
    if unknown:
        fail(f"there is no webhook {unknown[0]!r}: the configuration has {', '.join(known) or 'none'}", Exit.USAGE)
    if not known:
        fail('no webhook is configured: [webhooks.NAME] url = "https://…"', Exit.USAGE)
    worked = [_works(context, name) for name in names or known]
    if not all(worked):
        output.echo(f"Each has {PATIENCE:g} s. Certificates are verified, and no proxy is used.", err=True)
        raise click.exceptions.Exit(Exit.FAILED)


def _works(context: Context, name: str) -> bool:
    """Send a test to a receiver, and report the outcome; return True for success."""
    from ..webhooks.job import refusal, sent

    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        with waiting(f"webhook {name} to take the event"):
            reply = sent(context.app.config, name, new_id(), "test", now, {"webhook": name})
    except (JobsError, ConnectionError) as error:
        output.echo(f"{output.BAD} {name}: {text_of(error)}")
        return False
    good = 200 <= reply.status < 300
    output.echo(f"{output.GOOD} {name}: sent" if good else f"{output.BAD} {name}: {refusal(reply)}")
    return good
