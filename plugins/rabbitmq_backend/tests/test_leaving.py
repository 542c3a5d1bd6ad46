"""A graceful end leaves no trace in the broker: no returned message is marked as redelivered."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter

import pika
import pytest

from jobs_core.backends.base import Outcome, Settlement
from jobs_core.ids import new_token
from jobs_rabbitmq.consumer import Consumer

from .helpers import TOPIC, jobs

KINDS = ["quorum", "classic"]
PATIENCE = 60.0
"""Seconds that a broker on a busy machine may take."""

STANDSTILL = 1.5
"""Seconds for which a broker stands still: longer than RabbitMQ waits for the length of a queue, shorter than a command may
take."""


def run(worker, count, outcome=Outcome.DONE, batch=1000):
    """Reserve some jobs and settle them in a given order, a few at a time."""
    deliveries = []
    while len(deliveries) < count:
        found = worker.reserve([TOPIC], count - len(deliveries), new_token())
        assert found or worker.wait([TOPIC], PATIENCE), f"{len(deliveries)} of {count} came"
        deliveries += found
    random.Random(count).shuffle(deliveries)
    for at in range(0, len(deliveries), batch):
        worker.settle([Settlement(d.id, d.token, outcome) for d in deliveries[at : at + batch]], new_token())
    return [delivery.id for delivery in deliveries]


def left(url):
    """Return the messages in the queues as a bare client sees them: ids, and whether each was delivered before."""
    with pika.BlockingConnection(pika.URLParameters(url.partition("?")[0])) as connection:
        channel = connection.channel()
        for queue in ("jobs.t:7-9", "jobs.t:4-6", "jobs.t:1-3", "jobs.t", "jobs.t:suspects"):
            while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
                yield found[1].message_id, found[0].redelivered


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("outcome", "batch"),
    [(Outcome.DONE, 1), (Outcome.DONE, 1000), (Outcome.RELEASE, 1000)],
    ids=["run one by one", "run", "released"],
)
def test_messages_left_after_all_workers_have_gone_count_as_undelivered(connect, rabbitmq_url, kind, outcome, batch):
    url = f"{rabbitmq_url}?queues={kind}"
    pushed = jobs(900)
    connect(url=url).push(pushed, new_token())
    ran: list[str] = []
    for number in range(2):
        worker = connect(f"w{number}", url=url)
        ran += run(worker, 200)
        last = run(worker, 200, outcome, batch)
        ran += last if outcome is Outcome.DONE else []
        worker.close()
    rest = dict(left(url))
    assert Counter([*ran, *rest]) == Counter(message.id for message in pushed)
    assert not any(rest.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_knows_its_last_job_has_nothing_to_release(connect, rabbitmq_url, kind):
    url = f"{rabbitmq_url}?queues={kind}"
    pushed = jobs(1000)
    connect(url=url).push(pushed, new_token())
    worker = connect("w", url=url)
    worker.expect(300)
    ran = [job_id for _ in range(3) for job_id in run(worker, 100)]
    worker.close()
    assert len(set(ran)) == len(ran) == 300
    rest = list(left(url))
    # Their order may change: messages that a new queue refuses are published again, behind the others.
    assert Counter([*ran, *dict(rest)]) == Counter(message.id for message in pushed)
    assert len(rest) == 700
    assert not any(again for _, again in rest)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_leaves_no_trace_in_a_broker_that_stands_still(connect, rabbitmq_node, rabbitmq_url, kind):
    url = f"{rabbitmq_url}?queues={kind}"
    connect(url=url).push(jobs(1000), new_token())
    worker = connect("w", url=url)
    found = worker.reserve([TOPIC], 100, new_token())
    continues = threading.Timer(STANDSTILL, rabbitmq_node.signal, [signal.SIGCONT])
    rabbitmq_node.signal(signal.SIGSTOP)
    continues.start()
    try:
        worker.settle([Settlement(d.id, d.token, Outcome.DONE) for d in found], new_token())
        worker.close()
    finally:
        continues.join()
    rest = list(left(url))
    assert len(rest) == 1000 - len(found)
    assert not any(again for _, again in rest)


def test_a_worker_leaves_no_trace_in_a_queue_that_does_not_tell_its_length(connect, rabbitmq_node, rabbitmq_url):
    vhost = rabbitmq_url.rpartition("/")[2]
    suspend = f"erlang:suspend_process(whereis('{vhost}_jobs.{TOPIC}')), timer:sleep({round(STANDSTILL * 1000)}), ok."
    connect().push(jobs(1000), new_token())
    worker = connect("w", url=f"{rabbitmq_url}?heartbeat=300")  # it answers none until RabbitMQ's slow command suspends
    found = worker.reserve([TOPIC], 100, new_token())
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        suspended = threading.Thread(target=rabbitmq_node.evaluate, args=[suspend])
        suspended.start()
        while channel.queue_declare(f"jobs.{TOPIC}", passive=True).method.message_count:
            assert suspended.is_alive(), "RabbitMQ told the length of a suspended queue"
        worker.settle([Settlement(d.id, d.token, Outcome.DONE) for d in found], new_token())
        worker.close()
        suspended.join()
    rest = list(left(rabbitmq_url))
    assert len(rest) == 1000 - len(found)
    assert not any(again for _, again in rest)


def test_no_acknowledgement_overtakes_the_end_of_a_subscription(connect, rabbitmq_node, rabbitmq_url, monkeypatch):
    cancel = Consumer._cancel
    standstills: list[threading.Timer] = []

    def cancel_in_a_standstill(self, tags):
        if tags := list(tags):
            rabbitmq_node.signal(signal.SIGSTOP)
            standstills.append(threading.Timer(STANDSTILL / 3, rabbitmq_node.signal, [signal.SIGCONT]))
            standstills[-1].start()
        cancel(self, tags)

    monkeypatch.setattr(Consumer, "_cancel", cancel_in_a_standstill)
    connect().push(jobs(1000), new_token())
    worker = connect("w")
    consumer = worker._taking()
    unconfirmed: list[set[str]] = []
    send = consumer._channel.acknowledge

    def watched(tags, up_to=0):
        unconfirmed.append(set(consumer._cancelled))
        send(tags, up_to=up_to)

    monkeypatch.setattr(consumer._channel, "acknowledge", watched)
    worker.expect(300)
    for _ in range(3):
        run(worker, 100)
    worker.close()
    assert standstills
    for standstill in standstills:
        standstill.join()
    assert not any(unconfirmed)
    rest = list(left(rabbitmq_url))
    assert len(rest) == 700
    assert not any(again for _, again in rest)
