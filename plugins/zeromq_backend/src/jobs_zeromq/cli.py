"""`jobsctl broker`: serve, show the status, make keys."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import msgspec

from jobs_core.backend_kit import json_for_terminal, one_line
from jobs_core.backends.base import BackendOptions
from jobs_core.errors import BackendUnavailable

NOT_RUNNING = 3


@click.group("broker", invoke_without_command=True)
@click.pass_context
def broker_command(context: click.Context) -> None:
    """Serve as the ZeroMQ broker, in the foreground, until TERM or INT.

    It listens where `backend` points (or [broker] listen says) and keeps jobs in the SQLite file that [broker] store
    names. With [broker] embedded = true, `jobsctl start` starts it.
    """
    if context.invoked_subcommand is None:
        from .broker.main import serve, tell_ready

        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
        serve(_config(context), tell_ready)


@broker_command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status_command(context: click.Context, as_json: bool) -> None:
    """Show whether the broker serves, where, and what it has done; exit code 3 if it does not."""
    from .backend import ZeromqBackend

    config = _config(context)
    url = config.backend or ""
    if not url.startswith(("zmq+tcp://", "zmq+ipc://")):
        raise click.UsageError('backend is not a broker: status asks the one named in `backend = "zmq+…"`')
    backend = ZeromqBackend(url, BackendOptions(base_dir=config.base_dir))
    try:
        backend.open(None)
        found = backend.status()
    except BackendUnavailable as error:
        click.echo(f"jobs: {one_line(str(error))}", err=True)
        raise click.exceptions.Exit(NOT_RUNNING) from None
    finally:
        backend.close()
    if as_json:
        click.echo(json_for_terminal(msgspec.json.encode(found).decode()))
        return
    for name, value in msgspec.structs.asdict(found).items():
        click.echo(f"{name:<10} {one_line(_shown(value))}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.0f} s" if isinstance(value, float) else str(value)


@broker_command.command("keygen")
@click.argument("directory", type=click.Path(path_type=Path), default=Path("keys"), required=False)
@click.option("--client", "clients", metavar="NAME", multiple=True, help="Make a key for a client of this name, and accept it.")
def keygen_command(directory: Path, clients: tuple[str, ...]) -> None:
    """Make CURVE keys in DIRECTORY (default: keys): the broker's, if it has none, and its clients'.

    The broker needs [broker] keys = "DIRECTORY"; a client its own secret key and the broker's public one, named in its
    URL: zmq+tcp://host:7788?key=NAME.key_secret&broker=broker.key
    """
    from . import keys

    public = keys.make_broker(directory)
    click.echo(f"{public}: the broker's public key, which every client needs")
    for name in clients:
        secret = keys.make_client(directory, name)
        click.echo(f"{secret}: the secret key of {name}: copy it to that machine, then delete it here")


def _config(context: click.Context) -> Any:
    return context.obj.effective.config
