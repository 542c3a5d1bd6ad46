"""Compare no-op enqueues and drains of two checkouts in turn, as ratios: `python -m bench.turns BEFORE [AFTER]`.

BEFORE and AFTER (default: this one) are folders with a `.venv` made by `make`. Each round runs one after the other against
the same server, on every backend. The result is the median of the rounds' ratios, which a noisy machine disturbs least.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobs_core.cli import output
from jobs_core.ids import new_token
from jobs_core.testing.services.postgres import PostgresServer
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_core.testing.services.redis import RedisServer

from ..support import ROOT, median

Server = RedisServer | RabbitMQNode | PostgresServer

SIDE = Path(__file__).with_name("side.py")
BACKENDS = ("sqlite", "redis", "rabbitmq", "zeromq", "postgres")
ONE_BY_ONE = {"sqlite": 2000, "redis": 5000, "rabbitmq": 1500, "zeromq": 2000, "postgres": 2000}
BULK = 60_000


@contextlib.contextmanager
def server(backend: str) -> Iterator[Server | None]:
    """Run the server that both sides use; SQLite and ZeroMQ start their own."""
    with tempfile.TemporaryDirectory(prefix="jobs-turns-") as directory:
        if backend == "redis":
            with RedisServer(Path(directory)) as redis:
                yield redis
        elif backend == "rabbitmq":
            with RabbitMQNode(Path(directory)) as node:
                yield node
        elif backend == "postgres":
            with PostgresServer() as postgres:
                yield postgres
        else:
            yield None


def side(checkout: Path, backend: str, running: Server | None) -> dict[str, float]:
    """Run one side in its own directory."""
    url = {"sqlite": "sqlite:///queue.db", "zeromq": "zeromq"}.get(backend, "")
    if isinstance(running, RedisServer):
        url = f"redis://127.0.0.1:{running.port}/0?prefix=turns-{new_token(4)}"
    elif isinstance(running, RabbitMQNode):
        url = running.url(running.make_vhost())
    elif running is not None:
        url = f"{running.url}?schema=turns_{new_token(4)}"
    with tempfile.TemporaryDirectory(prefix="jobs-turns-") as directory:
        command = [str(checkout / ".venv/bin/python"), str(SIDE), url, str(ONE_BY_ONE[backend]), str(BULK)]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if done.returncode:
            log = Path(directory) / "jobs.log"
            raise SystemExit(
                f"{checkout} on {backend}:\n{done.stderr[-3000:]}\n{log.read_text()[-2000:] if log.exists() else ''}"
            )
        return dict(json.loads(done.stdout))


def _folder(text: str) -> Path:
    """Return an absolute path: the sides run in folders of their own."""
    return Path(text).absolute()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.turns", description=__doc__)
    parser.add_argument("before", type=_folder)
    parser.add_argument("after", type=_folder, nargs="?", default=ROOT)
    parser.add_argument("--backend", action="append", choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for backend in options.backend or BACKENDS:
        rounds: list[tuple[dict[str, float], dict[str, float]]] = []
        with server(backend) as running:
            for number in range(options.rounds):
                if number % 2:
                    after = side(options.after, backend, running)
                    rounds.append((side(options.before, backend, running), after))
                else:
                    before = side(options.before, backend, running)
                    rounds.append((before, side(options.after, backend, running)))
        for what in rounds[0][0]:
            olds, news = [old[what] for old, _ in rounds], [new[what] for _, new in rounds]
            ratios = [new / old for old, new in zip(olds, news, strict=True) if old]
            ratio = f"{median(ratios):.3f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–"
            rows.append((backend, what, f"{median(olds):,.1f}", f"{median(news):,.1f}", ratio))
    output.table(["backend", "what", "before", "after", "after / before"], rows, plain=False)


if __name__ == "__main__":
    main()
