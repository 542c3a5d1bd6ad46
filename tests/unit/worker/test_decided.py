"""The outcome of a run is decided once, and everything else is told that decision."""

import asyncio
from typing import ClassVar

import pytest

from jobs_core import Discard, Retry, Snooze, current_job, hookimpl, job
from jobs_core.backends.base import CANCELLED_TTL, BackendOptions, Delivery, Outcome
from jobs_core.backends.memory import MemoryBackend
from jobs_core.config import Pool
from jobs_core.errors import JobCancelled, JobTimeout
from jobs_core.message import Message
from jobs_core.options import Backoff, Policy
from jobs_core.plugins import PluginInfo
from jobs_core.runs import outcome
from jobs_core.runs.run import Run
from jobs_core.worker.main import Worker

MODES = ["sync", "threads", "async"]

ENDS = {
    "done": (None, Outcome.DONE),
    "stored": (None, Outcome.DONE),
    "error": (ValueError("no"), Outcome.RETRY),
    "exit": (SystemExit(1), Outcome.RETRY),
    "retry": (Retry(delay=5), Outcome.RETRY),
    "wrong delay": (Snooze("nonsense"), Outcome.RETRY),
    "snooze": (Snooze("1h"), Outcome.DEFER),
    "discard": (Discard("enough"), Outcome.DEAD),
    "cancelled": (JobCancelled("stop"), Outcome.CANCELLED),
}


def made(error=None, *, interrupted=None, attempt=0, retries=3):
    delivery = Delivery("id", "t", b"", 7, attempt, 0, 0, 0, 100.0, 200.0)
    run = Run(delivery, Message(v=1, topic="t", job="f"), None, Policy(retries, None, False, Backoff(), "late", 60.0), [], {})
    run.error, run.interrupted, run.started, run.ended = error, interrupted, 1.0, 2.0
    return run


@pytest.mark.parametrize("attempt", [0, 3])
@pytest.mark.parametrize("interrupted", [None, JobTimeout("late"), JobCancelled("stop")], ids=["", "timeout", "cancel"])
@pytest.mark.parametrize(
    "error",
    [*(error for error, _ in ENDS.values() if error is not None), asyncio.CancelledError(), JobTimeout("late"), Retry()],
    ids=repr,
)
def test_a_job_can_ask_whether_an_error_is_final_and_gets_the_later_decision(error, interrupted, attempt):
    final = outcome.is_final(made(error, interrupted=interrupted, attempt=attempt), error)
    decided = outcome.decide(made(error, interrupted=interrupted, attempt=attempt))
    assert final == (decided.outcome in (Outcome.DEAD, Outcome.CANCELLED))


def test_a_decision_stands_even_if_the_run_ends_otherwise_afterwards():
    run = made(JobTimeout("late"), retries=0)
    first = outcome.decide(run)
    run.error = None
    assert outcome.decide(run) is first
    assert (first.outcome, first.reason) == (Outcome.DEAD, "timeout")


class Settles(MemoryBackend):
    """It knows the outcome of each settlement."""

    settled: ClassVar[dict[str, Outcome]] = {}

    def settle(self, settlements, request):
        self.settled.update((each.id, each.outcome) for each in settlements)
        return super().settle(settlements, request)


@pytest.mark.parametrize("mode", MODES)
def test_listeners_are_told_each_settlement_and_it_is_decided_once_a_run(app, registry, monkeypatch, mode):
    told, decided, asked = {}, [], {}

    class Listener:
        @hookimpl
        def jobs_job_finished(self, run, outcome):
            told[run.id] = outcome.outcome
            if len(told) == len(ENDS):
                worker.courier.stop()

    app.plugins._add(Listener(), PluginInfo("listener", "jobs-test", "1"))
    ends = job(registry=registry, name="ends", retries=3)(lambda how: _end(how))
    stores = job(registry=registry, name="stores", store_result=True)(lambda how: _end(how))

    def _end(how):
        error = ENDS[how][0]
        if error is not None:
            asked[current_job().id] = current_job().is_final(error)
            raise error

    ids = {how: (stores if how == "stored" else ends).enqueue(how).id for how in ENDS}
    judge, new_backend = outcome.settlement, app.new_backend
    monkeypatch.setattr(outcome.random, "uniform", lambda *window: 60.0)  # none runs twice here
    monkeypatch.setattr(outcome, "settlement", lambda run: decided.append(run.id) or judge(run))
    monkeypatch.setattr(app, "new_backend", lambda: Settles(app.backend_url, new_backend()._options))
    worker = Worker(app, "p", Pool(mode=mode, concurrency=2), None)
    worker.run()
    wanted = {ids[how]: outcome for how, (_, outcome) in ENDS.items()}
    assert told == wanted
    assert {job_id: Settles.settled[job_id] for job_id in wanted} == wanted
    assert sorted(decided) == sorted(ids.values())
    assert asked == {ids[how]: wanted[ids[how]] in (Outcome.DEAD, Outcome.CANCELLED) for how in ENDS if ENDS[how][0]}


def test_cancelled_jobs_are_remembered_equally_long_wherever_they_were():
    assert outcome.decide(made(JobCancelled("stop"))).result_ttl == CANCELLED_TTL == BackendOptions().cancelled_ttl
