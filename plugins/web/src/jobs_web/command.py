"""`jobsctl web`: serve the dashboard, and make tokens for its users."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from jobs_core import ConfigError, current_app
from jobs_core.escapes import in_one_line
from jobs_core.units import count

from .sessions import Sessions


@click.group("web", invoke_without_command=True)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help='Where to serve, or "unix:/path". [default: [plugins.web] listen, else "127.0.0.1:9100"]',
)
@click.option("--read-only", is_flag=True, default=None, help="Refuse every change, whatever the role.")
@click.option("--root-path", metavar="PATH", help='The prefix under which a proxy publishes it, such as "/jobs".')
@click.pass_context
def web_command(ctx: click.Context, listen: str | None, read_only: bool | None, root_path: str | None) -> None:
    """Serve the dashboard in a browser, until Ctrl-C.

    Without [plugins.web.tokens], it serves this machine only, and prints a link with a key that is valid until it ends. To let
    other machines reach it, make a token for each user (`jobsctl web token`), and put a proxy with TLS in front of it.
    """
    if ctx.invoked_subcommand is not None:
        return
    from .serving import serve

    serve(current_app(), file=_file_of(ctx), listen=listen, read_only=read_only, root_path=root_path)


def _file_of(ctx: click.Context) -> Path | None:
    """Return the file of the configuration, which the command line has read."""
    found: Path | None = ctx.find_root().obj.effective.file
    return found


@web_command.command("token")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["read", "operate", "admin"]), default="read", show_default=True, help="What the user may do."
)
@click.option(
    "--topic",
    "topics",
    metavar="TOPIC",
    multiple=True,
    help="Allow nothing but to enqueue to this topic through the HTTP API, and to look at single jobs in it. May be repeated.",
)
def token_command(name: str, role: str, topics: tuple[str, ...]) -> None:
    """Make a token for the user NAME, and print it with the lines for jobs.toml, which contain only its hash.

    read: look at everything. operate: also enqueue, run again, cancel, pause. admin: also delete, and change machines, limits
    and the schedule. With --topic and the role operate, a program can enqueue to these topics; with read, only look.
    """
    from .settings import read
    from .tokens import hash_of, new_token

    token = new_token()
    table = {"role": role, "hash": hash_of(token), **({"topics": list(topics)} if topics else {})}
    read({"tokens": {name: table}})
    click.echo(f"The token of {name}, which is shown only now:\n\n    {token}\n\nAdd this to jobs.toml:\n")
    lines = "".join(f"\n{key} = {json.dumps(value)}" for key, value in table.items())
    click.echo(f'[plugins.web.tokens."{name}"]{lines}')


@web_command.command("link")
def link_command() -> None:
    """Print a link to the dashboard that the supervisor serves on this machine ([http] dashboard = true).

    Without [plugins.web.tokens] and users of a proxy, the link logs in as admin, and is valid for ten minutes. It can be made
    by users who may read the run directory.
    """
    from .access import LINK, LINK_FOR, LOCAL
    from .serving import link, settings_of
    from .tokens import Seal, key_in

    app = current_app()
    settings = settings_of(app)
    if not app.config.http.dashboard:
        click.echo("jobs: no supervisor serves it: [http] dashboard = true is missing", err=True)
    key = "" if settings.knows_users else Seal(key_in(app.run_dir)).seal(LINK, LOCAL, LINK_FOR)
    click.echo(link(settings, key))


@web_command.command("sessions")
def sessions_command() -> None:
    """List the users who are logged in to the dashboard of this machine, with the ids of their sessions."""
    for record in sorted(_sessions(), key=lambda record: record.since):
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.since))
        click.echo(in_one_line(f"{record.id}  {record.user}  since {since}  from {record.client}  {record.agent}"))


@web_command.command("logout")
@click.argument("who", metavar="SESSION|USER")
def logout_command(who: str) -> None:
    """End one session, or all sessions of a user; it takes effect with the next request.

    The user can log in again with their token: delete that from jobs.toml, which ends its sessions, too.
    """
    sessions = _sessions()
    ended = [record.id for record in sessions if who in (record.id, record.user)]
    if not ended:
        raise ConfigError(f"{who}: no session of this id or user: `jobsctl web sessions` lists them")
    for session in ended:
        sessions.end(session)
    click.echo(f"ended {count(len(ended), 'session')}")


def _sessions() -> Sessions:
    from .settings import read

    app = current_app()
    return Sessions(app.run_dir, read(app.config.plugins.get("web", {})).session)
