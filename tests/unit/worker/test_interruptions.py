"""The grace period of an interrupted run: time in which the process stood still does not count."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from jobs_core.worker.deadlines import Deadlines
from jobs_core.worker.interruptions import Interruptions

GRACE = 10.0


class Overdue(Deadlines):
    """The deadlines of one run, which is overdue from the start."""

    def __init__(self, run):
        super().__init__()
        self.runs = [run]

    def due(self, now):
        while self.runs:
            yield self.runs.pop()


@pytest.fixture
def run():
    run = SimpleNamespace(id="id", delivery=SimpleNamespace(id="id"), about=("id", "job", "t"), timeout=1.0, interrupted=None)
    run.policy = SimpleNamespace(step_timeout=None)
    run.started, run.ended, run.settlement, run.progress, run.error = 1.0, 0.0, None, None, None
    return run


@pytest.fixture
def interruptions(run):
    reservations = SimpleNamespace(deadlines=Overdue(run), runs={"id": run}, drop=lambda run: None, drop_decided=list)
    executor = SimpleNamespace(can_interrupt=lambda run: True, holder=lambda run: run, where=lambda run: "")
    executor.interrupt = lambda run, error: setattr(run, "interrupted", error)
    found = Interruptions(reservations, executor, GRACE)
    found.interrupt_overdue(1000.0)
    assert run.interrupted is not None
    return found


def test_a_run_that_ignores_its_interruption_is_ended_when_its_grace_is_over(interruptions, run):
    now = 1000.0
    while not run.ended:
        assert not interruptions.end_stubborn(now)[0] or run.ended == now
        assert now < 1000.0 + GRACE + 0.01
        now = interruptions.next()
    assert run.ended == pytest.approx(1000.0 + GRACE)


def test_the_time_in_which_the_machine_stood_still_does_not_end_a_run(interruptions, run):
    interruptions.end_stubborn(1001.0)
    for now in (1600.0, 1600.1, 1603.0):  # it stood still for ten minutes
        interruptions.end_stubborn(now)
        assert not run.ended
    assert interruptions.next() <= 1604.0, "it looks again before the grace can be over"


def test_a_run_that_holds_the_courier_up_all_the_time_is_ended_nevertheless(interruptions, run):
    for looks in itertools.count(1):
        interruptions.end_stubborn(1000.0 + 30.0 * looks)
        if run.ended:
            break
    assert looks <= 5
