"""A job whose follow-up needs the payload store ends together with it, however long the store takes."""

from __future__ import annotations

import threading

import pytest

from jobs_core import App, job
from jobs_core.backends.memory import forget
from jobs_core.config import Config, Defaults, Payloads, Pool, Topic
from jobs_core.errors import PayloadStoreUnavailable
from jobs_core.ids import new_token
from jobs_core.plugins import Plugins
from jobs_core.registry import default_registry
from jobs_core.scoreboard.writer import Scoreboard
from jobs_core.testing import JobsQueue
from jobs_core.units import Duration, Size
from jobs_core.worker import pending_ends
from jobs_core.worker.main import Worker

from ...support.project import until

MODES = ["sync", "threads", "async"]
LONG = "x" * 5000


class Store:
    """Stands in for the store's calls: each is refused while `away`, and waits while `slow`. It notes the threads."""

    def __init__(self, store):
        self.put_blob, self.get_blob = store.put, store.get
        self.away = False
        self.slow = threading.Event()
        self.slow.set()
        self.tried = 0
        self.threads = set()

    def _ask(self):
        self.threads.add(threading.current_thread().name)
        self.tried += 1
        assert self.slow.wait(20)
        if self.away:
            raise PayloadStoreUnavailable("it is away")

    def put(self, name, data):
        self._ask()
        self.put_blob(name, data)

    def get(self, name, limit):
        self._ask()
        return self.get_blob(name, limit)


@pytest.fixture
def app(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(pending_ends, "FIRST_PAUSE", 0.005)
    url = f"memory://{new_token()}"
    payloads = Payloads(url=f"file://{tmp_path}/blobs?durability=process", above=Size(1000))
    settings = Config(backend=url, payloads=payloads, unknown_grace=Duration(0), max_redeliveries=1)
    app = App(settings, plugins=Plugins(), registry=registry)
    yield app
    app.close()
    forget(url)


@pytest.fixture
def store(app, monkeypatch):
    store = Store(app.payloads.store)
    monkeypatch.setattr(app.payloads.store, "put", store.put)
    monkeypatch.setattr(app.payloads.store, "get", store.get)
    return store


@pytest.fixture
def told(registry):
    ends = []

    @job(registry=registry, name="tell", retries=0)
    def tell(**facts: object) -> None:
        ends.append(facts)

    return ends


class Beats(Scoreboard):
    """The number of jobs that the worker has, as the supervisor sees it: without any, the worker counts as idle."""

    in_flight = 0

    def beat(self, done, failed, in_flight):
        self.in_flight = in_flight


class Running:
    """A worker on a thread."""

    def __init__(self, app, mode="sync"):
        self.board = Beats()
        pool = Pool(mode=mode, concurrency=1 if mode == "sync" else 2)
        self.worker = Worker(app, "w", pool, None, drain=True, board=self.board)
        if mode == "sync":  # runs its jobs in this thread: another watches the test
            self.thread = None
            return
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()

    def end(self):
        if self.thread is None:
            self.worker.run()
        else:
            self.thread.join(30)
            assert not self.thread.is_alive()
        assert self.worker.courier.failure is None


def counts(app):
    return app.operate(lambda backend: backend.counts(["default"]))["default"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["done", "dead"])
@pytest.mark.parametrize("acks", ["late", "early"])
def test_a_job_has_not_ended_until_its_follow_up_can_be_stored_and_runs_once(app, registry, store, told, mode, end, acks):
    ran = []

    @job(registry=registry, name="first", on_done="tell", on_dead="tell", retries=0, acks=acks)
    def first(text: str) -> str:
        ran.append(text)
        store.away = True
        if end == "dead":
            raise ValueError("no")
        return "result"

    app.enqueue(first.call(LONG))
    worker = Running(app, mode)
    seen = []

    def watch():
        before = store.tried
        until(lambda: ran and store.tried > before + 3)  # it asks again and again
        seen.append((counts(app).reserved, counts(app).dead, worker.board.in_flight))
        store.away = False

    watching = threading.Thread(target=watch)
    watching.start()
    worker.end()
    watching.join()
    assert seen == [(0 if acks == "early" else 1, 0, 1)]
    assert ran == [LONG]
    assert [(each["reason"], each["args"]) for each in told] == [("" if end == "done" else "failed", [LONG])]
    assert counts(app).dead == (end == "dead" and acks == "late")


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_releases_the_job_so_that_another_worker_enqueues_the_follow_up(app, registry, store, told, mode):
    ran = []

    @job(registry=registry, name="first", on_done="tell")
    def first(text: str) -> None:
        ran.append(text)
        store.away = len(ran) == 1

    app.enqueue(first.call(LONG))
    worker = Running(app, mode)

    def stop():
        before = store.tried
        until(lambda: store.away and store.tried > before + 3)
        worker.worker.courier.stop(0.01)

    stopping = threading.Thread(target=stop)
    stopping.start()
    worker.end()
    stopping.join()
    assert (counts(app).ready, counts(app).reserved, told) == (1, 0, [])
    store.away = False
    Running(app).end()
    assert (ran, len(told)) == ([LONG, LONG], 1)


@pytest.mark.parametrize("end", ["crashed", "expired", "unknown job", "bad payload"])
@pytest.mark.parametrize("where", ["job", "topic", "defaults"])
def test_the_courier_never_waits_for_the_store_to_say_which_arguments_a_job_had(app, registry, store, told, end, where):
    """Another job runs while the store does not answer."""
    ran = []
    named = {"on_dead": "tell"} if where == "job" and end != "unknown job" else {}
    if not named:
        topics = {"default": Topic(on_dead="tell")} if where == "topic" else {}
        defaults = Defaults(on_dead=None if where == "topic" else "tell")
        app.config = type(app.config)(**{**_fields(app.config), "topics": topics, "defaults": defaults})

    @job(registry=registry, name="first", **named)
    def first(text: str) -> None:
        ran.append(text)

    @job(registry=registry, name="other")
    def other() -> None:
        ran.append("other")
        store.slow.set()

    options = {"expires": 1e-6} if end == "expired" else {}
    handle = app.enqueue(first.using(**options).call(LONG))
    if end == "crashed":
        app.operate(_crash)
    elif end == "unknown job":
        registry._jobs.pop("first")
    elif end == "bad payload":
        [blob] = app.payloads.store.blobs()
        (app.payloads.store._directory / blob.name).write_bytes(b"damaged")
    app.enqueue(other.call())
    store.threads.clear()
    if end != "bad payload":  # there, the run reads the blob itself, before
        store.slow.clear()
    Running(app).end()
    assert ran == ["other"]
    assert [(each["id"], each["reason"]) for each in told] == [(handle.id, end)]
    assert told[0]["args"] == ([] if end == "bad payload" else [LONG])
    assert "jobs-courier" not in store.threads


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _crash(backend):
    backend.open("dies")
    [delivery] = backend.reserve(["default"], 1, new_token())
    backend.release_owner("dies", [delivery.id], b"")


def test_a_lost_job_is_not_settled_and_its_follow_up_not_sent(app, registry, store, told):
    ran = []

    @job(registry=registry, name="first", on_done="tell")
    def first(text: str) -> None:
        ran.append(text)
        store.away = True

    handle = app.enqueue(first.call(LONG))
    worker = Running(app)

    def lose():
        before = store.tried
        until(lambda: ran and store.tried > before + 3)
        worker.worker.courier._pending_ends.lose(handle.id)
        worker.worker.courier.stop(0.0)

    losing = threading.Thread(target=lose)
    losing.start()
    worker.end()
    losing.join()
    assert told == []


def test_tests_of_applications_enqueue_such_follow_ups_at_once(tmp_path):
    told = []

    @job(name="inline-tell")
    def tell(args: list[str]) -> None:
        told.append(args)

    @job(name="inline-first", on_done=tell)
    def first(text: str) -> None: ...

    with JobsQueue(Config(payloads=Payloads(url=f"file://{tmp_path}/blobs?durability=process", above=Size(1000)))) as queue:
        first.enqueue(LONG)
        queue.drain()
    for name in ("inline-tell", "inline-first"):
        default_registry._jobs.pop(name)
    assert told == [[LONG]]
