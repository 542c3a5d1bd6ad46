"""Messages delivered ahead: many of short jobs, which return to the queue when jobs turn out to be long."""

from __future__ import annotations

from jobs_core.backends.base import Outcome, Settlement
from jobs_core.ids import new_token
from jobs_rabbitmq.consumer import Consumer

from .helpers import TOPIC, drained, jobs


def done(deliveries):
    return [Settlement(delivery.id, delivery.token, Outcome.DONE) for delivery in deliveries]


def test_jobs_prefetched_as_short_are_released_when_they_turn_out_long(connect):
    here, there = connect("here"), connect("there")
    connect().push(jobs(1000), new_token())
    first = here.reserve([TOPIC], 300, new_token())
    here.settle(done(first), new_token())
    ran_there = drained(there, 1)  # meanwhile much has been delivered to the worker that runs short jobs
    left = 1000 - len(first) - len(ran_there)
    assert left > 200
    here.heartbeat()  # it sees the new message
    long = here.reserve([TOPIC], 2, new_token())
    assert len(long) == 2
    assert len(drained(there, left - 2)) == left - 2


def test_a_worker_that_waits_for_one_job_is_delivered_one(connect):
    for _ in range(5):  # it depends on which messages arrive in one piece
        first, second = connect("first"), connect("second")
        connect().push(jobs(2), new_token())
        assert first.wait([TOPIC], 60.0)
        ran_here = first.reserve([TOPIC], 1, new_token())
        ran_there = drained(second, 1)
        assert [len(ran_here), len(ran_there)] == [1, 1]
        first.settle(done(ran_here), new_token())
        first.close()
        second.close()


def test_a_waiting_worker_gets_the_first_arrivals_at_once_and_the_rest_next_time(connect, monkeypatch):
    """Until the first job starts, no queue is asked twice for messages that may come before it: each request costs a round
    trip."""
    worker, asked = connect("worker"), []
    get = Consumer._get

    def counted(consumer, queue):
        if not queue.endswith(":suspects"):  # for those it checks the clock
            asked.append(queue)
        return get(consumer, queue)

    monkeypatch.setattr(Consumer, "_get", counted)
    assert not worker.reserve_next([TOPIC], 50, new_token(), 0.3)
    asked.clear()
    connect().push(jobs(1), new_token())
    assert len(worker.reserve_next([TOPIC], 50, new_token(), 20.0)) == 1
    assert asked == []
    connect().push(jobs(40), new_token())
    more = []
    while len(more) < 40:
        more += worker.reserve_next([TOPIC], 50, new_token(), 20.0)
    assert len({delivery.id for delivery in more}) == 40
    assert asked
