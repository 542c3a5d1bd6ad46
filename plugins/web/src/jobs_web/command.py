"""`jobsctl web`: serve the dashboard, and make tokens for its users."""

from __future__ import annotations

import click

from jobs_core import current_app


@click.group("web", invoke_without_command=True)
@click.option("--listen", metavar="HOST:PORT", help='Where to serve. [default: [plugins.web] listen, else "127.0.0.1:9100"]')
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

    serve(current_app(), listen=listen, read_only=read_only, root_path=root_path)


@web_command.command("token")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(["read", "operate", "admin"]), default="read", show_default=True, help="What the user may do."
)
def token_command(name: str, role: str) -> None:
    """Make a token for the user NAME, and print it with the lines for jobs.toml, which contain only its hash.

    read: look at everything. operate: also run again, cancel, pause. admin: also delete, and change machines, limits and the
    schedule.
    """
    from .settings import read
    from .tokens import hash_of, new_token

    token = new_token()
    read({"tokens": {name: {"role": role, "hash": hash_of(token)}}})
    click.echo(f"The token of {name}, which is shown only now:\n\n    {token}\n\nAdd this to jobs.toml:\n")
    click.echo(f'[plugins.web.tokens."{name}"]\nrole = "{role}"\nhash = "{hash_of(token)}"')
