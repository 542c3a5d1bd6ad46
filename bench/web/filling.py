"""Filling a store: ready jobs in four topics, and some of everything else that a page shows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from jobs_core import App, Flow, group, limiting
from jobs_core.backends.base import Backend, Delivery, Outcome, Settlement
from jobs_core.backends.letters import fingerprint
from jobs_core.backends.statistics import DAY, MINUTE, StatisticsRow
from jobs_core.ids import new_token
from jobs_core.scoreboard.layout import BUCKETS
from jobs_core.statistics import SUMS

from . import shop

TOPICS = ("mail", "pdf", "reports", "import")
BATCH, AT_ONCE = 2000, 500
DEAD, DONE, DELAYED, LIMITED, FLOWS = 10_000, 10_000, 10_000, 2_000, 1_000
CAUSES = (
    *(("ConnectionRefusedError", "the mail server does not answer"),) * 6,
    *(("ValueError", "there is no such customer"),) * 3,
    ("TimeoutError", "the printer took too long"),
)  # types and messages of errors
KEPT, ROUNDS = 86_400.0, 20
FAR = "7d"


def fill(app: App, ready: int) -> float:
    """Fill the store of the current application; return the seconds."""
    began = time.monotonic()
    app.operate(lambda backend: _define(app, backend))
    _end(app, "mail", DEAD, _dead)
    _end(app, "pdf", DONE, _done)
    for topic in TOPICS:
        _enqueue(shop.ship.using(topic=topic), ready // len(TOPICS))
    _enqueue(shop.ship.using(topic="mail", delay=FAR), DELAYED)
    shop.charge.using(topic="payments").enqueue_many([(f"acct_{number % 500}", 100) for number in range(LIMITED)])
    app.operate(_count_a_day)
    step = shop.ship.using(topic="flows")
    for number in range(FLOWS):
        with Flow(f"order {number}") as flow:
            parts = flow.add(group(step.call(number, "a") for _ in range(3)))
            flow.add(step.call(number, "b"), after=parts)
    app.operate(_keep_house)
    return time.monotonic() - began


def _define(app: App, backend: Backend) -> None:
    backend.setup()
    limiting.define(backend, app.config)


def _count_a_day(backend: Backend) -> None:
    """Add the statistics of a day: a row for each minute and topic."""
    if "statistics" not in backend.features:
        return
    end = int(time.time()) // 60 * 60
    sums = (1, *[7] * (len(SUMS) - 1), *[5] * 2 * (len(BUCKETS) + 1))
    for at in range(end - DAY, end, MINUTE):
        backend.add_statistics([StatisticsRow(at, topic, sums=sums) for topic in ("", *TOPICS)], new_token())


def _keep_house(backend: Backend) -> None:
    """Do what a supervisor would have done meanwhile, once every few seconds."""
    for _ in range(ROUNDS):
        backend.housekeep(1000)


def _enqueue(job: Any, count: int) -> None:
    for calls in _batches(count):
        job.enqueue_many(calls)


def _batches(count: int) -> Iterator[list[tuple[int, str, str]]]:
    numbers = iter(range(count))
    while batch := list(itertools.islice(numbers, BATCH)):
        yield [(number, f"acct_{number % 5000}", "leave it at the door") for number in batch]


def _end(app: App, topic: str, count: int, ended: Callable[[Delivery, int], Settlement]) -> None:
    """Enqueue jobs, and end them as a worker would."""
    _enqueue(shop.ship.using(topic=topic), count)
    backend = app.new_backend()
    backend.open(new_token())
    numbers = itertools.count()
    while deliveries := backend.reserve([topic], AT_ONCE, new_token()):
        backend.settle([ended(delivery, next(numbers)) for delivery in deliveries], new_token())
    backend.close()


def _dead(delivery: Delivery, number: int) -> Settlement:
    kind, message = CAUSES[number % len(CAUSES)]
    error = msgspec.json.encode({"type": kind, "message": message, "at": time.time(), "attempt": 1})
    reason = "failed 1 time"
    return Settlement(
        delivery.id, delivery.token, Outcome.DEAD, reason=reason, error=error, fingerprint=fingerprint(reason, error)
    )


def _done(delivery: Delivery, number: int) -> Settlement:
    now = time.time()
    run = {"attempt": 1, "began": now - 0.1, "ended": now, "outcome": "done", "host": "bench", "pid": 1}
    return Settlement(delivery.id, delivery.token, Outcome.DONE, result_ttl=KEPT, timeline=msgspec.json.encode(run))
