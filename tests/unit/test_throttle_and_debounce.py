"""`Unique.throttle` and `Unique.debounce`: recipes of unique keys, as an application sees them."""

import re

import pytest

from jobs_core import App, Config, JobDefinitionError, NotSupported, Unique, job
from jobs_core.backends.base import FEATURES, State
from jobs_core.backends.memory import MemoryBackend
from jobs_core.plugins import Plugins
from jobs_core.registry import Registry, default_registry
from jobs_core.testing import JobsQueue


@pytest.fixture
def queue():
    before = dict(default_registry._jobs)
    with JobsQueue() as queue:
        yield queue
    default_registry._jobs.clear()
    default_registry._jobs.update(before)


def note(ran, unique):
    @job(name="note", unique=unique)
    def note(*args: int) -> None:
        ran.append(args)

    return note


def test_throttle_lets_one_job_through_in_each_period(queue):
    ran = []
    throttled = note(ran, Unique.throttle("10m", key="one"))
    assert [throttled.enqueue(n).created for n in range(3)] == [True, False, False]
    queue.drain()
    assert [throttled.enqueue(n).created for n in range(3)] == [False, False, False]  # it has ended, and counts
    queue.travel("10m")
    assert throttled.enqueue(9).created
    queue.drain()
    assert ran == [(0,), (9,)]


def test_throttle_counts_calls_with_the_same_arguments(queue):
    throttled = note([], Unique.throttle("10m"))
    assert [throttled.enqueue(n).created for n in (1, 2, 1, 2)] == [True, True, False, False]


def test_the_last_arguments_of_debounced_jobs_win(queue):
    ran = []
    debounced = note(ran, Unique.debounce("30s"))
    handles = []
    for n in range(5):
        handles.append(debounced.enqueue(n))
        queue.travel(29)
        queue.drain()
    assert (ran, [handle.status() for handle in handles]) == ([], [State.CANCELLED] * 4 + [State.SCHEDULED])
    queue.travel(1)
    queue.drain()
    assert ran == [(4,)]
    assert all(handle.created for handle in handles)


def test_debounced_jobs_are_due_after_the_longest_time(queue):
    ran = []
    debounced = note(ran, Unique.debounce("30s", longest="1m"))
    for n in range(12):  # one each 10 s
        debounced.enqueue(n)
        queue.travel(10)
        queue.drain()
    assert ran == [(5,), (11,)]


def test_a_key_distinguishes_debounced_jobs(queue):
    ran = []

    @job(name="note", unique=Unique.debounce("30s", key="{shop}"))
    def note(shop: int, changed: int) -> None:
        ran.append((shop, changed))

    for shop, changed in (1, 1), (2, 1), (1, 2), (2, 2):
        note.enqueue(shop, changed)
    queue.travel(30)
    queue.drain()
    assert sorted(ran) == [(1, 2), (2, 2)]


def test_a_debounced_job_that_runs_is_not_replaced(queue):
    ran = []

    @job(name="note", unique=Unique.debounce("30s", longest="1m"))
    def note(n: int) -> None:
        ran.append(n)
        if n == 1:
            note.enqueue(2)
            note.enqueue(3)

    note.enqueue(1)
    queue.travel(30)
    queue.drain()
    assert ran == [1]
    queue.travel(30)
    queue.drain()
    assert ran == [1, 3]


def test_the_envelope_of_other_unique_keys_is_as_before(queue):
    note([], Unique(scope="queued")).enqueue()
    (record,) = queue.app.operate(lambda backend: backend.browse("default", State.READY, 1))
    assert b"longest" not in record.payload
    assert b"wait" not in record.payload


@pytest.mark.parametrize(
    ("unique", "part"),
    [
        (lambda: Unique.debounce("soon"), "expected a duration"),
        (lambda: Unique.debounce("30s", longest="soon"), "expected a duration"),
        (lambda: Unique.debounce("30s", longest="10s"), "longest: expected at least the wait of 30s, got 10s"),
        (lambda: Unique.debounce("30s", key=5), "key: expected a string or a function"),
        (lambda: Unique.debounce("30s", key="{nothing}"), "names {nothing}, which is not a parameter"),
        (lambda: Unique.throttle("soon"), "expected a duration"),
        (lambda: Unique(wait=5), "use Unique.debounce(...)"),
        (lambda: Unique(longest=5), "use Unique.debounce(...)"),
        (lambda: Unique(scope="queued", conflict="replace", longest=5), "use Unique.debounce(...)"),
    ],
)
def test_recipes_that_cannot_work_are_refused_when_the_job_is_defined(unique, part):
    with pytest.raises(JobDefinitionError, match=f"^f: unique: .*{re.escape(part)}"):
        job(name="f", registry=Registry(), unique=unique())(lambda: None)


def test_debounce_refuses_another_delay(queue):
    debounced = note([], Unique.debounce("30s"))
    with pytest.raises(JobDefinitionError, match="note: unique: Unique.debounce sets the delay of the job"):
        debounced.using(delay=5).enqueue()
    with pytest.raises(JobDefinitionError, match="Unique.debounce sets the delay"):
        debounced.using(at=queue.now).enqueue()
    debounced.using(unique=None, delay=5).enqueue()


def test_a_backend_without_the_feature_refuses_a_limit_and_nothing_else(registry, monkeypatch):
    app = App(Config(backend="memory://narrow"), plugins=Plugins(), registry=registry)
    monkeypatch.setattr(MemoryBackend, "features", FEATURES - {"debounce"})
    from jobs_core import set_current_app

    set_current_app(app)
    limited = job(name="limited", registry=registry, unique=Unique.debounce("30s", longest="5m"))(lambda: None)
    plain = job(name="plain", registry=registry, unique=Unique.debounce("30s"))(lambda: None)
    for _ in range(2):
        with pytest.raises(NotSupported, match="memory:// does not support debounce: leave out longest"):
            limited.enqueue()
    assert plain.enqueue().created
    set_current_app(None)
    app.close()
