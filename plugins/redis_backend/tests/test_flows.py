"""Flows on one Redis server: steps that are left over, stores and housekeepers of other releases, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Retention, Settlement, State
from jobs_core.backends.flows import After, Member, Part
from jobs_core.errors import BackendError, OwnerLost
from jobs_core.ids import new_id, new_token
from jobs_core.message import UniqueKey
from jobs_core.testing.contract.rig import Rig
from jobs_core.testing.contract.together import Togetherness
from jobs_redis import scripts
from jobs_redis.backend import RedisBackend
from jobs_redis.transport.connection import ServerConnection, connector
from jobs_redis.url import parse

pytestmark = pytest.mark.timeout(300)

T = "t"
ALL = After("*", "all")
FIXTURES = Path(__file__).parent / "fixtures"
START = 1_800_000_000.0


class _Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        self.time = round(self.time + 0.001, 6)
        return self.time


class _Stores:
    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = _Clock()
        self.base = f"{{{parse(url).prefix}}}"
        self.opened: list[RedisBackend] = []

    def open(self, owner: str | None = "", **options: Any) -> RedisBackend:
        options = {"clock": self.clock, "lease": 30.0} | options
        backend = RedisBackend(parse(self.url), BackendOptions(**options))
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

    def stored(self) -> set[str]:
        return {key.decode().removeprefix(f"{self.base}:") for key in self.call("KEYS", f"{self.base}:*")}

    def schema(self) -> bytes:
        found: bytes = self.call("HGET", f"{self.base}:meta", "schema")
        return found


@pytest.fixture
def stores(redis_url: str) -> Iterator[_Stores]:
    made = _Stores(redis_url)
    yield made
    for backend in made.opened:
        backend.close()


def _member(flow: str, job_id: str, *after: After, stage: str | None = "", **facts: Any) -> Outgoing:
    when, inputs = facts.pop("when", "done"), facts.pop("inputs", ())
    return Outgoing(job_id, facts.pop("topic", T), b"{}", member=Member(flow, stage, after, when, inputs, "label"), **facts)


def _run(worker: RedisBackend, count: int = 10, outcome: Outcome = Outcome.DONE, **fields: Any) -> list[str]:
    held = worker.reserve([T], count, new_token())
    worker.settle([Settlement(one.id, one.token, outcome, **fields) for one in held], new_token())
    return [one.id for one in held]


class _Stepwise(RedisBackend):
    """Has all work that a call left over done by housekeeping, so that the machine sees what is decided in the end."""

    def _carry_on(self) -> None:
        while self._connection.call("EXISTS", f"{self._store.keys.base}:flows-working"):
            self._store.housekeep(1)

    def close(self) -> None:
        if self._owner and self._connection.connected:
            self._store.release(self._owner, (), b"", crash=False)  # as `close` does, which leaves no connection to carry on
            self._carry_on()
        super().close()


def _stepwise(name: str) -> Any:
    def call(self: _Stepwise, *arguments: Any, **options: Any) -> Any:
        answer = getattr(RedisBackend, name)(self, *arguments, **options)
        self._carry_on()
        return answer

    return call


CALLS = (
    "push_part",
    "reserve",
    "settle",
    "release_owner",
    "cancel",
    "cancel_flow",
    "requeue",
    "retry_flow",
    "discard",
    "drop",
    "purge",
)
for _name in (*CALLS, "housekeep"):
    setattr(_Stepwise, _name, _stepwise(_name))


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have each script decide for one or two members, instead of for hundreds."""

    def forget() -> None:
        for script in vars(scripts).values():
            if isinstance(script, scripts.Script):
                for attribute in ("digest", "source"):
                    with contextlib.suppress(AttributeError):
                        delattr(script, attribute)

    read = scripts._read

    def reread(name: str) -> str:
        source, count = re.subn(r"local budget = \d+", "local budget = 1", read(name))
        assert count == (name == "flows")
        return source

    monkeypatch.setattr(scripts, "_read", reread)
    forget()
    yield
    monkeypatch.undo()
    forget()


class TestSmallSteps(Togetherness):
    """The state machine of the contract, with steps that decide for one member."""

    @pytest.fixture
    def rig(self, redis_url: str, small_steps: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
        monkeypatch.setattr(Rig, "_queue_factory", lambda *_: lambda url, options: _Stepwise(parse(url), options))
        made = Rig(redis_url, None)
        yield made
        made.close()


# -- releases beside one another -----------------------------------------------------------------------


def test_a_release_that_knows_no_flows_runs_until_the_first_flow(stores, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("jobs_redis.store.NEWEST_SCHEMA", 2)
        old = stores.open()
    new = stores.open()
    old.push([Outgoing(new_id(), T, b"{}", limits=("a",))], new_token())
    (one,) = old.reserve([T], 1, new_token())
    assert stores.schema() == b"2"
    new.push_part(Part("f"), [_member("f", "member")], new_token())
    assert stores.schema() == b"3"
    with pytest.raises(OwnerLost):
        old.heartbeat()
    monkeypatch.setattr("jobs_redis.store.NEWEST_SCHEMA", 2)
    with pytest.raises(BackendError, match="upgrade jobs-redis"):
        stores.open()
    assert old.settle([Settlement(one.id, one.token, Outcome.DONE)], new_token())
    assert _run(new) == ["member"]


def test_a_refused_flow_leaves_the_store_as_it_is(stores):
    worker = stores.open()
    with pytest.raises(BackendError, match="is no member yet"):
        worker.push_part(Part("f"), [_member("f", "one", After("nobody"))], new_token())
    assert stores.schema() == b"1"
    assert not any("flow" in key for key in stores.stored())


def test_a_store_with_flows_of_this_release_is_read_as_it_stands(stores):
    """What later releases have to read: see `write_fixture`."""
    for key, command in json.loads((FIXTURES / "schema-3.json").read_text()).items():
        stores.call(command[0], f"{stores.base}:{key}", *(value.encode("latin-1") for value in command[1:]))
    stores.clock.time = START + 1000
    worker = stores.open()
    assert {flow.id: flow.state for flow in worker.flows(10)} == {"runs": "failed", "open": "open", "gone": "cancelled"}
    runs = worker.flow("runs")
    assert (runs.total, runs.waiting, runs.active, runs.done, runs.dead, runs.name) == (7, 4, 1, 1, 1, "order 7")
    members = {member.id: member for member in worker.flow_members("runs", 10)}
    assert {member.id: member.state for member in members.values()} == {
        "first": "done", "second": "ready", "dies": "dead", "takes": "waiting", "behind": "waiting", "all": "waiting",
        "added": "waiting",
    }  # fmt: skip
    assert members["behind"].stuck
    assert worker.get("takes").waiting_for == ("s", "second")
    assert worker.requeue(["dies"]) == 1
    worker.push_part(Part("open", 1), [_member("open", "last", After("s", "stage"))], new_token())
    taken = worker.reserve([T], 10, new_token())
    assert [one.id for one in taken] == ["dies", "second", "early"]
    worker.settle([Settlement(one.id, one.token, Outcome.DONE, result=b"2") for one in taken], new_token())
    assert sorted(_run(worker)) == ["added", "behind", "last"]
    (takes,) = worker.reserve([T], 10, new_token())
    assert takes.inputs == (("first", b"1"), ("second", b"2"))
    worker.settle([Settlement(takes.id, takes.token, Outcome.DONE)], new_token())
    assert _run(worker) == ["all"]
    assert {flow.id: flow.state for flow in worker.flows(10)} == {"runs": "done", "open": "done", "gone": "cancelled"}


def write_fixture(stores: _Stores) -> None:
    """Write the store of the test above; run by hand when the format changes, for the new version's file."""
    worker = stores.open(None)
    jobs = [
        _member("runs", "first", stage="s", priority=1),
        _member("runs", "second", After("first", ended=True), stage="s"),
        _member("runs", "dies", priority=2, limits=("a",), key="k"),
        _member("runs", "takes", After("s", "stage"), After("second"), inputs=("first", "second")),
        _member("runs", "behind", After("dies")),
        _member("runs", "all", ALL, when="ended"),
    ]
    worker.push_part(Part("runs", name="order 7"), jobs, new_token())
    worker.push_part(Part("open", last=False, open_for=1e6), [_member("open", "early", stage="s")], new_token())
    worker.push_part(Part("gone"), [_member("gone", "cancelled")], new_token())
    worker.cancel_flow("gone")
    runner = stores.open()
    (dies,) = runner.reserve([T], 1, new_token())
    runner.settle([Settlement(dies.id, dies.token, Outcome.DEAD, reason="no", error=b"{}")], new_token())
    (first,) = runner.reserve([T], 1, new_token())
    added = _member("runs", "added", After("second"), stage=None)
    runner.settle([Settlement(first.id, first.token, Outcome.DONE, result=b"1", followups=(added,))], new_token())
    runner.close()
    kept: dict[str, list[str]] = {}
    for key in sorted(stores.stored()):
        name = f"{stores.base}:{key}"
        kind = stores.call("TYPE", name).decode()
        if kind == "hash":
            kept[key] = ["HSET", *_text(stores.call("HGETALL", name))]
        elif kind == "zset":
            flat = _text(stores.call("ZRANGE", name, 0, -1, "WITHSCORES"))
            kept[key] = ["ZADD", *(value for n in range(0, len(flat), 2) for value in (flat[n + 1], flat[n]))]
        elif kind == "set":
            kept[key] = ["SADD", *_text(stores.call("SMEMBERS", name))]
    kept = {key: values for key, values in kept.items() if not key.startswith(("wake:", "request:", "owner:"))}
    (FIXTURES / "schema-3.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _text(values: list[bytes]) -> list[str]:
    return [value.decode("latin-1") for value in values]


def test_what_a_housekeeper_of_the_first_release_does_to_members_is_undone(stores):
    """It releases a dead worker, and makes scheduled jobs ready, without knowing flows; it ends no member."""
    source = (FIXTURES / "housekeep-schema-1.lua").read_text()
    worker, heir = stores.open(), stores.open()
    jobs = [_member("f", "one"), _member("f", "due", delay=5.0), _member("f", "last", After("one"), After("due"))]
    jobs += [_member("f", "other", priority=9), _member("f", "after", After("other"), topic="t2")]
    worker.push_part(Part("f"), jobs, new_token())
    assert len(worker.reserve([T], 5, new_token())) == 2
    assert heir.cancel("other") is State.RESERVED

    def old_housekeeper() -> None:
        times = 30_000_000, 300_000_000, 0, 100  # lease, outage, time to live of cancelled jobs, limit
        now = round(stores.clock() * 1e6)
        stores.call("EVAL", source, 1, stores.base, now, *times, T, 10**9, "t2", 10**9)

    old_housekeeper()
    for _ in range(8):
        stores.clock.time += 5.0
        heir.heartbeat()
        old_housekeeper()
    with pytest.raises(OwnerLost):
        worker.heartbeat()
    stores.open(None).housekeep(100)
    assert heir.counts([T])[T].reserved == 0
    assert {"t", "t2"} <= set(heir.topics())
    taken = []
    for _ in range(3):
        taken += heir.reserve([T], 5, new_token())
    assert sorted(one.id for one in taken) == ["due", "one", "other"]
    assert heir.heartbeat().cancelled == ("other",)
    outcomes = {"other": Outcome.CANCELLED}
    heir.settle([Settlement(one.id, one.token, outcomes.get(one.id, Outcome.DONE)) for one in taken], new_token())
    assert _run(heir) == ["last"]
    assert heir.get("after").state is State.CANCELLED
    assert heir.flow("f").state == "done"


# -- refused additions -----------------------------------------------------------------------------------


def test_dead_letters_that_cannot_be_retried_hide_none_that_can(stores, monkeypatch):
    monkeypatch.setattr("jobs_redis.store.SLICE", 2)
    worker = stores.open()
    worker.push_part(Part("f"), [_member("f", "adds"), _member("f", "dies", topic="t2")], new_token())
    refused = [_member("f", f"refused-{n}", After("no-such", "stage")) for n in range(3)]
    assert _run(worker, followups=tuple(refused)) == ["adds"]
    (held,) = worker.reserve(["t2"], 1, new_token())
    worker.settle([Settlement(held.id, held.token, Outcome.DEAD)], new_token())
    assert worker.flow("f").dead == 4
    assert (worker.retry_flow("f"), worker.retry_flow("f")) == (1, 0)
    assert worker.get("dies").state is State.READY


def test_dead_letters_that_cannot_be_retried_are_dropped_when_they_are_old(stores):
    worker = stores.open(retention=lambda topic: Retention(dead_keep=100.0))
    worker.push_part(Part("f"), [_member("f", "adds")], new_token())
    waits = _member("f", "waits", After("refused", "job"))
    assert _run(worker, followups=(_member("f", "refused", After("no-such", "stage")), waits)) == ["adds"]
    assert (worker.flow("f").state, worker.get("waits").state) == ("failed", State.WAITING)
    stores.clock.time += 101.0
    worker.heartbeat()
    worker.housekeep(100)
    assert (worker.flow("f").state, worker.get("refused"), worker.get("waits").state) == ("done", None, State.CANCELLED)


@pytest.mark.parametrize("scope", ["queued", "done", 1000.0], ids=str)
def test_a_refused_addition_holds_no_key_of_any_scope(stores, scope):
    worker = stores.open()
    unique = UniqueKey("key", scope)
    worker.push_part(Part("f"), [_member("f", "adds")], new_token())
    assert _run(worker, followups=(_member("f", "refused", After("no-such", "stage"), unique=unique),)) == ["adds"]
    assert worker.get("refused").state is State.DEAD
    assert worker.push([Outgoing("later", T, b"{}", unique=unique)], new_token()) == {}


def test_what_ends_with_a_cancelled_flow_replaces_nothing(stores):
    worker = stores.open()
    unique = UniqueKey("key", conflict="replace")
    worker.push_part(Part("f"), [_member("f", "adds")], new_token())
    worker.push([Outgoing("holder", "t2", b"{}", unique=unique)], new_token())
    (held,) = worker.reserve([T], 1, new_token())
    worker.cancel_flow("f")
    worker.settle(
        [Settlement(held.id, held.token, Outcome.DONE, followups=(_member("f", "added", unique=unique),))], new_token()
    )
    assert (worker.get("added").state, worker.get("holder").state) == (State.CANCELLED, State.READY)


# -- what is left ----------------------------------------------------------------------------------------


def test_a_flow_that_is_no_longer_kept_leaves_nothing_behind(stores):
    worker = stores.open(cancelled_ttl=0.0, dedup_window=0.001)
    before = stores.stored()
    for flow in ("done", "cancelled", "dies", "open"):
        first, taken = _member(flow, f"{flow}-1", stage="s"), _member(flow, f"{flow}-2", topic="t2")
        takes = _member(flow, f"{flow}-3", After("s", "stage"), inputs=(first.id,))
        part = Part(flow, last=flow != "open", ttl=10.0, open_for=10.0)
        worker.push_part(part, [first, taken, takes, _member(flow, f"{flow}-4", ALL, when="failed")], new_token())
    worker.cancel_flow("cancelled")
    held = {one.id: one for one in worker.reserve([T, "t2"], 10, new_token())}
    settlements = [
        Settlement(one.id, one.token, Outcome.DEAD if "dies" in one.id else Outcome.DONE, result=b"1") for one in held.values()
    ]
    worker.settle(settlements, new_token())
    assert _run(worker) == ["done-3", "dies-4"]
    assert worker.drop(["dies-1", "dies-2"]) == 2
    for _ in range(3):
        stores.clock.time += 11.0
        worker.heartbeat()
        worker.housekeep(100)
    assert worker.flows(10) == []
    left = {key for key in stores.stored() - before if not key.startswith(("request:", "wake:"))}
    assert left <= {"waiting", "pushed", "refused"} | before, left


def test_members_with_keys_and_limits_stand_in_lines_of_their_own(stores):
    worker = stores.open()
    facts: list[dict[str, Any]] = [{}, {"limits": ("a",)}, {"key": "k"}, {"key": "k\nl>", "limits": ("a", "b:1")}]
    jobs = [_member("f", f"job-{n}", **each) for n, each in enumerate(facts)]
    worker.push_part(Part("f"), jobs, new_token())
    taken = worker.reserve([T], 10, new_token())
    assert [(one.id, one.key, one.limits, one.flow) for one in taken] == [
        (job.id, job.key, job.limits, "f") for job in jobs
    ]  # fmt: skip
    assert all(one.token.endswith("\n>") for one in taken)
    again = [Settlement(one.id, one.token, Outcome.RELEASE, limits=("c",)) for one in taken]
    worker.settle(again, new_token())
    taken = worker.reserve([T], 10, new_token())
    assert [(one.id, one.key, one.limits, one.flow) for one in taken] == [(job.id, job.key, ("c",), "f") for job in jobs]
    worker.settle([Settlement(one.id, one.token, Outcome.DONE) for one in taken], new_token())
    assert worker.flow("f").state == "done"
    assert [state.limit for state in worker.limits(10) if state.used] == []
