"""`python -m bench.transport.held`: a worker of RabbitMQ beside a job that holds the interpreter, with each transport in turn.

The job holds it for about half a second at a time (a stretch), and begins while 2,000 messages of short jobs are delivered
ahead, which the worker has to release. Measured at a proxy: the longest silence on the connection that holds jobs, and the
end of the release, both in stretches; and the number of connections, of which two are needed. The broker
gives a connection up after a silence of two heartbeats.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.cli import output
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.rabbitmq import RabbitMQNode
from jobs_rabbitmq import _create

from ..support import ROOT, median

STRETCH, SECONDS, AHEAD = 0.5, 10.0, 8000
HEARTBEAT = 2
VARIANTS = {
    "ours": {},
    "pika's": {"JOBS_TRANSPORT": "library"},
}


class Proxy(threading.Thread):
    """Passes bytes on, and notes when the client says something."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.spoke: dict[int, list[float]] = {}  # number of the connection → moments

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._listening, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    client, _ = self._listening.accept()
                    server = socket.create_connection(("127.0.0.1", self._port))
                    moments = self.spoke.setdefault(len(self.spoke), [])
                    selector.register(client, selectors.EVENT_READ, (server, moments))
                    selector.register(server, selectors.EVENT_READ, (client, None))
                    continue
                other, moments = key.data
                source: socket.socket = key.fileobj  # type: ignore[assignment]
                try:
                    data = source.recv(1 << 16)
                    other.sendall(data)
                except OSError:
                    data = b""
                if moments is not None and data:
                    moments.append(time.monotonic())
                if not data:
                    selector.unregister(source)
                    with contextlib.suppress(OSError):
                        other.shutdown(socket.SHUT_WR)


def child(url: str) -> None:
    """Be the worker; print when the job began and ended, its usual stretch, and how many messages were delivered ahead."""
    worker = _create(url, BackendOptions(topics=("t",)))
    worker.open("w")
    short = worker.reserve(["t"], 2000, new_token())
    worker.settle([Settlement(each.id, each.token, Outcome.DONE) for each in short], new_token())
    ahead = worker._taking().buffers  # type: ignore[attr-defined]
    enough = time.monotonic() + 3.0
    while sum(map(len, ahead.values())) < 2000 and time.monotonic() < enough:
        worker.wait((), 0.05)
    delivered = sum(map(len, ahead.values()))
    (long,) = worker.reserve(["t"], 1, new_token())
    over, stretches = threading.Event(), [0.0]

    def hold() -> None:
        number = 1_000_000
        while not over.is_set():
            begin = time.monotonic()
            sum(range(number))
            stretches.append(time.monotonic() - begin)
            number = int(number * STRETCH / max(0.01, stretches[-1]))

    thread = threading.Thread(target=hold)
    begin = time.monotonic()
    thread.start()
    while time.monotonic() - begin < SECONDS:
        worker.wait((), 0.5)
    end = time.monotonic()
    over.set()
    thread.join()
    stretches.sort()
    print(json.dumps({"begin": begin, "end": end, "stretch": stretches[len(stretches) // 2], "ahead": delivered}))
    worker.settle([Settlement(long.id, long.token, Outcome.DONE)], new_token())
    worker.close()


def side(node: RabbitMQNode, environment: dict[str, str]) -> dict[str, float]:
    """Run one variant."""
    vhost = node.make_vhost()
    producer = _create(node.url(vhost), BackendOptions(topics=("t",)))
    producer.open(None)
    producer.push([Outgoing(new_id(), "t", b"{}") for _ in range(AHEAD)], new_token())
    producer.close()
    proxy = Proxy(node.port)
    proxy.start()
    url = f"{node.url(vhost, port=proxy.port)}?heartbeat={HEARTBEAT}"
    command = [sys.executable, "-m", "bench.transport.held", url]
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    told = json.loads(done.stdout)
    moments = proxy.spoke[0]
    during = [told["begin"], *(moment for moment in moments if told["begin"] < moment < told["end"]), told["end"]]
    silence = max(after - before for before, after in itertools.pairwise(during))
    released = [moment for moment in proxy.spoke.get(1, ()) if moment < told["end"]]
    return {
        "longest silence, stretches": silence / told["stretch"],
        "released ahead after, stretches": (max([told["begin"], *released]) - told["begin"]) / told["stretch"],
        "delivered ahead": told["ahead"],
        "connections": len(proxy.spoke),
    }


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1].startswith("amqp"):
        child(sys.argv[1])
        return
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="jobs-held-") as directory, RabbitMQNode(Path(directory)) as node:
        for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
            order = list(VARIANTS)[:: -1 if number % 2 else 1]
            rounds.append({name: side(node, VARIANTS[name]) for name in order})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    rows = [
        (what, name, f"{median([each[name][what] for each in rounds]):.1f}", f"{max(each[name][what] for each in rounds):.1f}")
        for what in rounds[0]["ours"]
        for name in VARIANTS
    ]
    output.table(["what", "transport", "median", "worst"], rows, plain=False)


if __name__ == "__main__":
    main()
