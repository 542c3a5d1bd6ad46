"""Flows, while workers, housekeeper and server are killed: each member runs, none too early, and each end counts once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.backends.flows import After, Member, Part
from jobs_core.errors import BackendError
from jobs_core.ids import new_token
from jobs_core.testing.services.redis import RedisServer, sentinels, urls
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse

pytestmark = pytest.mark.timeout(240)

FLOWS = 3
FAN = 60
FAULTS = 7

PROCESS = """
import sys, time
from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement
from jobs_core.backends.flows import Member
from jobs_core.errors import BackendError, OwnerLost
from jobs_core.ids import new_token
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse

url, role, path = sys.argv[1:]
ledger = open(path, "a", buffering=1)
backend = RedisBackend(parse(url), BackendOptions(lease=1.0))
owner = new_token() if role == "worker" else None

def again(call):
    while True:
        try:
            return call()
        except OwnerLost:
            ledger.write("lost\\n")
            again(lambda: backend.open(owner))
            raise
        except BackendError:
            time.sleep(0.05)  # the server is down; a real worker waits in the same way

again(lambda: backend.open(owner))
while role == "housekeeper":
    again(lambda: backend.housekeep(100))
    time.sleep(0.1)  # as the supervisor pauses between two rounds
while True:
    reserve, settle = new_token(), new_token()
    try:
        held = again(lambda: backend.reserve_next(["t"], 3, reserve, 0.2))
        for number, one in enumerate(held):
            ledger.write(f"{one.id} {' '.join(sorted(job_id for job_id, _ in one.inputs))}\\n")
            adds = ()
            if "-fan-" in one.id and "-added" not in one.id:
                adds = (Outgoing(one.id + "-added", "t", b"{}", member=Member(one.flow, None)),)
            done = [Settlement(one.id, one.token, Outcome.DONE, result=b"1", followups=adds)]
            again(lambda: backend.settle(done, f"{settle}{number}"))
    except OwnerLost:
        pass  # too slow for the lease: others have the jobs
"""


class _Crew:
    def __init__(self, url: str, ledger: Path) -> None:
        self._url, self._ledger, self._running = url, ledger, dict[str, subprocess.Popen[bytes]]()

    def start(self, name: str) -> None:
        command = [sys.executable, "-c", PROCESS, self._url, name.partition("-")[0], str(self._ledger)]
        self._running[name] = subprocess.Popen(command)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def alive(self) -> bool:
        return all(process.poll() is None for process in self._running.values())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", "--appendfsync", "always") as server:
        yield server


def _flow(name: str) -> list[Outgoing]:
    """Return a first job, many that wait for it and each add one, one that takes their results, and a finale."""

    def member(job_id: str, *after: After, stage: str = "", inputs: tuple[str, ...] = ()) -> Outgoing:
        return Outgoing(f"{name}-{job_id}", "t", b"{}", member=Member(name, stage, after, inputs=inputs))

    first = member("first")
    fan = [member(f"fan-{n}", After(first.id), stage="fan") for n in range(FAN)]
    joined = member("joined", After("fan", "stage"), inputs=tuple(one.id for one in fan))
    return [first, *fan, joined, member("finale", After("*", "all"))]


def test_kills_of_workers_housekeeper_and_server_lose_no_member_and_start_none_too_early(server, tmp_path):
    url = f"redis://127.0.0.1:{server.port}/0?prefix=x"
    watcher = RedisBackend(parse(url), BackendOptions())
    watcher.open(None)
    names = [f"flow{n}" for n in range(FLOWS)]
    for name in names:
        watcher.push_part(Part(name), _flow(name), new_token())
    ledger = tmp_path / "ledger"
    crew = _Crew(url, ledger)
    for name in ("worker-0", "worker-1", "worker-2", "housekeeper"):
        crew.start(name)
    expected = FLOWS * (2 * FAN + 3)

    def done() -> int:
        return sum(status.done for status in watcher.flows(10))

    try:
        for fault in range(FAULTS):
            while done() < (fault + 1) * expected // (FAULTS + 1):
                assert crew.alive()
            if fault % 3 == 2:
                server.kill()
                watcher.close()
                server.start()
                watcher.open(None)
            elif fault == 4:
                crew.kill("housekeeper")
                crew.start("housekeeper")
            else:
                crew.kill(f"worker-{fault % 3}")
                crew.start(f"worker-{fault % 3}")
        for name in names:
            while watcher.wait_flow(name, 1.0) is None:
                assert crew.alive()
    finally:
        crew.stop()
    ran = _checked(watcher, ledger)
    losses = FAULTS + ledger.read_text().splitlines().count("lost")  # on a slow machine, workers outlive their leases
    assert len(ran) - expected <= 3 * losses, "no more runs than were in flight at the kills"


def _checked(watcher: RedisBackend, ledger: Path) -> list[list[str]]:
    """Check that each member ran, in the order of its flow, and that nothing is left; return the runs."""
    names, expected = [f"flow{n}" for n in range(FLOWS)], FLOWS * (2 * FAN + 3)
    ran = [line.split() for line in ledger.read_text().splitlines() if line != "lost"]
    counts = watcher.counts(["t"])["t"]
    statuses = watcher.flows(10)
    watcher.close()
    assert {(status.state, status.total, status.done) for status in statuses} == {("done", 2 * FAN + 3, 2 * FAN + 3)}
    assert (counts.ready, counts.reserved, counts.waiting, counts.dead) == (0, 0, 0, 0)
    assert len({job_id for job_id, *_ in ran}) == expected
    order = [job_id for job_id, *_ in ran]
    for name in names:
        first, joined, finale = (order.index(f"{name}-{which}") for which in ("first", "joined", "finale"))
        fan = [order.index(f"{name}-fan-{n}{suffix}") for n in range(FAN) for suffix in ("", "-added")]
        assert first < min(fan)
        assert max(fan) < joined < finale
        assert all(
            sorted(f"{name}-fan-{n}" for n in range(FAN)) == taken for job_id, *taken in ran if job_id == f"{name}-joined"
        )
    return ran


def test_a_failover_loses_no_member_and_starts_none_too_early(tmp_path):
    """Settlements that the new master had not received are lost with the old one: these members run again."""
    with contextlib.ExitStack() as stack:
        at_once = "--repl-diskless-sync-delay", "0"
        master = stack.enter_context(RedisServer(tmp_path / "master", *at_once))
        address = "127.0.0.1", str(master.port)
        replica = stack.enter_context(RedisServer(tmp_path / "replica", *at_once, "--replicaof", *address))
        _until(lambda: master.command("WAIT", "1", "100") == b":1")
        watchers = [stack.enter_context(one) for one in sentinels(tmp_path, master)]
        _until(lambda: all("slaves=1,sentinels=3" in one.text("INFO", "sentinel") for one in watchers))
        url = f"redis+sentinel://{urls(watchers)}/jobs?prefix=x&replicas=1"
        watcher = RedisBackend(parse(url), BackendOptions())
        watcher.open(None)
        for n in range(FLOWS):
            watcher.push_part(Part(f"flow{n}"), _flow(f"flow{n}"), new_token())
        crew = _Crew(url, tmp_path / "ledger")
        for name in ("worker-0", "worker-1", "housekeeper"):
            crew.start(name)
        try:
            _until(lambda: sum(status.done for status in watcher.flows(10)) > FAN)
            master.kill()
            _until(lambda: _is_master(replica))
            master.start("--replicaof", "127.0.0.1", str(replica.port))
            for n in range(FLOWS):
                _until(lambda n=n: watcher.wait_flow(f"flow{n}", 1.0) is not None)
                assert crew.alive()
        finally:
            crew.stop()
        _checked(watcher, tmp_path / "ledger")


def _is_master(server: RedisServer) -> bool:
    """Return whether it has been promoted, which closes the connection of this call."""
    with contextlib.suppress(ConnectionError):
        return server.fact("role", "INFO", "replication") == "master"
    return False


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        with contextlib.suppress(BackendError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError("it did not happen within 60 s")
