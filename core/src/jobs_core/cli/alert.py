"""`jobsctl alert test`: send a test alert through the channels."""

from __future__ import annotations

import click

from ..backends.base import Counts
from ..boundary import passes, text_of, told
from ..config import Config
from ..guard import without_stdout
from ..loaders.base import AlertChannel
from ..supervisor.housekeeper.alerts import Alert, channels, message
from ..supervisor.housekeeper.sender import PATIENCE, hide, secrets
from . import output
from .common import Context, fail, pass_context
from .exits import Exit
from .types import TEXT
from .waiting import waiting


@click.group("alert")
def alert_command() -> None:
    """Test the alert channels."""


@alert_command.command("test")
@click.argument("names", metavar="[CHANNEL]...", nargs=-1, type=TEXT)
@pass_context
def test_alert(context: Context, names: tuple[str, ...]) -> None:
    """Send a test alert to every channel, or to those named, and report the outcome."""
    app = context.app
    found = channels(app.config, app.plugins)
    unknown = [name for name in names if name not in found]
    if unknown:
        fail(f"there is no alert channel {unknown[0]!r}: the configuration has {', '.join(found) or 'none'}", Exit.USAGE)
    if not found:
        fail('no alert channel is configured: [alerts.channels] webhook = { url = "https://…" }', Exit.USAGE)
    alert = message(app.config, "test", "test", Counts(), 0.0)
    sent = [_sent(name, found[name], alert, app.config) for name in names or found]
    if not all(sent):
        output.echo(f"Each has {PATIENCE:g} s. HTTPS_PROXY and NO_PROXY are obeyed, certificates are verified.", err=True)
        raise click.exceptions.Exit(Exit.FAILED)


def _sent(name: str, channel: AlertChannel, alert: Alert, config: Config) -> bool:
    """Send an alert to a channel, and report the outcome; return True for success."""
    try:
        with waiting(f"channel {name} to take the alert"), without_stdout():
            channel.send(alert.title, alert.text, alert.facts)
    except BaseException as error:  # a plugin's channel may raise anything
        if passes(error):
            raise
        text = text_of(error) if issubclass(type(error), ConnectionError) else told(error)
        output.echo(f"{output.BAD} {name}: {hide(text, secrets(config.alerts.channels[name]))}")
        return False
    output.echo(f"{output.GOOD} {name}: sent")
    return True
