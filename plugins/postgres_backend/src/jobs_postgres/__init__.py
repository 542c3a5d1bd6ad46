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


__all__ = ["jobs_interface_version", "jobs_queue_backends"]
