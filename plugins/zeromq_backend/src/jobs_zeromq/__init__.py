"""Jobs over ZeroMQ: a backend, and the small durable broker behind it (`jobsctl broker`).

URLs are `zmq+tcp://host:port` and `zmq+ipc:///path/of/socket`. ZeroMQ stores nothing; the broker is the network front of
the core's SQLite engine. docs/zeromq-protocol.md describes the wire protocol.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jobs_core import hookimpl

if TYPE_CHECKING:
    import click

    from jobs_core import Config
    from jobs_core.backends.base import Backend, BackendFactory, BackendOptions

__version__ = "0.1.0"


def _backend(url: str, options: BackendOptions) -> Backend:
    from jobs_core.backend_kit import with_failpoints

    from .backend import ZeromqBackend

    return with_failpoints(ZeromqBackend(url, options), {"reserve_next": "reserve"})


@hookimpl
def jobs_queue_backends() -> Mapping[str, BackendFactory]:
    return {"zmq+tcp": _backend, "zmq+ipc": _backend}


@hookimpl
def jobs_cli_commands() -> Mapping[str, click.Command]:
    from .cli import broker_command

    return {"broker": broker_command}


@hookimpl
def jobs_broker_commands(config: Config) -> list[Sequence[str]]:
    if not config.broker.embedded:
        return []
    from .broker.main import settings

    settings(config)  # reports errors in the settings before anything starts
    return [[sys.executable, "-m", "jobs_zeromq.broker"]]
