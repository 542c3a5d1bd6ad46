"""PostgreSQL as the backend of `jobs`: `backend = "postgresql://user@host/database"`.

Every operation is one call of a function in the database (sql/), so it happens entirely or not at all. An operation that is
sent twice is executed once. sql/schema.sql describes how jobs are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs_core import hookimpl

if TYPE_CHECKING:
    from jobs_core.backends.base import Backend, BackendFactory, BackendOptions
    from jobs_core.backends.outbox import Outbox, OutboxFactory

__version__ = "0.1.0"
jobs_interface_version = 2

SCHEMES = ("postgresql", "postgres")


def _create(url: str, options: BackendOptions) -> Backend:
    from jobs_core.backend_kit import with_failpoints

    from .backend import PostgresBackend
    from .url import parse

    return with_failpoints(PostgresBackend(parse(url, options.prefix), options))


@hookimpl
def jobs_queue_backends() -> Mapping[str, BackendFactory]:
    return dict.fromkeys(SCHEMES, _create)


def _create_outbox(url: str, prefix: str) -> Outbox:
    from .outbox import PostgresOutbox
    from .url import parse

    return PostgresOutbox(parse(url, prefix))


@hookimpl
def jobs_outboxes() -> Mapping[str, OutboxFactory]:
    return dict.fromkeys(SCHEMES, _create_outbox)


__all__ = ["jobs_interface_version", "jobs_outboxes", "jobs_queue_backends"]
