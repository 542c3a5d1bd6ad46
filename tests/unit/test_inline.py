"""The pytest plugin for applications' tests."""

import asyncio
from dataclasses import dataclass

import pytest

from jobs_core import ArgumentError, Discard, Flow, Retry, State, current_job, job
from jobs_core.backends.flows import SLICE


@dataclass
class Customer:
    name: str


done = []


@job(name="inline.greet", store_result=True)
def greet(customer: Customer) -> str:
    done.append(customer)
    return f"hello {customer.name}"


@job(name="inline.agreet", store_result=True)
async def agreet(name: str) -> str:
    await asyncio.sleep(0)
    return f"hello {name}"


@job(name="inline.note")
def note() -> None: ...


@job(name="inline.fail", retries=2, backoff=10)
def fail(text: str):
    raise LookupError(text)


@job(name="inline.ask")
def ask(what: str):
    raise Retry() if what == "retry" else Discard("not wanted")


@job(name="inline.chain")
def chain(n: int):
    done.append(n)
    if n:
        current_job().enqueue(chain, n - 1)


@pytest.fixture(autouse=True)
def _empty():
    done.clear()


def test_inline_jobs_run_at_once_through_the_encoder(jobs_inline):
    handle = greet.enqueue(Customer("Ada"))
    assert done == [Customer("Ada")]
    assert handle.result(0) == "hello Ada"


def test_inline_jobs_raise_their_own_exception(jobs_inline):
    with pytest.raises(LookupError, match="nobody"):
        fail.enqueue("nobody")
    with pytest.raises(ArgumentError):
        greet.enqueue({"nome": "Ada"})


def test_inline_jobs_run_their_follow_ups(jobs_inline):
    chain.enqueue(2)
    assert done == [2, 1, 0]


def test_inline_jobs_run_async_functions_with_and_without_a_loop(jobs_inline):
    assert agreet.enqueue("Ada").result(0) == "hello Ada"

    async def view():
        return (await agreet.aenqueue("Bob")).result(0)

    assert asyncio.run(view()) == "hello Bob"


def test_enqueued_jobs_wait_to_be_looked_at(jobs_queue):
    greet.enqueue(Customer("Ada"))
    fail.using(delay=60).enqueue("x")
    assert done == []
    assert jobs_queue.assert_enqueued(greet, Customer("Ada")).topic == "default"
    assert jobs_queue.assert_enqueued(greet, customer=Customer("Ada"))
    assert jobs_queue.assert_enqueued(fail).delay == 60
    assert len(jobs_queue.enqueued()) == 2
    jobs_queue.refute_enqueued(chain)


def test_a_missing_job_is_reported_with_the_enqueued_ones(jobs_queue, assert_enqueued):
    greet.enqueue(Customer("Ada"))
    with pytest.raises(AssertionError, match=r"is not enqueued with .*Bob.*enqueued are:\n.*Ada"):
        assert_enqueued(greet, Customer("Bob"))
    with pytest.raises(AssertionError, match="is enqueued once"):
        jobs_queue.refute_enqueued(greet)


def test_drain_runs_ready_jobs_and_the_jobs_that_they_enqueue(jobs_queue):
    chain.enqueue(3)
    assert jobs_queue.drain() == 4
    assert jobs_queue.enqueued() == []


def test_drain_does_not_look_at_every_job_before_each(jobs_queue, monkeypatch):
    class OneByOne(dict):
        def values(self):
            raise AssertionError("all jobs were looked at")

        __iter__ = items = keys = values

    for _ in range(3):
        chain.enqueue(1)
    agreet.using(topic="other").enqueue("Ada")
    backend = jobs_queue._backend
    monkeypatch.setattr(backend.store, "jobs", OneByOne(backend.store.jobs))
    assert jobs_queue.drain() == 7
    assert len(backend.store.jobs) == 0


def test_drain_runs_jobs_of_topics_that_had_only_scheduled_or_waiting_ones_before(jobs_queue):
    agreet.using(topic="later", delay=5).enqueue("Ada")
    assert jobs_queue.drain() == 0
    jobs_queue.travel(5)
    assert jobs_queue.drain() == 1


def test_drain_runs_all_that_waits_for_one_member(jobs_queue):
    with Flow() as flow:
        first = flow.add(agreet.call("Ada"))
        for _ in range(4 * SLICE):
            flow.add(note.call(), after=first)
    assert jobs_queue.drain() == 4 * SLICE + 1
    assert flow.handle.status() == "done"


def test_drain_raises_a_jobs_own_exception_after_settling_it(jobs_queue):
    fail.enqueue("nobody")
    with pytest.raises(LookupError, match="nobody"):
        jobs_queue.drain()
    assert jobs_queue.drain() == 0  # its retry is scheduled
    jobs_queue.advance(10)
    with pytest.raises(LookupError):
        jobs_queue.drain()
    jobs_queue.advance(20)
    jobs_queue.drain(raise_errors=False)
    (dead,) = jobs_queue.dead()
    assert (dead.state, dead.reason, dead.attempt) == (State.DEAD, "failed", 3)


def test_a_requested_retry_or_discard_is_not_an_error(jobs_queue):
    ask.enqueue("retry")
    ask.enqueue("discard")
    assert jobs_queue.drain() == 2
    assert [record.reason for record in jobs_queue.dead()] == ["discarded: not wanted"]
    assert len(jobs_queue.enqueued(ask)) == 1


def test_topics_can_be_drained_alone(jobs_queue):
    chain.using(topic="a").enqueue(0)
    chain.using(topic="b").enqueue(0)
    assert jobs_queue.drain(["b"]) == 1
    assert [message.topic for message in jobs_queue.enqueued()] == ["a"]


def test_a_topic_to_drain_is_given_in_a_list(jobs_queue):
    chain.using(topic="mail").enqueue(0)
    with pytest.raises(TypeError, match=r"write drain\(\['mail'\]\)"):
        jobs_queue.drain("mail")


def test_each_test_has_a_queue_of_its_own(jobs_queue):
    assert jobs_queue.enqueued() == []


def test_the_plugin_is_there_without_being_asked_for(pytester):
    pytester.makepyfile(
        """
        from jobs_core import job

        @job(name="t.f")
        def f(): raise KeyError("mine")

        def test_it(jobs_queue):
            f.enqueue()
            try:
                jobs_queue.drain()
            except KeyError:
                return
            assert False
        """
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)
