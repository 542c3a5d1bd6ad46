"""Limits on one Redis server: compared with a naive reference, and beside what a fault leaves."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.lines import LIMITS, many_steps
from tests.unit.test_memory_lines import Reference, replay

from jobs_core.backends.base import Answer, BackendOptions, Delivery, Outcome, Outgoing, Settlement, State
from jobs_core.backends.limits import Limit, tat_under
from jobs_core.errors import BackendError, OwnerLost
from jobs_core.ids import new_id, new_token
from jobs_redis import scripts
from jobs_redis.backend import RedisBackend
from jobs_redis.transport.connection import ServerConnection, connector
from jobs_redis.url import parse

pytestmark = pytest.mark.timeout(120)

T = "t"
START = 1_800_000_000.0


class _Clock:
    """A time that moves by a millisecond with every call, so that no two jobs become ready at the same one."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        self.time = round(self.time + 0.001, 6)
        return self.time


class _Stores:
    def __init__(self, url: str, clock: _Clock | None) -> None:
        self.url = url
        self._clock = clock
        self.opened: list[RedisBackend] = []

    @property
    def clock(self) -> _Clock:
        assert self._clock is not None
        return self._clock

    def open(self, owner: str | None = "", **options: Any) -> RedisBackend:
        backend = RedisBackend(parse(self.url), BackendOptions(clock=self._clock, lease=30.0, dedup_window=1e6, **options))
        self.opened.append(backend)
        backend.open(new_token() if owner == "" else owner)
        return backend

    def call(self, *command: Any) -> Any:
        target = parse(self.url)
        connection = ServerConnection(connector(target), target.shown)
        try:
            return connection.call(*command)
        finally:
            connection.disconnect()

    def keys(self) -> set[str]:
        """Return the kinds of keys of this store."""
        prefix = f"{{{parse(self.url).prefix}}}:"
        found = self.call("KEYS", f"{prefix}*")
        return {key.decode().removeprefix(prefix).partition(":")[0] for key in found}


@pytest.fixture
def rig(redis_url: str) -> Iterator[_Stores]:
    made = _Stores(redis_url, _Clock())
    yield made
    for backend in made.opened:
        backend.close()


def _job(*limits: str, **facts: Any) -> Outgoing:
    return Outgoing(facts.pop("id", None) or new_id(), facts.pop("topic", T), b"{}", limits=tuple(sorted(limits)), **facts)


def _used(backend: RedisBackend) -> dict[str, int]:
    return {state.limit: state.used for state in backend.limits(1000) if state.used}


LINES_KEYS = {"line", "lines", "open", "shut", "filed", "opening", "opens", "lined", "limited"}
LINES_KEYS |= {"limit-waiting", "limit-topics", "limit-used"}


class _Reference:
    """What limits mean, in the simplest form: a list of jobs that is searched."""

    def __init__(self) -> None:
        self.rules: dict[str, Limit] = {}
        self.ready: dict[str, tuple[tuple[int, float], tuple[str, ...]]] = {}
        self.tat: dict[str, float] = {}
        self.closed: dict[str, float] = {}
        self.held: dict[str, tuple[tuple[int, float], tuple[str, ...], tuple[str, ...]]] = {}

    def of(self, limit: str) -> Limit | None:
        return self.rules.get(limit.partition(":")[0])

    def room(self, limit: str, now: float) -> bool:
        rule = self.of(limit)
        if self.closed.get(limit, 0) > now:
            return False
        used = sum(limit in limits for _, limits, _ in self.held.values())
        if rule and rule.concurrency is not None and used >= rule.concurrency:
            return False
        return not (
            rule
            and rule.interval is not None
            and tat_under(rule, self.tat.get(limit, 0), now) - now > (rule.burst - 1) * rule.interval + 1e-4
        )

    def reserve(self, most: int, startable: int | None, now: float) -> list[str]:
        found: list[str] = []
        left = startable
        for job_id, (place, limits) in sorted(self.ready.items(), key=lambda item: item[1][0]):
            if len(found) == most:
                break
            slots = any(rule.concurrency is not None for limit in limits if (rule := self.of(limit)))
            if not all(self.room(limit, now) for limit in limits) or (slots and left == 0):
                continue
            if slots and left is not None:
                left -= 1
            rated = tuple(one for one in limits if (rule := self.of(one)) and rule.interval is not None)
            for limit in rated:
                interval = self.rules[limit.partition(":")[0]].interval
                assert interval is not None
                self.tat[limit] = max(self.tat.get(limit, 0), now) + interval
            del self.ready[job_id]
            self.held[job_id] = place, limits, rated
            found.append(job_id)
        return found

    def free(self, job_id: str, *, unstarted: bool) -> tuple[tuple[int, float], tuple[str, ...]]:
        place, limits, rated = self.held.pop(job_id)
        for limit in rated if unstarted else ():
            interval = self.rules[limit.partition(":")[0]].interval
            assert interval is not None
            self.tat[limit] -= interval
        return place, limits


def test_a_reset_of_a_name_ends_its_closures_though_they_take_several_steps_and_others_lie_between(rig):
    backend = rig.open()
    backend.push([_job()], new_token())
    (held,) = backend.reserve([T], 1, new_token())
    closures = [(f"{'ab'[n % 2]}:{n}", 60.0 + n // 700) for n in range(2100)]  # many end at the same microsecond
    backend.settle([Settlement(held.id, held.token, Outcome.DEFER, close_limits=tuple(closures))], new_token())
    backend.override_limit("a", None)
    assert {state.limit for state in backend.limits(10_000) if state.closed_for} == {f"b:{n}" for n in range(1, 2100, 2)}


POOL = ("full", "full:a", "full:b", "rate", "rate:a", "free", "both:x")


@pytest.mark.parametrize("seed", range(12))
def test_every_reserve_takes_the_jobs_that_the_naive_choice_takes(rig, seed):
    rng = random.Random(seed)
    model, backend, other = _Reference(), rig.open(), rig.open()
    model.rules = {"full": Limit(2), "rate": Limit(None, 3.0, 2), "both": Limit(1, 0.5, 1)}
    backend.define_limits(model.rules, {})
    tokens: dict[str, Any] = {}
    for step in range(120):
        action = rng.choices(
            ["push", "reserve", "settle", "time", "close", "rule", "cancel", "leave", "purge"],
            [30, 30, 25, 8, 3, 4, 4, 2, 0.3],
        )[0]
        held = sorted(model.held)
        if action == "push":
            jobs = [
                _job(*rng.sample(POOL, rng.choice([0, 1, 1, 1, 2, 3])), priority=rng.choice([0, 0, 1]))
                for _ in range(rng.randint(1, 4))
            ]
            backend.push(jobs, new_token())
            now = rig.clock.time
            for n, job in enumerate(jobs):
                model.ready[job.id] = (-job.priority, now + n * 1e-6), job.limits
        elif action == "reserve":
            most, backend.startable = rng.randint(1, 6), rng.choice([None, None, 0, 1, 3])
            got = backend.reserve([T], most, new_token())
            expected = model.reserve(most, backend.startable, rig.clock.time)
            assert [one.id for one in got] == expected, (seed, step)
            for one in got:
                tokens[one.id] = one.token
                assert one.limits == model.held[one.id][1]
        elif action == "settle" and held:
            batch = []
            for job_id in rng.sample(held, min(len(held), rng.randint(1, 3))):
                outcome, ran = (
                    rng.choice([Outcome.DONE, Outcome.DONE, Outcome.RETRY, Outcome.RELEASE, Outcome.DEAD]),
                    rng.random() < 0.7,
                )
                limits = tuple(sorted(rng.sample(POOL, 2))) if outcome is Outcome.RELEASE and rng.random() < 0.3 else None
                batch.append(Settlement(job_id, tokens[job_id], outcome, ran=ran, limits=limits))
            for one in batch:  # one request each: jobs that become ready at the same moment have no order
                assert backend.settle([one], new_token()) == [Answer.SETTLED]
                place, limits = model.free(one.id, unstarted=not one.ran)
                if one.outcome is Outcome.RETRY:
                    model.ready[one.id] = (place[0], rig.clock.time), limits
                elif one.outcome is Outcome.RELEASE:
                    model.ready[one.id] = place, limits if one.limits is None else one.limits
        elif action == "time":
            rig.clock.time += rng.choice([0.1, 1.0, 5.0])
            backend.heartbeat()
        elif action == "close" and held:
            job_id, limit, seconds = held[0], rng.choice(POOL), rng.choice([0.5, 4.0])
            closing = Settlement(job_id, tokens[job_id], Outcome.DONE, close_limits=((limit, seconds),))
            backend.settle([closing], new_token())
            model.free(job_id, unstarted=False)
            model.closed[limit] = max(model.closed.get(limit, 0), rig.clock.time + seconds)
        elif action == "rule":
            model.rules = model.rules | {"full": Limit(rng.choice([0, 1, 2, 4, None]))}
            if rng.random() < 0.5:
                backend.override_limit("full", model.rules["full"])
            else:
                backend.override_limit("full", None)
                model.closed = {limit: until for limit, until in model.closed.items() if limit.partition(":")[0] != "full"}
                backend.define_limits(model.rules, {})
        elif action == "cancel" and model.ready:
            job_id = rng.choice(sorted(model.ready))
            assert backend.cancel(job_id) is State.CANCELLED
            del model.ready[job_id]
        elif action == "leave":
            going = rig.open()
            got = going.reserve([T], 3, new_token())
            assert [one.id for one in got] == model.reserve(3, None, rig.clock.time)
            started = {one.id for one in got if rng.random() < 0.5}
            other.release_owner(going._owner, started, b"{}")
            for one in got:
                place, limits = model.free(one.id, unstarted=one.id not in started)
                model.ready[one.id] = place, limits
        elif action == "purge":
            assert backend.purge(T, State.READY) + backend.purge(T, State.LIMITED) == len(model.ready)
            model.ready.clear()
        counts = backend.counts([T])[T]
        assert (counts.ready + counts.limited, counts.reserved) == (len(model.ready), len(model.held)), (seed, step)
        listed = [record for state in (State.READY, State.LIMITED) for record in backend.browse(T, state, 1000)]
        assert sorted(record.id for record in listed) == sorted(model.ready)
        assert _used(backend) == Counter(limit for _, limits, _ in model.held.values() for limit in limits)
    backend.settle([Settlement(job_id, tokens[job_id], Outcome.DONE) for job_id in model.held], new_token())
    assert backend.purge(T, State.READY) + backend.purge(T, State.LIMITED) == len(model.ready)
    assert not rig.keys() & LINES_KEYS, "empty lines leave nothing behind"


@pytest.mark.parametrize("seed", range(15))
def test_every_reserve_takes_the_jobs_that_the_rules_of_limits_and_fairness_name(redis_url, seed):
    model = Reference(START)
    backend = RedisBackend(parse(redis_url), BackendOptions(clock=lambda: model.now, lease=1e6))
    try:
        replay(many_steps(seed), model, backend, tick=0.001)
        used = Counter(limit for job in model.held for limit in job["slots"])
        assert {state.limit: state.used for state in backend.limits(1000, (*LIMITS, "key/t")) if state.used} == used
    finally:
        backend.close()


def test_a_repeated_request_takes_and_frees_no_second_slot_or_token(rig):
    worker = rig.open()
    worker.define_limits({"a": Limit(5, 1.0, 3)}, {})
    worker.push([_job("a") for _ in range(4)], new_token())
    first = worker.reserve([T], 2, "reserve")
    again = worker.reserve([T], 2, "reserve")
    assert [(one.id, one.token, one.limits) for one in again] == [(one.id, one.token, one.limits) for one in first]
    assert _used(worker) == {"a": 2}
    settled = [Settlement(one.id, one.token, Outcome.RETRY, after=60.0, ran=False) for one in first[:1]]
    assert worker.settle(settled, "settle") == [Answer.SETTLED]
    assert worker.settle(settled, "settle") == [Answer.ALREADY]
    assert worker.settle(settled, "another") == [Answer.STALE]
    assert _used(worker) == {"a": 1}
    assert len(worker.reserve([T], 10, "more")) == 2, "three tokens, of which one was given back"


ENDS = {
    "done": lambda rig, backend, one: backend.settle([Settlement(one.id, one.token, Outcome.DONE)], new_token()),
    "result": lambda rig, backend, one: backend.settle(
        [Settlement(one.id, one.token, Outcome.DONE, result=b"1", result_ttl=60.0)], new_token()
    ),
    "dead": lambda rig, backend, one: backend.settle([Settlement(one.id, one.token, Outcome.DEAD)], new_token()),
    "expired": lambda rig, backend, one: backend.settle([Settlement(one.id, one.token, Outcome.EXPIRED)], new_token()),
    "cancelled": lambda rig, backend, one: backend.settle([Settlement(one.id, one.token, Outcome.CANCELLED)], new_token()),
    "retried": lambda rig, backend, one: backend.settle([Settlement(one.id, one.token, Outcome.RETRY)], new_token()),
    "deferred": lambda rig, backend, one: backend.settle(
        [Settlement(one.id, one.token, Outcome.DEFER, after=9.0)], new_token()
    ),
    "released": lambda rig, backend, one: backend.settle([Settlement(one.id, one.token, Outcome.RELEASE)], new_token()),
    "owner released": lambda rig, backend, one: rig.open(None).release_owner(backend._owner, (one.id,), b"{}"),
    "closed": lambda rig, backend, one: backend.close(),
    "lease expired": lambda rig, backend, one: _expire(rig),
    "claimed": lambda rig, backend, one: rig.open().claim([one.id], new_token()),
}


def _expire(rig: _Stores) -> None:
    keeper = rig.open(None)
    keeper.housekeep(100)
    for _ in range(8):
        rig.clock.time += 5.0
        keeper.housekeep(100)


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_reservation_frees_its_slot_whatever_the_limits_are_by_then(rig, end):
    backend, other = rig.open(), rig.open(None)
    backend.define_limits({"a": Limit(1)}, {})
    backend.push([_job("a", "b"), _job("a")], new_token())
    (one,) = backend.reserve([T], 5, new_token())
    assert _used(backend) == {"a": 1, "b": 1}
    assert other.counts([T])[T].limited == 1
    assert other.browse(T, State.LIMITED, 5)[0].blocked_by == "a"
    backend.define_limits({"a": Limit(2), "b": Limit(None, 1.0)}, {})
    ENDS[end](rig, backend, one)
    assert _used(other) == {}


@pytest.mark.parametrize("way", ["delay", "retry", "requeue"])
def test_a_job_that_becomes_ready_later_stands_in_its_line(rig, way):
    backend = rig.open()
    backend.define_limits({"a": Limit(0)}, {})
    job = _job("a", delay=5.0 if way != "retry" else 0.0, key="tenant")
    if way == "retry":
        backend.define_limits({"a": Limit(1)}, {})
    backend.push([job], new_token())
    if way == "retry":
        (one,) = backend.reserve([T], 1, new_token())
        backend.define_limits({"a": Limit(0)}, {})
        backend.settle([Settlement(one.id, one.token, Outcome.RETRY, after=5.0)], new_token())
    if way == "requeue":
        assert backend.requeue([job.id]) == 1
    else:
        rig.clock.time += 6.0
    assert backend.reserve([T], 1, new_token()) == []
    record = backend.get(job.id)
    assert (record.state, record.blocked_by, record.limits, record.key) == (State.LIMITED, "a", ("a",), "tenant")
    backend.override_limit("a", Limit(1))
    (one,) = backend.reserve([T], 1, new_token())
    assert (one.id, one.payload, one.key, one.limits) == (job.id, b"{}", "tenant", ("a",))


def test_other_limits_in_a_settlement_move_a_plain_job_to_their_line(rig):
    backend = rig.open()
    backend.define_limits({"a": Limit(0)}, {})
    backend.push([_job()], new_token())
    (one,) = backend.reserve([T], 1, new_token())
    backend.settle([Settlement(one.id, one.token, Outcome.RELEASE, limits=("a",), ran=False)], new_token())
    assert backend.reserve([T], 1, new_token()) == []
    record = backend.get(one.id)
    assert (record.state, record.limits, record.payload) == (State.LIMITED, ("a",), b"{}")


def test_a_worker_is_woken_when_a_limit_gets_room_and_not_before(redis_url):
    rig = _Stores(redis_url, None)
    first, second = rig.open(), rig.open()
    try:
        first.define_limits({"a": Limit(1), "r": Limit(None, 0.3)}, {})
        first.push([_job("a"), _job("a")], new_token())
        (one,) = first.reserve([T], 5, new_token())
        assert second.reserve_next([T], 5, new_token(), 0.05) == []
        assert second.wait([T], 0.05) is False
        first.settle([Settlement(one.id, one.token, Outcome.DONE)], new_token())
        assert second.wait([T], 10.0) is True
        assert len(second.reserve([T], 5, new_token())) == 1
        first.push([_job("r", topic="rated"), _job("r", topic="rated")], new_token())
        assert len(first.reserve(["rated"], 5, new_token())) == 1
        got: list[Delivery] = []
        while not got:  # a wait may end early
            got = first.reserve_next(["rated"], 5, new_token(), 10.0)
        assert [one.limits for one in got] == [("r",)]
    finally:
        first.close()
        second.close()


def test_a_bound_on_started_jobs_leaves_the_others_to_idle_workers(rig):
    busy, idle = rig.open(), rig.open()
    busy.define_limits({"a": Limit(5)}, {})
    busy.push([_job("a"), _job("a"), _job("a", "b"), _job()], new_token())
    busy.startable = 1
    assert [one.limits for one in busy.reserve([T], 10, new_token())] == [("a",), ()]
    assert busy.passed_over
    assert idle.wait([T], 0.0) is True
    assert [one.limits for one in idle.reserve([T], 10, new_token())] == [("a",), ("a", "b")]
    assert not idle.passed_over


def test_a_release_that_knows_no_limits_runs_until_the_first_job_with_limits(rig, monkeypatch):
    old, new = rig.open(), rig.open()
    prefix = f"{{{parse(rig.url).prefix}}}"
    rig.call("HDEL", f"{prefix}:owner:{old._owner}", "schema")  # as the release before registers
    old.push([_job()], new_token())
    new.define_limits({"a": Limit(1)}, {})
    monkeypatch.setattr("jobs_redis.store.NEWEST_SCHEMA", 1)
    rig.open()
    (one,) = old.reserve([T], 1, new_token())
    assert rig.call("HGET", f"{prefix}:meta", "schema") == b"1", "definitions alone change nothing"
    new.push([_job("a")], new_token())
    assert rig.call("HGET", f"{prefix}:meta", "schema") == b"2"
    with pytest.raises(OwnerLost):
        old.heartbeat()
    with pytest.raises(BackendError, match="upgrade jobs-redis"):
        rig.open()
    assert old.settle([Settlement(one.id, one.token, Outcome.DONE)], new_token()) == [Answer.SETTLED]
    assert len(new.reserve([T], 5, new_token())) == 1


def test_a_store_of_the_release_before_is_used_as_it_stands_and_raised_by_the_first_limited_job(rig):
    prefix = f"{{{parse(rig.url).prefix}}}"
    for key, command in json.loads((Path(__file__).parent / "fixtures" / "schema-1.json").read_text()).items():
        rig.call(command[0], f"{prefix}:{key}", *(value.encode("latin-1") for value in command[1:]))
    worker = rig.open()
    worker.define_limits({"a": Limit(1)}, {})
    counts = worker.counts([T])[T]
    assert (counts.ready, counts.scheduled, counts.reserved, counts.dead, counts.limited) == (3, 2, 1, 1, 0)
    assert [one.id for one in worker.reserve([T], 5, new_token())] == ["urgent", "ready", "unique"]
    assert worker.get("dead").payload == b'{"dead":1}'
    assert rig.call("HGET", f"{prefix}:meta", "schema") == b"1"
    worker.push([_job("a", id="limited")], new_token())
    assert rig.call("HGET", f"{prefix}:meta", "schema") == b"2"
    _expire(rig)  # of the worker of the release before, which can only settle what it holds
    assert "held" in [one.id for one in rig.open().reserve([T], 5, new_token()) if one.redeliveries]
    rig.clock.time += 700.0
    late = rig.open()
    assert {one.id: one.attempt for one in late.reserve([T], 9, new_token())}.items() >= {"retried": 1, "later": 0}.items()
    assert late.requeue(["dead"]) == 1


def test_what_a_housekeeper_of_the_release_before_does_to_limited_jobs_is_undone(rig):
    """It releases a dead worker, and makes scheduled jobs ready, without knowing lines."""
    source = (Path(__file__).parent / "fixtures" / "housekeep-schema-1.lua").read_text()
    worker, heir = rig.open(), rig.open()
    worker.define_limits({"a": Limit(2), "b": Limit(1)}, {})
    worker.push([_job("a", id="one"), _job("a", "b", id="two"), _job("b", id="due", delay=5.0)], new_token())
    assert len(worker.reserve([T], 5, new_token())) == 2

    def old_housekeeper() -> None:
        times = 30_000_000, 300_000_000, 0, 100  # lease, outage, time to live of cancelled jobs, limit
        rig.call("EVAL", source, 1, f"{{{parse(rig.url).prefix}}}", round(rig.clock() * 1e6), *times, T, 10**9)

    old_housekeeper()
    for _ in range(8):
        rig.clock.time += 5.0
        heir.heartbeat()
        old_housekeeper()
    with pytest.raises(OwnerLost):
        worker.heartbeat()
    rig.open(None).housekeep(100)
    assert _used(heir) == {}
    assert heir.counts([T])[T].reserved == 0
    taken: list[Delivery] = []
    for _ in range(3):
        taken += heir.reserve([T], 5, new_token())
    assert [(one.id, one.limits) for one in taken] == [("one", ("a",)), ("two", ("a", "b"))]
    assert _used(heir) == {"a": 2, "b": 1}
    assert heir.get("due").blocked_by == "b"
    heir.settle([Settlement(one.id, one.token, Outcome.DONE) for one in taken], new_token())
    assert [one.id for one in heir.reserve([T], 5, new_token())] == ["due"]
    assert T in heir.topics()


def test_a_killed_worker_process_leaves_no_slot_behind(redis_url):
    rig = _Stores(redis_url, None)
    keeper = rig.open(None)
    keeper.define_limits({"a": Limit(2)}, {})
    keeper.push([_job("a") for _ in range(3)], new_token())
    code = (
        "import sys, time; from jobs_redis.backend import RedisBackend; from jobs_redis.url import parse\n"
        "from jobs_core.backends.base import BackendOptions\n"
        "backend = RedisBackend(parse(sys.argv[1]), BackendOptions()); backend.open('victim')\n"
        "print(len(backend.reserve(['t'], 5, 'r')), flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, redis_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "2\n"
        assert _used(keeper) == {"a": 2}
        victim.kill()
    assert keeper.release_owner("victim", (), b"{}") == 2
    assert _used(keeper) == {}
    heir = rig.open()
    assert len(heir.reserve([T], 5, new_token())) == 2
    heir.close()
    keeper.close()


def test_a_reserve_that_looked_at_enough_lines_wakes_the_topic_again(rig):
    backend = rig.open()
    backend.define_limits({"v": Limit(1)}, {})
    backend.push([_job(f"v:{n}") for n in range(250)], new_token())
    backend.push([_job(f"v:{n}") for n in range(250)], new_token())
    backend.push([_job()], new_token())
    got = []
    while backend.wait([T], 0.0):
        got += backend.reserve([T], 1000, new_token())
    assert len(got) == 251
    assert backend.counts([T])[T].limited == 250
    backend.settle([Settlement(one.id, one.token, Outcome.DONE) for one in got], new_token())
    again = []
    while backend.wait([T], 0.0):
        again += backend.reserve([T], 1000, new_token())
    assert len(again) == 250
    backend.settle([Settlement(one.id, one.token, Outcome.DONE) for one in again], new_token())
    assert not rig.keys() & LINES_KEYS


@pytest.mark.parametrize("killed", [False, True], ids=["by its caller", "by housekeeping, after a kill"])
def test_an_owner_of_many_limited_jobs_is_released_in_steps(rig, killed):
    worker, heir = rig.open(), rig.open()
    worker.define_limits({"a": Limit(1000)}, {})
    worker.push([_job("a") for _ in range(600)], new_token())
    held: list[Delivery] = []
    while len(held) < 600:
        held += worker.reserve([T], 600, new_token())
    started = [one.id for one in held[::2]]
    if killed:  # after the first step
        arguments = (worker._owner, 0, 0, b'{"type":"killed"}', len(started), *started)
        assert heir._store._run(scripts.RELEASE, *arguments) == [250, 1]
        with pytest.raises(OwnerLost):
            worker.reserve([T], 1, new_token())
        while heir.housekeep(100).more:
            pass
    else:
        assert heir.release_owner(worker._owner, started, b'{"type":"killed"}') == 600
    assert _used(heir) == {}
    assert heir.counts([T])[T].reserved == 0
    taken: list[Delivery] = []
    while len(taken) < 600:
        taken += heir.reserve([T], 600, new_token())
    assert {one.id for one in taken if one.redeliveries} == set(started)
    kinds = rig.keys()
    assert "retired" not in kinds
    assert worker.settle([Settlement(held[0].id, held[0].token, Outcome.DONE)], new_token()) == [Answer.STALE]
