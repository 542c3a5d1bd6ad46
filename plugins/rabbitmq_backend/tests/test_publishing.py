"""A publish that no queue takes, or that the broker refuses, is an error; deleted queues are declared again."""

from __future__ import annotations

import time

import pika
import pytest

from jobs_core.backends.base import Outcome, Settlement, State
from jobs_core.errors import BackendError, BackendUnavailable, QueueFull
from jobs_core.ids import new_token
from jobs_core.testing.contract_child import persist
from jobs_rabbitmq.topology import STEPS

from .helpers import TOPIC, drained, jobs


@pytest.fixture
def channel(rabbitmq_url):
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        yield connection.channel()


@pytest.fixture
def full(rabbitmq_node, rabbitmq_url, channel):
    """Fill a queue to its limit, beyond which the broker refuses messages."""
    vhost = rabbitmq_url.rpartition("/")[2]
    channel.confirm_delivery()

    def filled(queue):
        pattern, definition = f"^{queue}$".replace(".", "[.]"), '{"max-length": 1, "overflow": "reject-publish"}'
        rabbitmq_node.control("set_policy", "-p", vhost, "--apply-to", "queues", "limit", pattern, definition)
        refused, deadline = 0, time.monotonic() + 60.0
        while refused < 2:  # a queue learns of a policy, and a quorum queue reports that it is full, a moment later
            assert time.monotonic() < deadline, f"{queue} takes all messages"
            try:
                channel.basic_publish("", queue, "{}", pika.BasicProperties(delivery_mode=2))
                refused = 0
            except pika.exceptions.NackError:  # a new queue only reports that its leader is not yet known
                refused += bool(channel.queue_declare(queue, passive=True).method.message_count)

    return filled


# -- returned --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("priority", "queue"), [(0, "jobs.t"), (5, "jobs.t:4-6"), (9, "jobs.t:7-9")])
def test_a_queue_deleted_under_a_producer_is_recreated_with_the_job_in_it(connect, channel, caplog, priority, queue):
    producer = connect()
    producer.push(jobs(), new_token())
    channel.queue_delete(queue)
    lone = jobs(priority=priority)
    assert producer.push(lone, new_token()) == {}
    assert "is missing and is being recreated" in caplog.text
    assert lone[0].id in drained(connect("w"), 1 if priority == 0 else 2)


def test_an_unroutable_push_fails_with_the_fix_and_succeeds_once_it_is_applied(connect, channel):
    producer = connect()
    producer.setup()
    channel.queue_unbind("jobs:delay.02", "jobs:delay.02", "*." * (STEPS - 3) + "1.#")
    late, at_once = jobs(delay=0.1)[0], jobs()[0]
    request = new_token()
    with pytest.raises(BackendError, match=r"no queue takes 1 message: `jobsctl setup`"):
        producer.push([late, at_once], request)
    producer.setup()
    assert producer.push([late, at_once], request) == {}
    assert drained(connect("w"), 2) == [at_once.id, late.id]  # messages confirmed the first time were not published again


@pytest.mark.parametrize("step", ["jobs:delay.02", "jobs:delay.due"])
def test_an_exchange_deleted_under_a_producer_is_reported_and_recreated_by_the_next_push(connect, channel, step):
    producer = connect()
    producer.push(jobs(delay=0.1), new_token())
    channel.exchange_delete(step)
    late = jobs(delay=0.1)
    request = new_token()
    if step != "jobs:delay.due":  # the jobs above the lowest one are pushed first, and wait for it
        with pytest.raises(BackendUnavailable, match="deleted"):
            producer.push(late, request)
    assert producer.push(late, request) == {}


def test_a_producer_without_the_right_to_declare_queues_says_which_process_can(connect, channel, rabbitmq_node, rabbitmq_url):
    vhost = rabbitmq_url.rpartition("/")[2]
    rabbitmq_node.control("add_user", f"plain-{vhost}", "secret")
    allowed = ("^$", r"^(amq\.default|jobs[.:].*)$", r"^jobs[.:].*$")
    rabbitmq_node.control("set_permissions", "-p", vhost, f"plain-{vhost}", *allowed)
    connect().setup()
    producer = connect(url=rabbitmq_url.replace("guest:guest", f"plain-{vhost}:secret"))
    producer.push(jobs(), new_token())
    channel.queue_delete("jobs.t")
    with pytest.raises(BackendError, match="jobsctl setup"):
        producer.push(jobs(), new_token())
    connect().setup()
    assert producer.push(jobs(), new_token()) == {}


# -- refused ---------------------------------------------------------------------------------------


def test_a_full_queue_refuses_by_name_and_the_same_push_goes_through_when_there_is_room(connect, channel, full):
    producer = connect()
    producer.setup()
    full("jobs.t")
    many, request = jobs(50), new_token()
    with pytest.raises(QueueFull, match="refused 50 messages: a queue has reached its max-length"):
        producer.push(many, request)
    channel.queue_purge("jobs.t")
    deadline = time.monotonic() + 60.0
    while not pushed(producer, many, request):  # it reports free space when it has noticed
        assert time.monotonic() < deadline
    assert sorted(drained(connect("w"), 50)) == sorted(one.id for one in many)  # each once, although it was tried in parts


def test_a_queue_without_a_leader_is_not_reported_as_full(connect, rabbitmq_node, rabbitmq_url):
    """A queue has no leader right after its creation, if others publish already, and during a failover of its node."""
    server = f"{{'{rabbitmq_url.rpartition('/')[2]}_jobs.t', node()}}"
    producer, many, request = connect(), jobs(3), new_token()
    producer.setup()
    rabbitmq_node.evaluate(f"ra:stop_server(quorum_queues, {server}).")
    with pytest.raises(BackendUnavailable, match=r"queue jobs\.t has no leader at present"):  # it is retried, see persist
        producer.push(many, request)
    rabbitmq_node.evaluate(f"ra:restart_server(quorum_queues, {server}).")
    persist(producer.push, many, request)
    assert sorted(drained(connect("w"), 3)) == sorted(one.id for one in many)


def pushed(producer, messages, request):
    try:
        return producer.push(messages, request) == {}
    except QueueFull:
        return False


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.RELEASE, Outcome.DEAD])
def test_a_copy_that_is_refused_leaves_the_job_where_it_was(connect, channel, full, outcome):
    queue = {Outcome.RETRY: "jobs.t", Outcome.RELEASE: "jobs.t:7-9", Outcome.DEAD: "jobs.t:dead"}[outcome]
    worker = connect("w")
    worker.push(lone := jobs(), new_token())
    (delivery,) = worker.reserve([TOPIC], 1, new_token())
    full(queue)
    with pytest.raises(QueueFull):
        worker.settle([Settlement(delivery.id, delivery.token, outcome, reason="no")], new_token())
    channel.queue_purge(queue)
    worker.close()
    other = connect("o")
    assert other.wait([TOPIC], 60.0)
    (again,) = other.reserve([TOPIC], 1, new_token())
    assert (again.id, again.attempt) == (lone[0].id, 0)


def test_a_dead_letter_says_since_when_and_no_longer_once_it_has_run_again(connect):
    worker = connect("w")
    worker.push(lone := jobs(), new_token())
    for _ in range(2):
        (delivery,) = worker.reserve([TOPIC], 1, new_token()) or (
            worker.wait([TOPIC], 20.0) and worker.reserve([TOPIC], 1, new_token())
        )
        began = time.time()
        worker.settle([Settlement(delivery.id, delivery.token, Outcome.DEAD, reason="no")], new_token())
        (letter,) = worker.browse(TOPIC, State.DEAD, 10)
        assert letter.id == lone[0].id
        assert began - 0.001 <= letter.since <= time.time() + 0.001
        worker.requeue([letter.id])
