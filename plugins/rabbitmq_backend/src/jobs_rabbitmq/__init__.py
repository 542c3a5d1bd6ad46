"""RabbitMQ as the backend of `jobs`: `backend = "amqp://localhost"`.

No job is lost: pushes are confirmed, jobs are acknowledged after they ran, and a job that has to run later is published as
a confirmed copy. `features` leaves out what RabbitMQ cannot support. topology.py describes the queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs_core import hookimpl

if TYPE_CHECKING:
    from jobs_core.backends.base import Backend, BackendFactory, BackendOptions

__version__ = "0.1.0"
jobs_interface_version = 1

SCHEMES = ("amqp", "amqps")


def _create(url: str, options: BackendOptions) -> Backend:
    from jobs_core.backend_kit import with_failpoints

    from .backend import RabbitMQBackend
    from .url import parse

    return with_failpoints(RabbitMQBackend(parse(url), options))


@hookimpl
def jobs_queue_backends() -> Mapping[str, BackendFactory]:
    return dict.fromkeys(SCHEMES, _create)


__all__ = ["jobs_interface_version", "jobs_queue_backends"]
