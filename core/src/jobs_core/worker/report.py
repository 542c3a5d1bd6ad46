"""From a settlement to the event an operator reads, for runs that did not simply succeed."""

from __future__ import annotations

from ..backends.base import Outcome, Settlement
from ..events import JobDied, JobFailed, emit
from .failure import traceback_text
from .run import Run


def report(run: Run, settlement: Settlement) -> None:
    """Tell the log about a failed attempt or a death; successes say nothing."""
    error = run.error
    if error is None or settlement.outcome not in (Outcome.RETRY, Outcome.DEAD):
        return
    delivery = run.delivery
    text = f"{type(error).__name__}: {error}"
    trace = traceback_text(error)
    if settlement.outcome is Outcome.RETRY:
        emit(JobFailed(delivery.id, run.job.name, delivery.topic, delivery.attempt + 1, settlement.after, text, trace))
    else:
        emit(JobDied(delivery.id, run.job.name, delivery.topic, delivery.attempt + 1, settlement.reason, text, trace))
