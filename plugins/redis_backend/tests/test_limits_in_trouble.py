"""Limits and turns, while workers, the housekeeper and the server are killed: no slot leaks, and no job is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs_core.backends.base import BackendOptions, Outgoing
from jobs_core.backends.limits import Limit, Lines
from jobs_core.ids import new_id, new_token
from jobs_core.testing.services.redis import RedisServer
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse

pytestmark = pytest.mark.timeout(240)

JOBS = 300
FAULTS = 6

PROCESS = """
import sys, time
from jobs_core.backends.base import BackendOptions, Outcome, Settlement
from jobs_core.errors import BackendError, OwnerLost
from jobs_core.ids import new_token
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse

backend = RedisBackend(parse(sys.argv[1]), BackendOptions(lease=1.0))
owner = new_token() if sys.argv[2] == "worker" else None

def again(call):
    while True:
        try:
            return call()
        except OwnerLost:
            again(lambda: backend.open(owner))
            raise
        except BackendError:
            time.sleep(0.05)  # the server is down; a real worker waits in the same way

again(lambda: backend.open(owner))
print("ready", flush=True)
while sys.argv[2] == "housekeeper":
    again(lambda: backend.housekeep(100))
    time.sleep(0.1)  # as the supervisor pauses between two rounds
while True:
    reserve, settle = new_token(), new_token()
    try:
        held = again(lambda: backend.reserve_next(["t"], 3, reserve, 0.2))
        print(f"holds {len(held)}", flush=True)
        for number, one in enumerate(held):
            outcome, ran = (Outcome.DONE, True) if number % 3 < 2 else (Outcome.RELEASE, False)
            done = [Settlement(one.id, one.token, outcome, ran=ran)]
            again(lambda: backend.settle(done, f"{settle}{number}"))
            print("settled", flush=True)
    except OwnerLost:
        pass  # too slow for the lease: others have the jobs
"""


class _Crew:
    def __init__(self, url: str, log: Path) -> None:
        self._url, self._log, self._running = url, log, dict[str, subprocess.Popen[bytes]]()

    def start(self, name: str) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-c", PROCESS, self._url, name.partition("-")[0]]
            self._running[name] = subprocess.Popen(command, stdout=log)

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
    with RedisServer(tmp_path / "redis") as server:
        yield server


def test_kills_of_workers_housekeeper_and_server_leak_no_slot_and_lose_no_job(server, tmp_path):
    url = f"redis://127.0.0.1:{server.port}/0?prefix=x"
    watcher = RedisBackend(parse(url), BackendOptions())
    watcher.open(None)
    watcher.define_limits({"a": Limit(4), "r": Limit(None, 0.002, 5)}, {"t": Lines(True, 2)})
    jobs = [
        Outgoing(new_id(), "t", b"{}", key=f"k{n % 7}" if n % 8 else "", limits=(("a",), ("a", "r"), ())[n % 3])
        for n in range(JOBS)
    ]
    watcher.push(jobs, new_token())
    crew = _Crew(url, tmp_path / "log")
    for name in ("worker-0", "worker-1", "worker-2", "housekeeper"):
        crew.start(name)

    def left() -> int:
        counts = watcher.counts(["t"])["t"]
        used = {state.limit: state.used for state in watcher.limits(1000, ("a", "r", "key/t"))}
        assert used.get("a", 0) <= 4
        assert all(count <= 2 for limit, count in used.items() if limit.startswith("key/")), used
        return counts.ready + counts.limited + counts.reserved

    try:
        for fault in range(FAULTS):
            until = JOBS - (fault + 1) * JOBS // (FAULTS + 1)
            while left() > until:
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
        while left():
            assert crew.alive()
        assert watcher.counts(["t"])["t"].dead == 0
        assert not [state for state in watcher.limits(1000, ("a", "r", "key/t")) if state.used or state.waiting]
        assert watcher.lines("t", 10) == []
    finally:
        crew.stop()
        watcher.close()
