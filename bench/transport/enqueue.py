"""`python -m bench.transport.enqueue`: one process pushes job by job, a hundred with each transport in turn.

With BENCH_WITHOUT=codec, "ours" lacks that part: what remains of the difference is what our loop and adapter buy.
"""

from __future__ import annotations

import os
import sys
import time

from jobs_core.backends.base import Backend, BackendOptions, Outgoing
from jobs_core.cli import output
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer
from jobs_rabbitmq import _create as rabbitmq
from jobs_redis import _create as redis

from ..support import median
from ..turns.__main__ import server

TURN = 100
CREATE = {"redis": redis, "rabbitmq": rabbitmq}


def opened(backend: str, running: RedisServer | RabbitMQNode, transport: str) -> Backend:
    os.environ["JOBS_TRANSPORT"] = transport
    if isinstance(running, RedisServer):
        url = f"redis://127.0.0.1:{running.port}/0?prefix=transport-{new_token(4)}"
    else:
        url = running.url(running.make_vhost())
    made = CREATE[backend](url, BackendOptions())
    made.open(None)
    made.push([Outgoing(new_id(), "default", b"{}")], new_token())
    return made


def turn(backend: Backend) -> tuple[float, float]:
    """Return CPU and wall time of a push, in microseconds."""
    cpu, begin = time.process_time(), time.perf_counter()
    for _ in range(TURN):
        backend.push([Outgoing(new_id(), "default", b"{}")], new_token())
    return (time.process_time() - cpu) / TURN * 1e6, (time.perf_counter() - begin) / TURN * 1e6


def main() -> None:
    if os.environ.get("BENCH_WITHOUT"):
        from . import without  # noqa: F401 - it acts on import
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    rows = []
    for backend in CREATE:
        with server(backend) as running:
            assert running is not None
            ours, theirs = (opened(backend, running, transport) for transport in ("", "library"))
            pairs = [(turn(ours), turn(theirs)) for _ in range(rounds)]
            ours.close()
            theirs.close()
        for n, what in enumerate(("CPU µs", "wall µs")):
            old, new = [a[n] for a, _ in pairs], [b[n] for _, b in pairs]
            ratio = median([b / a for a, b in zip(old, new, strict=True)])
            rows.append((backend, what, f"{median(old):.0f}", f"{median(new):.0f}", f"{ratio:.2f}"))
    output.table(["backend", "of a push", "ours", "the library's", "ratio to ours"], rows, plain=False)


if __name__ == "__main__":
    main()
