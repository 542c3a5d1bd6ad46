"""What a job tells reaches its record while it runs and with its end, once; jobs that tell nothing are not concerned."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from jobs_core import Retry, current_job, job, set_current_app
from jobs_core.app import App
from jobs_core.backends.base import State
from jobs_core.backends.memory import MemoryBackend
from jobs_core.backends.notes import Note
from jobs_core.config import Config, Pool, Topic
from jobs_core.errors import BackendError, BackendUnavailable
from jobs_core.registry import default_registry
from jobs_core.runs import notebook
from jobs_core.worker.main import Worker

from ...support.project import PATIENCE, until

MODES = ("sync", "threads", "async")
KEPT = {"default": Topic(keep_done=3600, keep_logs=True, backoff=0.01)}


@pytest.fixture
def make_app(app, monkeypatch):
    """Return the application of the test with another configuration."""

    def make(config: Config) -> App:
        made = App(msgspec.structs.replace(config, backend=app.config.backend), plugins=app.plugins, registry=app.registry)
        set_current_app(made)
        made_apps.append(made)
        return made

    made_apps: list[App] = []
    yield make
    for made in made_apps:
        made.close()


@pytest.fixture(autouse=True)
def _jobs_of_the_test_alone(monkeypatch):
    monkeypatch.setattr(default_registry, "_jobs", {})
    monkeypatch.setattr(notebook, "_told_lost", False)


def serve(app: App, mode: str = "sync", *, while_it_runs: Callable[[], Any] | None = None, **options: Any) -> None:
    """Run a worker until nothing is left to do; call a function meanwhile."""
    worker = Worker(app, "p", Pool(mode=mode, concurrency=2), None, drain=True, **options)
    meanwhile = threading.Thread(target=while_it_runs or (lambda: None))
    meanwhile.start()
    worker.run()
    meanwhile.join()


def record(app: App, job_id: str) -> Any:
    return app.operate(lambda backend: backend.get(job_id))


def texts(found: Any) -> list[str]:
    return [msgspec.json.decode(line)["text"] for line in found.notes.lines]


@pytest.mark.parametrize("mode", MODES)
def test_progress_and_lines_are_seen_while_the_job_runs(make_app, registry, mode):
    app = make_app(Config())
    gate, seen = threading.Event(), []

    @job(registry=registry)
    def copy_pages() -> None:
        current_job().log("begins")
        current_job().progress(3, 10, "page 3")
        gate.wait(PATIENCE)

    handle = copy_pages.enqueue()

    def look() -> None:
        try:
            until(lambda: handle.progress().done == 3.0)
            seen.append((handle.progress(), texts(record(app, handle.id))))
        finally:
            gate.set()

    serve(app, mode, while_it_runs=look)
    ((progress, lines),) = seen
    assert (progress.state, progress.done, progress.total, progress.text) == (State.RESERVED, 3, 10, "page 3")
    assert (str(progress), progress.share, lines) == ("3 of 10 (30 %) page 3", 0.3, ["begins"])
    assert handle.progress().state is State.UNKNOWN


def test_notes_are_sent_twice_a_second_at_most_and_with_the_settlement(make_app, registry, monkeypatch):
    app = make_app(Config(topics=KEPT))
    calls: list[list[Note]] = []
    note = MemoryBackend.note
    monkeypatch.setattr(MemoryBackend, "note", lambda self, notes: (calls.append(list(notes)), note(self, notes))[1])

    @job(registry=registry)
    def count_up() -> None:
        for number in range(1000):
            current_job().progress(number + 1, 1000)
            current_job().log(f"line {number}")

    handle = count_up.enqueue()
    serve(app)
    assert len(calls) <= 2
    found = record(app, handle.id)
    assert texts(found) == [f"line {number}" for number in range(800, 1000)]
    assert msgspec.json.decode(found.notes.progress)["done"] == 1000


def test_a_call_without_an_answer_is_repeated_and_no_line_comes_twice(make_app, registry, monkeypatch):
    app = make_app(Config(topics=KEPT))
    note, lost = MemoryBackend.note, []

    def unanswered(self: MemoryBackend, notes: Any) -> None:
        note(self, notes)
        if len(lost) < 2:
            lost.append(notes)
            raise BackendUnavailable("the answer was lost")

    monkeypatch.setattr(MemoryBackend, "note", unanswered)
    told = threading.Event()

    @job(registry=registry)
    def tell_slowly() -> None:
        for number in range(3):
            current_job().log(f"line {number}")
            until(lambda number=number: len(lost) > min(number, 1))
        told.set()

    handle = tell_slowly.enqueue()
    serve(app)
    assert len(lost) == 2
    assert texts(record(app, handle.id)) == ["line 0", "line 1", "line 2"]


def test_a_backend_that_refuses_notes_stops_no_worker(make_app, registry, monkeypatch, caplog):
    app = make_app(Config(topics=KEPT))
    refused = threading.Event()

    def refuse(self: MemoryBackend, notes: Any) -> None:
        refused.set()
        raise BackendError("no room")

    monkeypatch.setattr(MemoryBackend, "note", refuse)

    @job(registry=registry)
    def tell() -> None:
        current_job().log("early")
        refused.wait(PATIENCE)
        current_job().log("late")

    handle = tell.enqueue()
    serve(app)
    assert texts(record(app, handle.id)) == ["late"]
    assert "progress and log lines of jobs cannot be stored" in caplog.text


def test_a_backend_without_notes_is_told_of_once_and_the_job_runs(make_app, registry, monkeypatch, caplog):
    monkeypatch.setattr(MemoryBackend, "features", MemoryBackend.features - {"notes", "history"})
    app = make_app(Config(topics=KEPT))
    ran = []

    @job(registry=registry)
    def tell() -> None:
        current_job().progress(1)
        current_job().log("x")
        ran.append(1)

    tell.enqueue()
    tell.enqueue()
    serve(app)
    assert ran == [1, 1]
    assert caplog.text.count("are not kept: the backend keeps none") == 1
    assert caplog.text.count("topics.default.keep_done: done jobs are not kept by this backend") == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_done_job_is_kept_with_the_story_of_its_runs(make_app, registry, mode):
    app = make_app(Config(topics=KEPT))
    runs = []

    @job(registry=registry)
    def flaky(number: int) -> None:
        runs.append(current_job().attempt)
        current_job().log(f"attempt {current_job().attempt}")
        if len(runs) == 1:
            raise Retry(delay=0.01)
        if len(runs) == 2:
            raise ValueError("not yet")

    handle = flaky.enqueue(7)
    serve(app, mode)
    found = record(app, handle.id)
    assert (found.state, app.read(found).args) == (State.DONE, [7])
    entries = [msgspec.json.decode(entry) for entry in found.timeline]
    assert [(entry["attempt"], entry["outcome"]) for entry in entries] == [(1, "retry"), (2, "retry"), (3, "done")]
    assert entries[1]["error"] == "ValueError: not yet"
    assert all(entry["began"] <= entry["ended"] and entry["pid"] and entry["host"] for entry in entries)
    assert texts(found) == ["attempt 1", "attempt 2", "attempt 3"]
    assert [each.id for each in app.operate(lambda backend: backend.browse("default", State.DONE, 10))] == [handle.id]


def test_a_kept_job_keeps_its_result_and_its_followups(make_app, registry):
    app = make_app(Config(topics=KEPT))
    followed = []

    @job(registry=registry)
    def after(result: int) -> None:
        followed.append(result)

    @job(registry=registry, store_result=True, on_done=after)
    def first() -> int:
        return 5

    handle = first.enqueue()
    serve(app)
    assert (handle.result(timeout=0), followed, handle.status()) == (5, [5], State.DONE)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_job_logs_and_prints_is_kept_with_it_and_nothing_else(make_app, registry, mode):
    app = make_app(Config(topics=KEPT))

    @job(registry=registry)
    def talk() -> None:
        logging.getLogger("app").warning("it is %s", "late")
        print("printed\nin two lines")

    handle = talk.enqueue()
    logging.getLogger("app").warning("outside")
    serve(app, mode)
    lines = [msgspec.json.decode(line) for line in record(app, handle.id).notes.lines]
    assert [(line["level"], line["text"]) for line in lines] == [
        ("warning", "it is late"), ("print", "printed"), ("print", "in two lines"),
    ]  # fmt: skip


def test_a_job_that_has_ended_tells_nothing_more(make_app, registry):
    app = make_app(Config(topics=KEPT))
    left = []

    @job(registry=registry)
    def leave() -> None:
        left.append(current_job())

    leave.enqueue()
    serve(app)
    with pytest.raises(RuntimeError, match="has ended"):
        left[0].log("too late")
    with pytest.raises(RuntimeError, match="has ended"):
        left[0].progress(1)


@pytest.mark.parametrize("done", [-1, float("nan"), float("inf"), "3", 10**400], ids=["-1", "nan", "inf", "text", "huge"])
def test_a_progress_is_a_number(make_app, registry, done):
    app = make_app(Config(topics={"default": Topic(retries=0)}))

    @job(registry=registry)
    def tell() -> None:
        current_job().progress(done)

    handle = tell.enqueue()
    serve(app)
    assert b"progress: done: expected a number from 0" in record(app, handle.id).errors[-1]


class Metres(float):
    """A number of a library."""


@pytest.mark.parametrize("done", [True, 2**80, 10**300, Metres(1.5)], ids=["bool", "big", "bigger", "subclass"])
def test_every_number_that_is_told_can_be_read(make_app, registry, done):
    app = make_app(Config(topics={"default": Topic(keep_done=3600)}))

    @job(registry=registry)
    def tell() -> None:
        current_job().progress(done, 10**300)

    handle = tell.enqueue()
    serve(app)
    told = handle.progress()
    assert (told.state, told.done, told.total) == (State.DONE, float(done), 1e300)
    assert "of 1e+300" in str(told)


@pytest.mark.parametrize(
    "stored", [b'{"done":true,"total":true}', b'{"done":1' + b"0" * 400 + b',"total":5}', b'{"done":"x"}', b"\xff"],
    ids=["bool", "huge", "text", "bytes"],
)  # fmt: skip
def test_a_stored_progress_that_makes_no_sense_fails_no_reader(make_app, registry, stored):
    app = make_app(Config(topics=KEPT))

    @job(registry=registry)
    def tell() -> None: ...

    handle = tell.enqueue()
    backend = app.new_backend()
    backend.open("w")
    [held] = backend.reserve(["default"], 1, "request")
    backend.note([Note(held.id, held.token, stored, ())])
    assert handle.progress().state is State.RESERVED
    assert isinstance(str(handle.progress()), str)
    backend.close()


def test_a_progress_may_be_a_text_alone(make_app, registry):
    app = make_app(Config(topics={"default": Topic(keep_done=3600)}))

    @job(registry=registry)
    def tell() -> None:
        current_job().progress(None, text="nearly there")  # type: ignore[arg-type]

    handle = tell.enqueue()
    serve(app)
    told = handle.progress()
    assert (told.state, told.done, told.total, told.text) == (State.DONE, None, None, "nearly there")


def test_notes_of_encrypted_jobs_are_encrypted(make_app, registry):
    app = make_app(Config(encryption_keys=["k1:0123456789abcdef0123456789abcdef"], topics=KEPT))

    @job(registry=registry)
    def secret() -> None:
        current_job().progress(1, 2, "card 4711")
        current_job().log("card 4711")

    handle = secret.enqueue()
    serve(app)
    found = record(app, handle.id)
    assert b"4711" not in found.notes.progress + b"".join(found.notes.lines)
    assert handle.progress().text == "card 4711"
    assert b"4711" in app.payloads.unpack_note(handle.id, found.notes.lines[0])


def test_following_ends_with_the_job_and_shows_each_change(make_app, registry):
    app = make_app(Config(topics=KEPT))
    steps = [threading.Event(), threading.Event()]

    @job(registry=registry)
    def walk() -> None:
        current_job().progress(1, 2)
        steps[0].wait(PATIENCE)
        current_job().progress(2, 2)
        steps[1].wait(PATIENCE)

    handle = walk.enqueue()
    seen = []

    def follow() -> None:
        for progress in handle.progress():
            seen.append((progress.state, progress.done))
            for number, step in enumerate(steps):
                if progress.done == number + 1:
                    step.set()

    serve(app, while_it_runs=follow)
    assert seen[-1] == (State.DONE, 2)
    assert (State.RESERVED, 1) in seen
    assert (State.RESERVED, 2) in seen


def test_following_from_an_event_loop(make_app, registry):
    app = make_app(Config(topics=KEPT))

    @job(registry=registry)
    def walk() -> None:
        current_job().progress(2, 2)

    handle = walk.enqueue()
    working = threading.Thread(target=serve, args=(app, "threads"))
    working.start()

    async def follow() -> list[Any]:
        return [(progress.state, progress.done) async for progress in await handle.aprogress()]

    seen = asyncio.run(follow())
    working.join()
    assert seen[-1] == (State.DONE, 2)


def test_a_worker_that_lost_its_jobs_forgets_their_notes(make_app, registry):
    app = make_app(Config(topics=KEPT))
    held, gate = [], threading.Event()

    @job(registry=registry)
    def hold() -> None:
        current_job().log("x")
        held.append(current_job())
        gate.wait(PATIENCE)

    hold.enqueue()
    worker = Worker(app, "p", Pool(), None)

    def lose() -> None:
        until(lambda: held)
        app.operate(lambda backend: backend.release_owner(worker.owner, [held[0].id], b"{}"))
        worker.courier.stop()
        until(lambda: worker.courier.owner != worker.owner)
        gate.set()

    losing = threading.Thread(target=lose)
    losing.start()
    worker.run()
    losing.join()
    assert worker.courier._notebook.runs == {}
