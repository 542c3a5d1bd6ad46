"""Pages follow what happens, at a cost for the backend that does not depend on how many watch."""

from __future__ import annotations

import asyncio
import time

import pytest

from jobs_core.backends.base import Counts
from jobs_core.operating.snapshot import Snapshot
from jobs_web import live
from jobs_web.live import Live, digest

CHANGE = b"event: change\ndata: \n\n"


class Backend:
    """Counts how often it is read; `ready` is what it holds."""

    def __init__(self) -> None:
        self.reads = 0
        self.ready = 0

    def snapshot(self) -> Snapshot:
        self.reads += 1
        return Snapshot(time.time(), {"default": Counts(self.ready, oldest_age=time.time())})


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    monkeypatch.setattr(live, "QUIET", 3600.0)


def test_two_hundred_watchers_cost_one_reader_and_all_are_told():
    backend = Backend()

    async def watched() -> None:
        made = Live(backend.snapshot)
        streams = [made.events() for _ in range(200)]
        for stream in streams:
            assert (await anext(stream)).startswith(b"retry")
        waits = [asyncio.create_task(anext(stream)) for stream in streams]
        await until(lambda: backend.reads >= 3)
        assert made.watchers == 200
        assert not any(wait.done() for wait in waits)  # nothing but ages has changed
        backend.ready = 1
        before = backend.reads
        assert set(await asyncio.gather(*waits)) == {CHANGE}
        assert backend.reads - before < 200
        for stream in streams:
            await stream.aclose()
        assert made.watchers == 0
        await asyncio.sleep(0)
        reads = backend.reads
        await asyncio.sleep(0.1)
        assert backend.reads - reads <= 1  # one may have been under way

    asyncio.run(asyncio.wait_for(watched(), 60))


def test_a_stream_ends_after_a_while_so_that_its_user_is_looked_up_again(monkeypatch):
    monkeypatch.setattr(live, "LONGEST", 0.0)

    async def all_of() -> list[bytes]:
        return [event async for event in Live(Backend().snapshot).events()]

    assert asyncio.run(asyncio.wait_for(all_of(), 60)) == [b"retry: 2000\n\n"]


def test_only_what_a_page_shows_is_a_change():
    counts = {"default": Counts(1, oldest_age=1.0)}
    assert digest(Snapshot(1.0, counts)) == digest(Snapshot(2.0, {"default": Counts(1, oldest_age=2.0)}))
    assert digest(Snapshot(1.0, counts)) != digest(Snapshot(1.0, {"default": Counts(2, oldest_age=1.0)}))
    assert digest(Snapshot(1.0, counts)) != digest(Snapshot(1.0, counts, frozenset({"default"})))


def test_too_many_streams_are_refused(rig, monkeypatch):
    monkeypatch.setattr(live, "MOST", 0)
    response = rig.browser("read").get("/live")
    assert response.status_code == 503


def test_the_stream_needs_a_user(rig):
    assert rig.browser().get("/live").status_code == 303
