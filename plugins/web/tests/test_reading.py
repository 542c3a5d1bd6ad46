"""The snapshot that all pages share: read beside the requests, waited for briefly, and never from before one's own change."""

from __future__ import annotations

import threading

import pytest

from jobs_core.operating.snapshot import Snapshot
from jobs_web import reading
from jobs_web.reading import Latest

PATIENCE = 60.0


class Backend:
    """Is read as often as it is let, and counts; each reading returns its number as `at`."""

    def __init__(self) -> None:
        self.let = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.readings = 0
        self.error: Exception | None = None

    def take(self) -> Snapshot:
        self.readings += 1
        self.begun.release()
        assert self.let.acquire(timeout=PATIENCE)
        if self.error is not None:
            raise self.error
        return Snapshot(float(self.readings))


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def latest(backend, monkeypatch):
    """One that was read once, and has been stale since."""
    monkeypatch.setattr(reading, "FRESH", 0.0)
    monkeypatch.setattr(reading, "SHARE", 0)
    monkeypatch.setattr(reading, "LONG_PATIENCE", PATIENCE)
    made = Latest(backend.take)
    backend.let.release()
    assert made.get().at == 1.0
    assert backend.begun.acquire(timeout=PATIENCE)
    yield made
    backend.let.release(100)


def test_a_page_shows_the_last_snapshot_while_a_newer_one_is_read(backend, latest):
    assert latest.get().at == 1.0
    assert latest.get().at == 1.0
    assert backend.begun.acquire(timeout=PATIENCE)
    assert backend.readings == 2
    backend.let.release()
    assert latest.get(None).at == 2.0


def test_a_page_shows_a_new_snapshot_if_it_is_there_soon(backend, latest):
    backend.let.release()
    assert latest.get(PATIENCE).at == 2.0


def test_many_visits_at_once_are_one_reading(backend, latest, monkeypatch):
    found, wait, begin = [], threading.Semaphore(0), latest._begin
    monkeypatch.setattr(latest, "_begin", lambda: (begin(), wait.release()))
    visits = [threading.Thread(target=lambda: found.append(latest.get(None).at)) for _ in range(50)]
    for visit in visits:
        visit.start()
    assert all(wait.acquire(timeout=PATIENCE) for _ in visits)  # the lock is theirs from there until they wait
    backend.let.release()
    for visit in visits:
        visit.join(PATIENCE)
    assert found == [2.0] * 50
    assert backend.readings == 2


def test_the_page_after_a_change_shows_it_even_if_a_reading_is_under_way(backend, latest):
    latest.begin()
    assert backend.begun.acquire(timeout=PATIENCE)  # the second reading has begun before the change
    latest.forget()
    backend.let.release(2)
    assert latest.get().at == 3.0


def test_an_old_snapshot_is_not_shown_if_a_new_one_can_be_had(backend, latest, monkeypatch):
    clock = reading.time.monotonic
    monkeypatch.setattr(reading.time, "monotonic", lambda: clock() + reading.OLD + 1)
    backend.let.release()
    assert latest.get(0.0).at == 2.0


def test_a_backend_that_hangs_leaves_the_last_snapshot(backend, latest, monkeypatch):
    monkeypatch.setattr(reading, "LONG_PATIENCE", 0.01)
    latest.forget()
    assert latest.get().at == 1.0


def test_a_fault_of_a_reading_is_raised_and_the_next_reading_may_succeed(backend, latest):
    backend.error = RuntimeError("a fault")
    backend.let.release()
    with pytest.raises(RuntimeError, match="a fault"):
        latest.get(None)
    backend.error = None
    backend.let.release()
    latest.forget()
    assert latest.get(None).at == 3.0


@pytest.mark.parametrize(
    ("takes", "again"),
    [(0.1, [100.0, 103.1, 106.1]), (0.9, [100.0, 104.9]), (60.0, [100.0, 166.0])],
    ids=["fast", "slow", "slowest"],
)
def test_a_backend_that_is_slow_to_count_is_asked_less_often(monkeypatch, takes, again):
    clock = [100.0]
    monkeypatch.setattr(reading.time, "monotonic", lambda: clock[0])
    taken = []

    def take() -> Snapshot:
        taken.append(clock[0])
        clock[0] += takes
        return Snapshot(clock[0])

    latest = Latest(take)
    for at in (100.0, 100.5 + takes, 103.0 + takes, 104.0 + takes, 106.0 + takes):
        clock[0] = at
        latest.get(None)
    assert taken == again
    latest.forget()
    latest.get(None)
    assert len(taken) == len(again) + 1
