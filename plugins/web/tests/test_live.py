"""Pages follow what happens, at a cost for the backend that does not depend on how many watch."""

from __future__ import annotations

import asyncio
import html
import itertools
import re
import time
from urllib.parse import parse_qsl

import pytest
from starlette.requests import Request

from jobs_core import JobsError
from jobs_core import job as define
from jobs_core.backends.base import Counts, JobRecord, State
from jobs_core.backends.flows import FlowStatus
from jobs_core.backends.limits import LimitState
from jobs_core.operating.snapshot import Snapshot
from jobs_web import live
from jobs_web.errors import Refused
from jobs_web.live import Live, Subject, digest
from jobs_web.pages import flows, job, limits
from jobs_web.pages.watched import PAGES
from jobs_web.visit import Visit

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


def job_of(rig):
    @define(name="add", registry=rig.app.registry)
    def add(number: int) -> None: ...

    return add


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


def test_two_hundred_watchers_of_a_job_cost_one_reading_a_round_and_their_pages_none():
    job, other = Subject("job", "1"), Subject("job", "2")
    values, reads = {job: 0, other: 0}, []

    def read(subject):
        reads.append(subject)
        return values[subject]

    async def watched() -> None:
        made = Live(Backend().snapshot, read)
        streams = [made.events(job) for _ in range(200)]
        bystander = made.events(other)
        for stream in [*streams, bystander]:
            assert (await anext(stream)).startswith(b"retry")
        waits = [asyncio.create_task(anext(stream)) for stream in streams]
        waiting = asyncio.create_task(anext(bystander))
        await until(lambda: reads.count(job) >= 3)
        values[job], before = 1, reads.count(job)
        assert set(await asyncio.gather(*waits)) == {CHANGE}
        assert reads.count(job) - before < 10
        assert made.found(job) == 1  # what all their pages are made from
        assert not waiting.done()
        made.forget()
        assert made.found(job) is None  # a user has changed something: the next page reads for itself
        await until(lambda: made.found(job) == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for stream in [*streams, bystander]:
            await stream.aclose()
        assert (made.watchers, made.found(job)) == (0, None)

    asyncio.run(asyncio.wait_for(watched(), 60))


def test_more_subjects_than_are_read_follow_the_snapshot(monkeypatch):
    monkeypatch.setattr(live, "MOST_SUBJECTS", 3)
    backend, reads = Backend(), set()

    def read(subject):
        reads.add(subject.name)
        return 0

    async def watched() -> None:
        made = Live(backend.snapshot, read)
        streams = [made.events(Subject("job", str(number))) for number in range(5)]
        for stream in streams:
            await anext(stream)
        waits = [asyncio.create_task(anext(stream)) for stream in streams]
        await until(lambda: backend.reads >= 3)
        backend.ready = 1
        await asyncio.gather(*waits[3:])
        assert not any(wait.done() for wait in waits[:3])
        assert reads == {"0", "1", "2"}
        for wait in waits[:3]:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(asyncio.wait_for(watched(), 60))


def test_an_error_is_a_change_and_the_reader_goes_on():
    answers = [0, 0, JobsError("gone"), JobsError("gone"), 0, ZeroDivisionError(), 1]
    job = Subject("job", "1")

    def read(subject):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def watched() -> list[bytes]:
        stream = Live(Backend().snapshot, read).events(job)
        return [await anext(stream) for _ in range(4)]

    assert asyncio.run(asyncio.wait_for(watched(), 60)) == [b"retry: 2000\n\n", CHANGE, CHANGE, CHANGE]


def test_times_that_go_on_are_no_change_of_a_job_a_limit_or_a_flow():
    record = JobRecord("1", "default", State.READY, broker_now=1.0)
    later = JobRecord("1", "default", State.READY, broker_now=2.0)
    assert job.still(job.Seen(record, ["ready for 5 s"])) == job.still(job.Seen(later, ["ready for 16 s"]))
    assert job.still(job.Seen(record, ["it is ready"])) != job.still(job.Seen(record, ["it is paused"]))
    assert flows.still_list([FlowStatus("f", "done", broker_now=1.0)]) == flows.still_list([FlowStatus("f", "done")])
    assert limits.still([LimitState("a", opens_in=1.0)]) == limits.still([LimitState("a", opens_in=2.0)])
    assert limits.still([LimitState("a", used=1)]) != limits.still([LimitState("a", used=2)])


def test_a_subject_that_takes_long_to_read_is_left_alone_for_four_times_as_long():
    slow, quick, reads = Subject("jobs", "slow"), Subject("jobs", "quick"), []

    def read(subject):
        began = time.monotonic()
        if subject == slow:
            time.sleep(0.1)
        reads.append((subject, began))
        return 0

    async def watched() -> None:
        made = Live(Backend().snapshot, read)
        streams = [made.events(slow), made.events(quick)]
        for stream in streams:
            await anext(stream)
        await until(lambda: [subject for subject, _ in reads].count(slow) >= 3)
        assert made.found(slow) == 0, "what was read stays good until it is read again"
        for stream in streams:
            await stream.aclose()

    asyncio.run(asyncio.wait_for(watched(), 60))
    begins = [at for subject, at in reads if subject == slow]
    assert all(later - earlier >= 0.5 for earlier, later in itertools.pairwise(begins))
    assert [subject for subject, _ in reads].count(quick) > 3


def test_pages_that_are_watched_are_made_from_what_the_reader_has_found(rig, monkeypatch):
    subject = rig.site.subject("limits", "")
    monkeypatch.setattr(rig.site.live, "found", {subject: [LimitState("known:only-to-the-reader")]}.get)
    assert "known:only-to-the-reader" in rig.browser("read").text("/limits")
    assert rig.site.subject("nonsense", "x") == live.SNAPSHOT


def test_a_list_of_jobs_is_followed_and_a_search_is_not(rig):
    browser = rig.browser("read")
    add = job_of(rig)
    for number in range(3):
        add.enqueue(number)
    followed = re.search(r'data-live="/live\?([^"]+)"', browser.text("/jobs?topic=default"))
    page, name = (value for _, value in parse_qsl(html.unescape(followed[1])))
    assert (page, name) == ("jobs", "0 ready default")
    seen = rig.site.read(page, name)
    assert len(seen.found) == 3
    add.enqueue(4)
    assert PAGES[page].still(rig.site.read(page, name)) != PAGES[page].still(seen)
    assert "data-live" not in browser.text("/jobs?topic=default&job=x")
    assert 'data-live="/live?page=stats"' in browser.text("/stats")


@pytest.mark.parametrize("name", ["", "0", "0 ready", "0 nonsense default", "x ready default", "99999999 ready default"])
def test_a_name_that_no_list_has_is_refused(rig, name):
    with pytest.raises(Refused):
        rig.site.read("jobs", name)


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


def test_one_user_leaves_streams_for_others(rig, monkeypatch):
    monkeypatch.setattr(live, "MOST", 4)
    made = rig.site.live
    greedy = rig.browser("read")

    async def watched() -> None:
        streams = [made.events(user="read") for _ in range(3)]
        assert [await anext(stream, b"refused") for stream in streams] == [b"retry: 2000\n\n"] * 2 + [b"refused"]
        response = await asyncio.to_thread(greedy.get, "/live")
        assert response.status_code == 429
        assert "read already has 2 open streams" in response.text
        made.check("operate")  # a place is left
        for stream in streams:
            await stream.aclose()
        made.check("read")

    asyncio.run(asyncio.wait_for(watched(), 60))


def test_a_stream_ends_with_the_session_of_its_user(rig, monkeypatch):
    monkeypatch.setattr(live, "ALLOWED_FOR", 0.0)
    monkeypatch.setattr(live, "QUIET", 0.01)
    allowed = iter([True, True, False])

    async def still() -> bool:
        return next(allowed)

    async def all_of() -> list[bytes]:
        return [event async for event in Live(Backend().snapshot).events(is_allowed=still)]

    assert asyncio.run(asyncio.wait_for(all_of(), 60)) == [b"retry: 2000\n\n", CHANGE, CHANGE]


@pytest.mark.parametrize("end", ["logout", "token"])
def test_a_user_whose_session_has_ended_is_no_longer_allowed(rig, end):
    browser = rig.browser("read")
    request = Request({"type": "http", "headers": [(b"cookie", f"jobs_session={browser.cookies['jobs_session']}".encode())]})
    session = rig.site.access.session_of(request)
    user = asyncio.run(rig.site.access.user_of(request, session))
    visit = Visit(rig.site, request, session, user, {})
    assert user is not None
    assert asyncio.run(visit.is_still_allowed())
    if end == "logout":
        rig.site.sessions.end_of(session.nonce)
    else:
        del rig.site.settings.tokens["read"]
    assert not asyncio.run(visit.is_still_allowed())


def test_the_stream_needs_a_user(rig):
    assert rig.browser().get("/live").status_code == 303
