"""Scenarios of jobs-rabbitmq: two workers on a node of their own, beside bare loops of pika on queues of the same kind."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika

from jobs_core import App
from jobs_core.testing.services.rabbitmq import RabbitMQNode

from .scenes import Rows, enqueue, latency, race, seconds
from .support import application, supervised, until_state

JOBS = 40_000
ONE_BY_ONE = 500

BARE_DRAIN = """
import os, sys
import pika
url, queue, ledger, every = sys.argv[1:]
ledger, every, count = os.open(ledger, os.O_WRONLY | os.O_APPEND), int(every), 0
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=3 * 100)
print("ready", flush=True)
sys.stdin.readline()
def take(channel, method, properties, body):
    global count
    count += 1
    if count % every == 0:
        channel.basic_ack(method.delivery_tag, multiple=True)
        os.write(ledger, b"." * every)
channel.basic_consume(queue, take)
channel.start_consuming()
"""
"""The job counts what it has acknowledged."""


@contextlib.contextmanager
def rabbitmq_application(queues: str = "quorum") -> Iterator[App]:
    """Yield an application on its own node with default settings."""
    with (
        tempfile.TemporaryDirectory(prefix="jobs-bench-") as directory,
        RabbitMQNode(Path(directory)) as node,
        application(f"{node.url('%2F')}?queues={queues}") as app,
    ):
        yield app


def bare_url(app: App) -> str:
    """Return the URL with only the parts that pika understands."""
    return app.backend_url.partition("?")[0]


def drain() -> Rows:
    """Measure jobs through two workers, and the same messages through two bare loops.

    One loop acknowledges a hundred messages at once, as a tuned consumer does; the other acknowledges each, as pika's
    examples do.
    """
    from . import jobs_to_run

    with rabbitmq_application() as app:
        ledger = app.config.base_dir / "ledger"
        with supervised(app, 2) as supervisor:
            supervisor.send_signal(signal.SIGTSTP)  # quiet: RabbitMQ has no pause
            until_state(app, "quiet", supervisor)
            pushed = enqueue(jobs_to_run.mark, JOBS)
            begin = time.perf_counter()
            supervisor.send_signal(signal.SIGCONT)
            drained = _until_marked(ledger, JOBS) - begin
        enqueue(jobs_to_run.mark, JOBS)
        clever = _bare_loops(app, 100, JOBS)
        enqueue(jobs_to_run.mark, JOBS // 4)
        plain = 4 * _bare_loops(app, 1, JOBS // 4)
    return {
        "rabbitmq: bulk push, jobs/s": JOBS / pushed,
        "rabbitmq, 2 workers: jobs/s": JOBS / drained,
        "rabbitmq, 2 bare loops that acknowledge a hundred at once: jobs/s": JOBS / clever,
        "rabbitmq, 2 bare loops that acknowledge each: jobs/s": JOBS / plain,
        "rabbitmq: workers to the faster bare loops, ratio": clever / drained,
    }


def _until_marked(ledger: Path, count: int) -> float:
    """Return the time at which this many marks exist."""
    while not ledger.exists() or ledger.stat().st_size < count:
        time.sleep(0.002)
    return time.perf_counter()


def _bare_loops(app: App, every: int, jobs: int) -> float:
    ledger = app.config.base_dir / "bare"
    ledger.write_bytes(b"")
    arguments = [bare_url(app), "jobs.default", str(ledger), str(every)]
    return race(BARE_DRAIN, arguments, lambda: _until_marked(ledger, jobs - 2 * (every - 1)))


def one_by_one() -> Rows:
    """Measure confirmed enqueues one by one, beside a bare loop of pika's confirmed publish with the same payload."""
    from . import jobs_to_run

    with rabbitmq_application() as app:
        jobs_to_run.mark.enqueue()
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(bare_url(app)))) as connection:
            channel = connection.channel()
            _, properties, body = channel.basic_get("jobs.default", auto_ack=True)
            channel.confirm_delivery()

            def bare() -> None:
                for _ in range(ONE_BY_ONE):
                    channel.basic_publish("", "jobs.default", body, properties, mandatory=True)

            def ours() -> None:
                for _ in range(ONE_BY_ONE):
                    jobs_to_run.mark.enqueue()

            bare()
            rates: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(3):
                rates["bare"].append(ONE_BY_ONE / seconds(bare))
                rates["ours"].append(ONE_BY_ONE / seconds(ours))
        bare_rate, rate = (sorted(values)[1] for values in rates.values())
    return {
        "rabbitmq: enqueue one by one, jobs/s": rate,
        "rabbitmq: bare confirmed publish loop, jobs/s": bare_rate,
        "rabbitmq: enqueue to bare loop, ratio": rate / bare_rate,
    }


def from_enqueue_to_start() -> Rows:
    """Measure the time from enqueue to start with two idle workers."""
    with rabbitmq_application() as app, supervised(app, 2):
        return latency(app, "rabbitmq", 0.01)


SCENARIOS: dict[str, Callable[[], Rows]] = {
    "rabbitmq-drain": drain,
    "rabbitmq-enqueue": one_by_one,
    "rabbitmq-latency": from_enqueue_to_start,
}

GOALS: dict[str, tuple[str, float]] = {
    "rabbitmq: bulk push, jobs/s": ("≥", 10_000),
    "rabbitmq: workers to the faster bare loops, ratio": ("≥", 0.6),
}
