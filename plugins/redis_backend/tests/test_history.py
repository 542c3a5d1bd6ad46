"""Done jobs that are kept: in pages, for their time, at most so many of a topic, through kills, without cost to other jobs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.project import until

from jobs_core.backends.base import Backend, BackendOptions, Delivery, Outcome, Outgoing, Retention, Settlement, State
from jobs_core.backends.notes import Note, Notes
from jobs_core.errors import BackendError
from jobs_core.ids import new_id, new_token
from jobs_core.plugins import Plugins
from jobs_core.testing.contract.rig import ManualClock
from jobs_core.testing.services.redis import RedisServer, cluster, urls
from jobs_core.urls import scheme
from jobs_redis.transport.connection import ServerConnection, connector
from jobs_redis.url import parse

pytestmark = pytest.mark.timeout(240)

T = "t"
KEPT = 1000.0

WORKER = """
import sys
from jobs_core.backends.base import BackendOptions, Outcome, Settlement
from jobs_core.backends.notes import Note
from jobs_core.errors import BackendError, OwnerLost
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.urls import scheme

url, topics = sys.argv[1], sys.argv[2:]
backend = Plugins.discover().choose("jobs_queue_backends", scheme(url), "backend")(url, BackendOptions(lease=1.0))

def again(call):
    while True:
        try:
            return call()
        except OwnerLost:
            raise
        except BackendError:
            pass  # the server is down

while True:
    owner = new_token()
    again(lambda: backend.open(owner))
    try:
        while True:
            reserve, settle = new_token(), new_token()
            held = again(lambda: backend.reserve_next(topics, 5, reserve, 0.2))
            again(lambda: backend.note([Note(one.id, one.token, b"half", (b"begins",)) for one in held]))
            done = [
                Settlement(one.id, one.token, Outcome.DONE, result_ttl=1000.0, timeline=str(one.token).encode(),
                           notes=Note(one.id, one.token, b"all", (b"ends",), 1))
                for one in held
            ]
            again(lambda: backend.settle(done, settle))
    except OwnerLost:
        backend.close()
"""


class _Store:
    """Connections to one store on a clock that the test moves, and the names of its keys."""

    def __init__(self, url: str, done_max: int = 100_000) -> None:
        self.url, self.clock = url, ManualClock()
        retention = Retention(done_max=done_max)
        options = BackendOptions(clock=self.clock, retention=lambda topic: retention)
        self.backend = opened(url, options)
        self.prefix = f"{{{parse(url).prefix}}}:"
        self._plain = ServerConnection(connector(parse(url)), "here")

    def close(self) -> None:
        self.backend.close()
        self._plain.disconnect()

    def call(self, *words: object) -> object:
        return self._plain.call(*words)

    def names(self) -> set[str]:
        return {key.decode().removeprefix(self.prefix) for key in self._plain.call("KEYS", f"{self.prefix}*")}

    def run(self, *ids: str, ttl: float = KEPT, topic: str = T, timeline: bytes = b"run", **fields: object) -> list[Delivery]:
        """Push jobs, and end them as done."""
        self.backend.push([Outgoing(job_id, topic, b"payload", chosen=True) for job_id in ids], new_token())
        held = self.backend.reserve([topic], 1000, new_token())
        settlements = [Settlement(one.id, one.token, Outcome.DONE, result_ttl=ttl, timeline=timeline, **fields) for one in held]  # type: ignore[arg-type]
        self.backend.settle(settlements, new_token())
        return held

    def done(self, limit: int = 100_000, offset: int = 0, topic: str = T) -> list[str]:
        return [record.id for record in self.backend.browse(topic, State.DONE, limit, offset)]


def opened(url: str, options: BackendOptions, owner: str | None = "worker") -> Backend:
    backend: Backend = Plugins.discover().choose("jobs_queue_backends", scheme(url), "backend")(url, options)
    backend.open(owner)
    return backend


@pytest.fixture
def store(redis_url: str) -> Iterator[_Store]:
    made = _Store(redis_url)
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", "--appendfsync", "always") as server:
        yield server


def test_pages_are_complete_while_the_time_of_some_jobs_is_over(store):
    """A reader takes a short page for the last one."""
    for n in range(40):
        store.run(f"{n:02}", ttl=10.0 if n % 2 else KEPT)
    store.clock.time += 20.0
    pages = [store.done(7, offset) for offset in range(0, 28, 7)]
    assert [len(page) for page in pages] == [7, 7, 6, 0]
    assert [job_id for page in pages for job_id in page] == [f"{n:02}" for n in range(38, -1, -2)]


def test_pages_are_complete_although_the_server_has_evicted_some_jobs(store):
    for n in range(9):
        store.run(str(n))
    store.call("DEL", *(f"{store.prefix}ended:{n}" for n in (8, 6, 5, 2)))
    assert store.done(3) == ["7", "4", "3"]
    assert store.done() == ["7", "4", "3", "1", "0"]


def test_jobs_whose_time_is_over_are_dropped_a_thousand_at_a_time(store):
    for first in range(0, 2500, 500):
        store.run(*(f"{first + n}" for n in range(500)), ttl=10.0)
    store.run("other", topic="u", ttl=10.0)
    store.run("stays")
    store.backend.housekeep(10_000)  # which sees the topics for the first time
    store.clock.time += 20.0
    assert store.call("ZCARD", f"{store.prefix}done:t") == 2501
    left = []
    for _ in range(3):
        more = store.backend.housekeep(10_000).more
        left.append((store.call("ZCARD", f"{store.prefix}done:t") + store.call("ZCARD", f"{store.prefix}done:u"), more))
    assert left == [(1502, True), (502, True), (1, False)]
    assert store.done() == ["stays"]
    store.clock.time += KEPT
    store.backend.housekeep(10_000)
    assert not any(key.startswith("done") for key in store.names())


def test_beyond_the_most_that_a_topic_keeps_only_the_end_of_a_job_is_left(redis_url):
    store = _Store(redis_url, done_max=3)
    try:
        for n in range(6):
            store.backend.push([Outgoing(str(n), T, b"payload", chosen=True)], new_token())
            (held,) = store.backend.reserve([T], 1, new_token())
            note = Note(held.id, held.token, b"all", (b"line",) if n % 2 else ())
            result, told = (b"result" if n == 1 else None), {"notes": note, "timeline": b"run"}
            done = Settlement(held.id, held.token, Outcome.DONE, result=result, result_ttl=KEPT, **told)
            store.backend.settle([done], new_token())
        store.run("u", topic="u")
        assert store.done() == ["5", "4", "3"]
        assert store.done(topic="u") == ["u"]
        assert {name for name in store.names() if name.startswith("log:")} == {"log:3", "log:5"}
        assert [store.backend.get(job_id).notes.lines for job_id in ("5", "4")] == [(b"line",), ()]
        plain, with_result = store.backend.get("0"), store.backend.get("1")
        assert (plain.state, plain.payload, plain.timeline, plain.notes) == (State.DONE, b"", (), Notes())
        assert store.backend.fetch_result("1", 0.0).result == with_result.result == b"result"
        assert dict(store.backend.push([Outgoing("0", T, b"again", chosen=True)], new_token())) == {"0": "0"}
        assert 0 < store.call("TTL", f"{store.prefix}ended:0") <= KEPT
    finally:
        store.close()


def test_a_lower_limit_takes_effect_with_the_next_jobs(redis_url):
    store = _Store(redis_url)
    try:
        store.run(*(str(n) for n in range(250)))
        few = opened(redis_url, BackendOptions(clock=store.clock, retention=lambda topic: Retention(done_max=10)), None)
        few.open("other")
        for n in range(3):
            store.clock.time += 1.0
            few.push([Outgoing(f"new-{n}", T, b"")], new_token())
            (held,) = few.reserve([T], 1, new_token())
            few.settle([Settlement(held.id, held.token, Outcome.DONE, result_ttl=KEPT, timeline=b"x")], new_token())
        assert [record.id for record in few.browse(T, State.DONE, 100)][:3] == ["new-2", "new-1", "new-0"]
        assert len(few.browse(T, State.DONE, 100)) == 10
        few.close()
    finally:
        store.close()


def test_an_id_that_is_free_again_has_nothing_of_the_job_that_was_kept(store):
    store.run("a", ttl=10.0, notes=None)
    store.clock.time += 20.0
    store.call("DEL", f"{store.prefix}ended:a")  # by its own time to live
    store.backend.push([Outgoing("a", T, b"new", chosen=True)], new_token())
    assert store.done() == []
    record = store.backend.get("a")
    assert (record.state, record.payload, record.timeline) == (State.READY, b"new", ())
    (held,) = store.backend.reserve([T], 1, new_token())
    store.backend.settle([Settlement("a", held.token, Outcome.DONE, result=b"1", result_ttl=KEPT)], new_token())
    assert store.done() == []
    assert store.backend.get("a").payload == b""
    store.backend.housekeep(100)
    assert not any(key.startswith("done") for key in store.names())


def test_a_kept_member_of_a_fair_topic_with_limits_shows_its_key_limits_cursor_and_errors(store):
    store.backend.push([Outgoing("a", T, b"payload", 7, key="acme", limits=("x", "y"))], new_token())
    (held,) = store.backend.reserve([T], 1, new_token())
    failed = Settlement("a", held.token, Outcome.RETRY, error=b'{"n":1}', cursor=b"page 3", timeline=b"first")
    store.backend.settle([failed], new_token())
    (held,) = store.backend.reserve([T], 1, new_token())
    store.backend.settle([Settlement("a", held.token, Outcome.DONE, result_ttl=KEPT, timeline=b"second")], new_token())
    (listed,) = store.backend.browse(T, State.DONE, 10)
    shown = store.backend.get("a")
    for record in (listed, shown):
        assert (record.key, record.limits, record.cursor, record.errors) == ("acme", ("x", "y"), b"page 3", (b'{"n":1}',))
        assert (record.priority, record.attempt, record.timeline) == (7, 1, (b"first", b"second"))


def test_the_beginning_of_the_id_of_a_kept_job_finds_it(store):
    store.run("0000-first", "0000-second", "1111-other")
    assert sorted(store.backend.find_ids("0000", 10)) == ["0000-first", "0000-second"]
    assert len(store.backend.find_ids("0000", 1)) == 1


def test_a_settlement_that_is_sent_again_lists_its_job_once(store):
    store.backend.push([Outgoing("a", T, b"")], new_token())
    (held,) = store.backend.reserve([T], 1, new_token())
    note = Note("a", held.token, b"1", (b"one", b"two"))
    done = Settlement("a", held.token, Outcome.DONE, result_ttl=KEPT, timeline=b"run", notes=note)
    for request in ("same", "same", "other"):
        store.backend.settle([done], request)
    record = store.backend.get("a")
    assert (store.done(), record.timeline, record.notes) == (["a"], (b"run",), Notes(b"1", (b"one", b"two")))


def test_a_full_server_still_keeps_what_is_done(small_url, small_redis_server):
    backend = opened(small_url, BackendOptions())
    backend.push([Outgoing(str(n), T, b"x" * 100) for n in range(50)], new_token())
    held = backend.reserve([T], 50, new_token())
    with pytest.raises(BackendError):
        while True:
            backend.push([Outgoing(new_id(), "other", b"x" * 1000) for _ in range(50)], new_token())
    backend.settle([Settlement(one.id, one.token, Outcome.DONE, result_ttl=KEPT, timeline=b"x") for one in held], new_token())
    assert len(backend.browse(T, State.DONE, 100)) == 50
    backend.close()


def test_a_housekeeper_of_an_older_release_takes_nothing_from_kept_jobs(store):
    source = (Path(__file__).parent / "fixtures" / "housekeep-schema-1.lua").read_text()
    store.run("a", "b")
    times = 30_000_000, 300_000_000, 0, 100  # lease, outage, time to live of cancelled jobs, limit
    store.call("EVAL", source, 1, store.prefix[:-1], round(store.clock() * 1e6), *times, T, 10**9)
    assert sorted(store.done()) == ["a", "b"]
    assert store.backend.get("a").timeline == (b"run",)


# -- the cost of other jobs --------------------------------------------------------------------------

BEFORE = {
    "del": 6, "evalsha": 6, "exists": 6, "hdel": 4, "hget": 2, "hmget": 7, "hset": 7, "hsetnx": 1,
    "sadd": 2, "set": 2, "sismember": 2, "zadd": 6, "zpopmin": 2, "zscore": 4,
}  # fmt: skip
"""The commands that `cost` counted before there was any history, but for those that count pushed jobs, see `tally.py`."""


def test_jobs_that_are_not_kept_cost_the_same_commands_and_keys_beside_kept_ones(server):
    url = f"redis://127.0.0.1:{server.port}?prefix=x"
    store = _Store(url)
    try:
        cost(server, store, "warm")  # the server learns the scripts
        before, keys = cost(server, store, "plain"), store.names()
        store.run(*(f"kept-{n}" for n in range(20)))
        added = store.names() - keys
        assert cost(server, store, "other") == before
        assert {key.partition(":")[0] for key in added} <= {"ended", "done", "done-until", "done-topics", "request"}
        assert {key for key in store.names() - keys - added if not key.startswith("request:")} == set()
        assert before == BEFORE
    finally:
        store.close()


def cost(server: RedisServer, store: _Store, name: str) -> Counter[str]:
    """Return how often each command was called for one job alone, and for five together."""

    def calls() -> Counter[str]:
        lines = [line.partition(":calls=") for line in server.text("INFO", "commandstats").splitlines()]
        return Counter({command.removeprefix("cmdstat_"): int(rest.split(",")[0]) for command, _, rest in lines if rest})

    def plain(*messages: Outgoing) -> None:
        store.backend.push(messages, new_token())
        held = store.backend.reserve([T], 10, new_token())
        assert len(held) == len(messages)
        store.backend.settle([Settlement(one.id, one.token, Outcome.DONE) for one in held], new_token())

    begin = calls()
    plain(Outgoing(f"{name}-alone", T, b"x"))
    plain(*(Outgoing(f"{name}-{n}", T, b"x") for n in range(5)))
    used = calls() - begin
    del used["info"], used["hincrby"]  # at times: a connection adds its jobs to the counts some at a time
    return used


# -- kills -------------------------------------------------------------------------------------------

JOBS = 1500
KILLS = 8


class _Crew:
    def __init__(self, url: str, *topics: str) -> None:
        self._command = [sys.executable, "-c", WORKER, url, *topics]
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._running.append(subprocess.Popen(self._command))

    def kill_oldest(self) -> None:
        process = self._running.pop(0)
        assert process.poll() is None
        process.kill()
        process.wait()

    def stop(self) -> None:
        while self._running:
            process = self._running.pop()
            process.kill()
            process.wait()


def endure(url: str, topics: tuple[str, ...], break_server: Callable[[int], None]) -> None:
    """Run jobs in workers that are killed, and break the server in between; check that each job is kept exactly once."""
    watcher = opened(url, BackendOptions(lease=1.0), None)
    ids = {topic: [new_id() for _ in range(JOBS // len(topics))] for topic in topics}
    for topic in topics:
        watcher.push([Outgoing(job_id, topic, b"payload") for job_id in ids[topic]], new_token())

    def kept() -> int:
        with contextlib.suppress(BackendError):  # a cluster serves again only seconds after its node
            watcher.housekeep(1000)
            return sum(len(watcher.browse(topic, State.DONE, JOBS)) for topic in topics)
        return -1

    crew = _Crew(url, *topics)
    for _ in range(3):
        crew.start()
    try:
        for fault in range(KILLS):
            while kept() < (fault + 1) * JOBS // (KILLS + 2):
                pass
            if fault % 2:
                break_server(fault)
            else:
                crew.kill_oldest()
                crew.start()
        while kept() < JOBS:
            pass
    finally:
        crew.stop()
    for topic in topics:
        records = watcher.browse(topic, State.DONE, JOBS + 1)
        assert sorted(record.id for record in records) == sorted(ids[topic])
        for record in records:
            whole = watcher.get(record.id)
            assert (whole.state, whole.payload) == (State.DONE, b"payload")
            assert len(whole.timeline) == 1, "each was done once"
            assert (whole.notes.progress, whole.notes.lines[-2:]) == (b"all", (b"begins", b"ends"))
    watcher.close()


def test_kills_of_workers_and_server_keep_every_done_job_once_with_all_that_it_told(server):
    def crash(fault: int) -> None:
        server.kill()
        server.start()

    endure(f"redis://127.0.0.1:{server.port}/0?prefix=x", (T,), crash)


def test_kills_of_workers_and_nodes_of_a_cluster_keep_every_done_job_once(tmp_path):
    nodes = cluster(tmp_path, options=("--appendfsync", "always"))

    def crash(fault: int) -> None:
        node = nodes[fault // 2 % len(nodes)]
        node.kill()
        node.start()

    try:
        endure(f"redis+cluster://{urls(nodes)}?prefix=x", (T, "u", "v"), crash)
        names = [key for node in nodes for key in keys_of(node) if "done" in key or "ended" in key]
    finally:
        for node in nodes:
            node.kill()
    assert len(names) >= JOBS + 9
    assert {name.partition("}")[0] for name in names} == {"{x:t", "{x:u", "{x:v"}, "all keys of a topic are in one slot"


def keys_of(node: RedisServer) -> list[str]:
    connection = ServerConnection(connector(parse(f"redis://127.0.0.1:{node.port}")), "here")
    try:
        return [key.decode() for key in connection.call("KEYS", "*")]
    finally:
        connection.disconnect()


def test_a_cluster_drops_the_done_jobs_of_all_topics_and_finds_them_by_the_beginning_of_their_id(redis_cluster_url):
    backend = opened(redis_cluster_url, BackendOptions())
    topics = [f"topic-{n}" for n in range(4)]
    for topic in topics:
        for begin, ttl in (("0000", KEPT), ("1111", 0.5)):
            backend.push([Outgoing(f"{begin}-{topic}", topic, b"")], new_token())
            (held,) = backend.reserve([topic], 1, new_token())
            backend.note([Note(held.id, held.token, b"half", (b"line",))])
            done = Settlement(held.id, held.token, Outcome.DONE, result_ttl=ttl, timeline=b"run")
            backend.settle([done], new_token())
        found = {record.id: record for record in backend.browse(topic, State.DONE, 10)}
        record = found[f"0000-{topic}"]
        assert (record.topic, record.notes.progress, record.timeline) == (topic, b"half", (b"run",))
    assert sorted(backend.find_ids("0000", 10)) == [f"0000-{topic}" for topic in topics]
    assert len(backend.find_ids("0000", 3)) == 3

    def dropped():
        backend.housekeep(100)
        return not backend.find_ids("1111", 10)  # the lists, without looking at the jobs

    until(dropped)
    assert [backend.get(f"1111-{topic}") for topic in topics] == [None] * 4
    assert len(backend.find_ids("0000", 10)) == 4
    backend.close()


def test_a_kill_of_the_server_during_housekeeping_leaves_no_list_behind(server):
    url = f"redis://127.0.0.1:{server.port}/0?prefix=x"
    store = _Store(url)
    for first in range(0, 3000, 500):
        store.run(*(f"{first + n}" for n in range(500)), ttl=10.0)
    store.clock.time += 20.0
    killing = threading.Timer(0.02, server.kill)
    killing.start()
    try:
        while store.backend.housekeep(100).more:
            pass
    except BackendError:
        pass
    killing.join()
    server.start()
    store.backend.close()
    store.backend.open("worker")
    while store.backend.housekeep(100).more:
        pass
    assert not any(key.startswith("done") for key in store.names())
    store.close()
