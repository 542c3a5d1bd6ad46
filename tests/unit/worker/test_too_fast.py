"""A job that succeeds sooner than it can have done its work is reported: not for each run, but with their number."""

from __future__ import annotations

import pytest

from jobs_core import JobDefinitionError, job
from jobs_core.events import JobTooFast
from jobs_core.registry import Registry
from jobs_core.worker import too_fast


class Clock:
    """A clock that only the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class _Run:
    def __init__(self, name):
        self.delivery = type("Delivery", (), {"topic": "mail"})
        self.job = type("Job", (), {"name": name})
        self.policy = type("Policy", (), {"min_time": 2.0})
        self.about = ("id", name, "mail", 1)
        self.started, self.ended = 5.0, 5.01


def test_a_job_is_reported_at_once_and_then_once_a_minute_with_the_others(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(too_fast, "time", clock)
    watch = too_fast.TooFast()
    assert watch.report(_Run("send")).more == 0
    for _ in range(7):
        clock.now += 1
        assert watch.report(_Run("send")) is None
    assert watch.report(_Run("other")).more == 0, "each job has its own"
    clock.now += 60
    assert watch.report(_Run("send")).more == 7
    clock.now += 60
    assert watch.report(_Run("send")).more == 0


@pytest.mark.parametrize(("more", "told"), [(0, ""), (1, ", like another one"), (1234, ", like 1,234 others")])
def test_the_event_says_what_is_suspicious(more, told):
    event = JobTooFast("7", "shop.send", "mail", 1, 0.01, 2.0, more)
    assert str(event) == (
        f"shop.send 7 in topic mail finished in 10ms{told}: sooner than its min_time of 2s, so it may not have done its work"
    )


@pytest.mark.parametrize("value", [-1, "soon", []])
def test_min_time_is_a_duration(value):
    with pytest.raises(JobDefinitionError, match="min_time"):
        job(min_time=value, registry=Registry())(lambda: None)
