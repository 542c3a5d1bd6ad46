"""Threads share one connection: jobs enqueued at the same time are one push, and each learns only its own result."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from jobs_core.backends.base import FEATURES, BackendOptions, Outgoing
from jobs_core.backends.sqlite import SqliteBackend
from jobs_core.deadline import left
from jobs_core.errors import BackendUnavailable, QueueFull
from jobs_core.producer import Producer
from jobs_core.turns import SHORTEST_CROWD

from ..support.stopwatch import Stopwatch

PATIENCE = 20.0


class Gated:
    """A backend that holds its first push until it is released, with a script of the outcomes of pushes."""

    def __init__(self, *script: Any, features: frozenset[str] = FEATURES) -> None:
        self.features = features
        self.script: Iterator[Any] = iter(script)
        self.pushes: list[tuple[list[str], str]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.closed = False

    def open(self, owner: str | None) -> None: ...

    def close(self) -> None:
        self.closed = True

    def push(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        self.pushes.append(([message.id for message in messages], request))
        if len(self.pushes) == 1:
            self.entered.set()
            assert self.gate.wait(PATIENCE)
        step = next(self.script, {})
        step = step(messages) if callable(step) else step
        if isinstance(step, BaseException):
            raise step
        return step

    @property
    def sent(self) -> list[list[str]]:
        return [ids for ids, _ in self.pushes]


class Caller(threading.Thread):
    def __init__(self, producer: Producer, *ids: str, timeout: float = PATIENCE, chosen: bool = False) -> None:
        super().__init__(daemon=True)
        self.outcome: Any = None
        messages = [Outgoing(name, "t", b"", chosen=chosen) for name in ids]
        self._call: Callable[[], Any] = lambda: producer.push(messages, timeout)
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._call()
        except BaseException as error:
            self.outcome = error

    def end(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.outcome


def crowd(backend: Gated, count: int = 7, **options: Any) -> tuple[Producer, Caller, list[Caller]]:
    """Start one caller that sends and is held, and others that have queued their messages behind it, in order."""
    producer = Producer(lambda: backend)  # type: ignore[arg-type,return-value]  # all that a producer needs
    first = Caller(producer, "first")
    assert backend.entered.wait(PATIENCE)
    others = []
    for n in range(count):
        others.append(Caller(producer, f"j{n}", **options))
        until(lambda n=n: len(producer._waiting) == n + 1)
    return producer, first, others


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


NAMES = [f"j{n}" for n in range(7)]


def test_jobs_that_arrive_during_a_push_are_sent_as_one_push():
    backend = Gated()
    _, first, others = crowd(backend)
    backend.gate.set()
    assert [caller.end() for caller in (first, *others)] == [{}] * 8
    assert backend.sent == [["first"], NAMES]


def test_every_thread_is_told_its_own_conflicts():
    backend = Gated({}, {"j3": "holder"})
    _, _, others = crowd(backend)
    backend.gate.set()
    assert others[3].end() == {"j3": "holder"}
    assert "j2" not in others[2].end()


def test_a_refusal_is_raised_only_in_its_own_caller():
    def full(messages: Sequence[Outgoing]) -> Any:
        return QueueFull("no room for j3") if any(message.id == "j3" for message in messages) else {}

    backend = Gated(*[full] * 20)
    _, first, others = crowd(backend)
    backend.gate.set()
    assert first.end() == {}
    assert [type(caller.end()) for caller in others] == [QueueFull if n == 3 else dict for n in range(7)]
    assert backend.sent == [["first"], NAMES, *[[name] for name in NAMES]]
    assert len({request for _, request in backend.pushes}) == 9  # a remembered answer belongs to one caller


def test_without_dedup_a_refused_push_is_split_under_its_own_request():
    """Such a backend may recognise a repeated request, so messages that it already has are not sent twice."""
    backend = Gated({}, QueueFull("one of them"), features=FEATURES - {"dedup"})
    _, _, others = crowd(backend)
    backend.gate.set()
    assert [caller.end() for caller in others] == [{}] * 7
    assert len({request for _, request in backend.pushes[1:]}) == 1


def test_an_outage_is_outlasted_under_the_same_request():
    backend = Gated({}, BackendUnavailable("gone"), BackendUnavailable("gone"))
    _, _, others = crowd(backend)
    backend.gate.set()
    assert [caller.end() for caller in others] == [{}] * 7
    assert backend.sent[1:] == [NAMES] * 3
    assert len({request for _, request in backend.pushes[1:]}) == 1


def test_after_an_outage_a_refused_push_is_split_too():
    backend = Gated({}, BackendUnavailable("gone"), QueueFull("full"), QueueFull("j0"))
    _, _, others = crowd(backend)
    backend.gate.set()
    assert [type(caller.end()) for caller in others] == [QueueFull, *[dict] * 6]


def test_a_thread_that_waits_too_long_gives_up_and_its_jobs_are_not_sent():
    backend = Gated()
    _, first, others = crowd(backend, 1, timeout=0.05)
    error = others[0].end()
    assert isinstance(error, BackendUnavailable)
    assert "the job was not enqueued: another thread's push is still waiting" in str(error)
    backend.gate.set()
    assert first.end() == {}
    assert backend.sent == [["first"]]


def test_a_thread_that_gives_up_while_its_jobs_are_sent_keeps_no_other_from_waking():
    """Callers wake one another in a chain, from which this one is missing."""
    sending, answer = threading.Event(), threading.Event()

    def held(messages: Sequence[Outgoing]) -> Any:
        sending.set()
        assert answer.wait(PATIENCE)
        return {}

    backend = Gated({}, held)
    producer = Producer(lambda: backend)  # type: ignore[arg-type,return-value]
    callers = [Caller(producer, "first")]
    assert backend.entered.wait(PATIENCE)
    for n in range(5):
        callers.append(Caller(producer, f"j{n}"))
        until(lambda n=n: len(producer._waiting) == n + 1)
    batches = list(producer._waiting)
    backend.gate.set()
    assert sending.wait(PATIENCE)
    for n in (1, 2, 4):
        batches[n].bell.release()  # as if their time were over
    assert all(isinstance(callers[1 + n].end(), BackendUnavailable) for n in (1, 2, 4))
    after = Caller(producer, "after")
    until(lambda: len(producer._waiting) == 1)
    answer.set()
    assert [callers[n].end() for n in (0, 1, 4)] == [{}] * 3
    assert after.end() == {}
    assert backend.sent == [["first"], NAMES[:5], ["after"]]


@pytest.mark.parametrize("crowded", [0.0, float("inf")])
def test_all_wake_in_a_chain_or_where_the_interpreter_is_crowded_at_once(crowded):
    backend = Gated()
    producer, first, others = crowd(backend)
    producer._crowded = crowded
    backend.gate.set()
    assert [caller.end() for caller in (first, *others)] == [{}] * 8
    assert producer.push([Outgoing("next", "t", b"")], 1.0) == {}
    assert backend.sent == [["first"], NAMES, ["next"]]


def test_a_thread_that_wakes_late_starts_no_chain_for_a_while():
    backend = Gated()
    producer, _, others = crowd(backend, 2)
    now = time.monotonic()
    batch = producer._waiting[0]
    batch.links, producer._woken_at = True, now - 1.0
    producer._look_for_crowd(batch)
    assert producer._crowded > now
    assert producer._crowd > SHORTEST_CROWD
    batch.links = False
    backend.gate.set()
    assert [caller.end() for caller in others] == [{}] * 2


def test_an_outage_ends_for_each_at_its_own_time():
    backend = Gated(*[BackendUnavailable("gone")] * 1000)
    producer, first, others = crowd(backend, 3, timeout=0.3)
    backend.gate.set()
    assert all(isinstance(caller.end(), BackendUnavailable) for caller in others)
    assert first.is_alive()  # it has a test's patience, and continues
    backend.script = iter(())
    assert first.end() == {}
    assert producer.push([Outgoing("next", "t", b"")], 1.0) == {}


def test_a_leader_out_of_time_passes_the_others_on_under_the_same_request():
    """However long they wait, the push that they were sent with is repeated, and nothing else with it."""
    backend = Gated({}, *[BackendUnavailable("gone")] * 1000)
    producer = Producer(lambda: backend)  # type: ignore[arg-type,return-value]
    first = Caller(producer, "first")
    assert backend.entered.wait(PATIENCE)
    hasty = Caller(producer, "hasty", timeout=2.0)  # in which the gate opens on a busy machine, too
    until(lambda: len(producer._waiting) == 1)
    patient = [Caller(producer, name) for name in ("p0", "p1")]
    until(lambda: len(producer._waiting) == 3)
    backend.gate.set()
    assert first.end() == {}
    assert "may or may not have been enqueued" in str(hasty.end())
    late = Caller(producer, "late")
    until(lambda: len(producer._waiting) > 0)
    backend.script = iter(())
    assert [caller.end() for caller in (*patient, late)] == [{}] * 3
    requests = {request for ids, request in backend.pushes if "p0" in ids}
    assert len(requests) == 1
    assert backend.sent[-2:] == [["p0", "p1"], ["late"]]


def test_a_caller_behind_another_thread_ends_at_its_own_timeout_in_an_outage_and_not_earlier_otherwise():
    producer = Producer(lambda: Gated())  # type: ignore[arg-type,return-value]
    long_ago = time.monotonic() - 10
    assert producer.in_turn(lambda: left(7.0), long_ago, 5.0) == 7.0
    producer.away = True
    with pytest.raises(BackendUnavailable, match="was not enqueued"):
        producer.in_turn(lambda: left(7.0), long_ago, 5.0)
    assert 0 < producer.in_turn(lambda: left(7.0), time.monotonic() - 4, 5.0) <= 1.0
    assert left(7.0) == 7.0


def test_a_locked_sqlite_file_is_given_up_in_time(tmp_path):
    backend = SqliteBackend(f"sqlite:///{tmp_path}/jobs.db", BackendOptions())
    producer = Producer(lambda: backend)
    producer.push([Outgoing("one", "t", b"")], PATIENCE)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        watch = Stopwatch()
        with pytest.raises(BackendUnavailable, match="locked"):
            producer.push([Outgoing("two", "t", b"")], 0.3)
        assert watch.stop() < 1.8  # SQLite's own wait would end after 2 s
    producer.close()


class Interrupted(BaseException):
    """An exception that a signal raises anywhere, like that of a job's timeout."""


def test_a_leader_that_is_interrupted_still_settles_the_jobs_of_the_others():
    backend = Gated({}, Interrupted())
    producer, _, others = crowd(backend)
    backend.gate.set()
    assert isinstance(others[0].end(), Interrupted)
    assert [caller.end() for caller in others[1:]] == [{}] * 6
    assert backend.sent[1:] == [NAMES, NAMES[1:]]
    assert backend.pushes[1][1] == backend.pushes[2][1]  # the same request: jobs that have arrived are not added again
    assert producer.push([Outgoing("next", "t", b"")], 1.0) == {}


def test_an_interrupted_thread_without_followers_blocks_no_later_push():
    backend = Gated(Interrupted())
    producer = Producer(lambda: backend)  # type: ignore[arg-type,return-value]
    caller = Caller(producer, "one")
    backend.gate.set()
    assert isinstance(caller.end(), Interrupted)
    assert producer.push([Outgoing("two", "t", b"")], 1.0) == {}


def test_one_callers_messages_are_never_split_and_many_are_not_all_combined(monkeypatch):
    monkeypatch.setattr("jobs_core.turns.MOST_COMBINED", 3)
    backend = Gated()
    producer, _, _ = crowd(backend, 2)
    big = Caller(producer, "b1", "b2", "b3", "b4")
    until(lambda: len(producer._waiting) == 3)
    last = Caller(producer, "last")
    until(lambda: len(producer._waiting) == 4)
    backend.gate.set()
    assert big.end() == last.end() == {}
    assert backend.sent == [["first"], ["j0", "j1"], ["b1", "b2", "b3", "b4"], ["last"]]


def test_closing_waits_for_its_turn_and_the_next_push_opens_again():
    backend = Gated()
    producer, _, others = crowd(backend, 2)
    closing = threading.Thread(target=producer.close, daemon=True)
    closing.start()
    until(lambda: len(producer._waiting) == 3)
    after = Caller(producer, "after")
    until(lambda: len(producer._waiting) == 4)
    backend.gate.set()
    closing.join(PATIENCE)
    assert backend.closed
    assert [caller.end() for caller in (*others, after)] == [{}] * 3
    assert backend.sent == [["first"], ["j0", "j1"], ["after"]]


def test_eight_threads_of_an_application_lose_and_duplicate_nothing(tmp_path):
    from jobs_core import App, job
    from jobs_core.backends.base import State
    from jobs_core.config import Config
    from jobs_core.registry import Registry

    app = App(Config(backend=f"sqlite:///{tmp_path}/q.db", run_dir=str(tmp_path)), registry=Registry())

    @job(name="count", unique="{n}", registry=app.registry)
    def count(n: int) -> None: ...

    handles: list[list[Any]] = [[] for _ in range(8)]

    def enqueue(mine: list[Any]) -> None:
        for n in range(50):
            mine.append(app.enqueue(count.call(n)))

    threads = [threading.Thread(target=enqueue, args=(mine,)) for mine in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    made = [handle for mine in handles for handle in mine if handle.created]
    assert len(made) == 50  # one of eight each time; the others hold its handle
    for n in range(50):
        assert len({mine[n].id for mine in handles}) == 1
    found = app.operate(lambda backend: backend.browse("default", State.READY, 1000))
    assert {record.id for record in found} == {handle.id for handle in made}
    app.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_a_thread_sends_has_a_way_of_its_own(tmp_path):
    from jobs_core import App, job
    from jobs_core.config import Config
    from jobs_core.registry import Registry

    app = App(Config(backend="memory://", run_dir=str(tmp_path)), registry=Registry())

    @job(name="count", registry=app.registry)
    def count(n: int) -> None: ...

    backend = Gated()
    app._producer._make_backend = lambda: backend  # type: ignore[assignment,return-value]
    sender = threading.Thread(target=lambda: app.enqueue(count.call(1)), daemon=True)
    sender.start()
    assert backend.entered.wait(PATIENCE)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if app.enqueue(count.call(2)).created else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backend.gate.set()
    sender.join(PATIENCE)
    assert len(backend.pushes) == 1
    app.close()


def test_ids_sort_by_time_and_a_child_makes_others():
    from jobs_core.ids import new_id

    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert sorted(ids, key=lambda text: text[:13]) == ids
    assert all(len(text) == 36 and text[14] == "7" and text[19] in "89ab" for text in ids)
    same = [new_id(1.5) for _ in range(1000)]
    assert len(set(same)) == 1000
    assert sum(later < earlier for earlier, later in itertools.pairwise(same)) <= 4  # they are counted, 256 at a time
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.write(into, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(out, 36).decode()[14:] != new_id()[14:]
    os.close(out)
    os.close(into)


def test_jobs_with_the_same_id_are_sent_apart_and_each_gets_its_own_answer():
    """In one push the backend could not tell which caller's job it is."""
    backend = Gated({}, {}, {}, {"chosen": "chosen"})
    producer, _, _ = crowd(backend, count=0)
    others = []
    for name, chosen in (("free", False), ("chosen", True), ("chosen", True)):
        others.append(Caller(producer, name, chosen=chosen))
        until(lambda n=len(others): len(producer._waiting) == n)
    backend.gate.set()
    assert [caller.end() for caller in others] == [{}, {}, {"chosen": "chosen"}]
    assert backend.sent == [["first"], ["free"], ["chosen"], ["chosen"]]
    assert len({request for _, request in backend.pushes}) == 4  # a repeated request would add nothing
