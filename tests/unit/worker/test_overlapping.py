"""The courier of a backend whose server settles while it decodes: the order of its calls, and what must not be lost."""

from __future__ import annotations

import pytest

from jobs_core import App, Retry, job, set_current_app
from jobs_core.backends.memory import MemoryBackend, forget
from jobs_core.config import Config, Pool
from jobs_core.errors import BackendUnavailable
from jobs_core.plugins import Plugins
from jobs_core.worker import overlapping
from jobs_core.worker.courier import Courier
from jobs_core.worker.decoder import Decoder
from jobs_core.worker.main import Worker
from jobs_core.worker.overlapping import MANY, OverlappingCourier

JOBS = 4000
URL = "memory://overlapping"


class Overlapping(MemoryBackend):
    """A backend that can begin to settle what is plain, and notes its calls."""

    overlaps = True
    fails = refuses = False

    def __init__(self, url, options):
        super().__init__(url, options)
        self.calls = []
        self.begun = {}
        self.most_begun = 0

    def reserve(self, topics, limit, request):
        deliveries = super().reserve(topics, limit, request)
        self.calls.append(("reserve", len(deliveries)))
        return deliveries

    def begin_settle(self, settlements, request):
        self.calls.append(("begin", len(settlements)))
        if self.refuses:
            return False
        if self.fails:
            raise BackendUnavailable("it was cut off")
        self.begun[request] = super().settle(settlements, request)
        self.most_begun = max(self.most_begun, len(self.begun))
        return True

    def settle(self, settlements, request):
        self.calls.append(("end" if request in self.begun else "settle", len(settlements)))
        if request in self.begun:
            return self.begun.pop(request)
        return super().settle(settlements, request)


@pytest.fixture
def app(registry, monkeypatch):
    app = App(Config(backend=URL), plugins=Plugins(), registry=registry)
    set_current_app(app)
    options = app.new_backend()._options
    app.made = []

    def new_backend():
        app.made.append(Overlapping(URL, options))
        return app.made[-1]

    monkeypatch.setattr(app, "new_backend", new_backend)
    accept = Decoder.accept

    def noting(decoder, delivery):
        calls = app.made[-1].calls
        if not calls or calls[-1][0] != "decode":
            calls.append(("decode", 1))
        return accept(decoder, delivery)

    monkeypatch.setattr(Decoder, "accept", noting)
    yield app
    set_current_app(None)
    app.close()
    forget(URL)


def run(app, registry, jobs=JOBS, retried=(), **facts):
    """Run jobs in one worker that stops when the last one runs; return its backend and the numbers of the jobs that ran."""
    done = []

    @job(registry=registry, name="note", backoff=0.0)
    def note(number: int) -> None:
        done.append(number)
        if len(done) == jobs + len(retried):
            worker.courier.stop()
        if number in retried and done.count(number) == 1:
            raise Retry

    note.enqueue_many([(number,) for number in range(jobs)])
    worker = Worker(app, "p", Pool(), None)
    backend = app.made[-1]
    vars(backend).update(facts)
    worker.run()
    left = app.operate(lambda store: store.counts(["default"])).get("default")
    assert left is None or (left.ready, left.reserved) == (0, 0)
    assert {number: done.count(number) for number in done} == {number: 1 + (number in retried) for number in range(jobs)}
    return backend


def names(backend):
    return [name for name, _ in backend.calls]


def test_settlements_are_on_their_way_while_the_next_jobs_are_decoded(app, registry):
    backend = run(app, registry)
    calls = names(backend)
    assert calls.count("begin") >= 2
    for number, name in enumerate(calls):
        if name == "begin":
            assert calls[number - 1] == "reserve"
            assert calls[number + 1 : number + 3] == ["decode", "end"]
    assert backend.most_begun == 1


def test_a_stop_waits_for_the_answer_and_settles_the_rest(app, registry):
    backend = run(app, registry)
    assert not backend.begun
    settled = sum(count for name, count in backend.calls if name in ("end", "settle"))
    assert settled == JOBS


def test_few_settlements_are_sent_before_more_jobs_are_reserved(app, registry):
    backend = run(app, registry, jobs=MANY - 1)
    assert "begin" not in names(backend)


def test_a_batch_that_cannot_be_begun_is_settled_at_once_and_so_are_those_after_it(app, registry, monkeypatch):
    monkeypatch.setattr(overlapping, "REFUSED_FOR", 3600.0)
    calls = names(run(app, registry, refuses=True))
    assert calls.count("begin") == 1
    first = calls.index("begin")
    assert calls[first + 1 : first + 3] == ["decode", "settle"]


def test_settlements_that_could_not_be_sent_are_sent_again_and_no_job_that_came_is_lost(app, registry):
    calls = names(run(app, registry, fails=True))
    assert "begin" in calls
    assert "end" not in calls


def test_jobs_that_are_retried_are_settled_with_the_others(app, registry):
    run(app, registry, retried=range(0, JOBS, 50))


def test_a_quiet_worker_settles_what_it_has_and_reserves_no_more(app, registry):
    done = []

    @job(registry=registry, name="note")
    def note(number: int) -> None:
        done.append(number)
        if number == JOBS // 2:
            worker.courier.quiet()

    note.enqueue_many([(number,) for number in range(JOBS)])
    worker = Worker(app, "p", Pool(), None)
    backend = app.made[-1]

    def wait(topics, timeout):
        """Look at the store when the courier has nothing left to do, and let it stop."""
        if worker.courier._quiet and not worker.courier._reservations.runs:
            counts = app.operate(lambda store: store.counts(["default"]))["default"]
            seen.append((counts.ready, counts.reserved, len(backend.begun)))
            worker.courier.stop()
        return MemoryBackend.wait(backend, topics, timeout)

    seen = []
    backend.wait = wait
    worker.run()
    assert seen[0] == (JOBS - len(done), 0, 0)
    assert JOBS // 2 < len(done) < JOBS


@pytest.mark.parametrize(
    ("overlaps", "drain", "kind"), [(True, False, OverlappingCourier), (True, True, Courier), (False, False, Courier)]
)
def test_only_a_serving_worker_of_a_backend_that_says_so_overlaps(app, monkeypatch, overlaps, drain, kind):
    monkeypatch.setattr(Overlapping, "overlaps", overlaps)
    worker = Worker(app, "p", Pool(), None, drain=drain)
    assert type(worker.courier) is kind


def test_a_backend_overlaps_only_if_it_says_so():
    assert MemoryBackend.overlaps is False
