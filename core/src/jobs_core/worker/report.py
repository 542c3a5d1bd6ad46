"""From a settlement to the event an operator reads, for runs that did not simply succeed."""

from __future__ import annotations

import logging

from .. import boundary
from ..backends.base import Delivery, Outcome, Settlement
from ..events import JobDied, JobFailed, emit
from .run import Run

logger = logging.getLogger("jobs.worker")


def report(run: Run, settlement: Settlement) -> None:
    """Tell the log about a failed attempt or a death; successes say nothing."""
    failure = run.failure
    if run.unfit and failure is not None:
        report_unrun(run.delivery, settlement.reason, failure.text)
        return
    if failure is None or settlement.outcome not in (Outcome.RETRY, Outcome.DEAD):
        return
    delivery = run.delivery
    about = delivery.id, run.job.name, delivery.topic, delivery.attempt + 1
    if settlement.outcome is Outcome.RETRY:
        emit(JobFailed(*about, settlement.after, failure.line, failure.traceback))
    else:
        emit(JobDied(*about, settlement.reason, failure.line, failure.traceback))


def report_unrun(delivery: Delivery, reason: str, text: str) -> None:
    """Tell the log about a job that goes to the dead letters because it cannot be run."""
    line = "job %s of topic %s goes to the dead letters (%s): %s"
    boundary.log(logger, logging.ERROR, line, delivery.id, delivery.topic, reason, text)
