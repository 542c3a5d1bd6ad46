"""Redis (or Valkey) as the backend of `jobs`: `backend = "redis://localhost:6379/0"`.

Every operation is one Lua script over the whole store (scripts/), so it happens entirely or not at all. An operation that
is sent twice is executed once. keys.py describes how jobs are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs_core import hookimpl

if TYPE_CHECKING:
    from jobs_core.backends.base import Backend, BackendFactory, BackendOptions

__version__ = "0.1.0"
jobs_interface_version = 2

SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster")


def _create(url: str, options: BackendOptions) -> Backend:
    from jobs_core.backend_kit import with_failpoints

    from .url import parse

    target = parse(url)
    if target.kind == "cluster":
        from .cluster import RedisClusterBackend

        return with_failpoints(RedisClusterBackend(target, options))
    from .backend import RedisBackend

    return with_failpoints(RedisBackend(target, options), {"_reserve_when_woken": "reserve"})


@hookimpl
def jobs_queue_backends() -> Mapping[str, BackendFactory]:
    return dict.fromkeys(SCHEMES, _create)


__all__ = ["jobs_interface_version", "jobs_queue_backends"]
