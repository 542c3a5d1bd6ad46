"""The events that operators read about settlements, for runs that did not simply succeed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .. import boundary
from ..backends.base import Answer, Delivery, Outcome, Settlement
from ..events import JobDied, JobDone, JobFailed, JobSettled, JobTaken, emit
from .run import Run

logger = logging.getLogger("jobs.worker")


def report(run: Run, settlement: Settlement) -> None:
    """Log a failed attempt or a dead letter."""
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


def tell_taken(runs: Sequence[Run]) -> None:
    """Log which jobs were reserved, at level debug."""
    for run in runs:
        emit(JobTaken(run.delivery.id, run.job.name, run.delivery.topic, run.delivery.attempt + 1))


def tell_done(run: Run) -> None:
    """Log a success, if every success is to be logged."""
    delivery = run.delivery
    emit(JobDone(delivery.id, run.job.name, delivery.topic, delivery.attempt + 1, run.ended - run.started))


def tell_settled(batch: Sequence[tuple[Settlement, Run | None]], answers: Sequence[Answer]) -> None:
    """Log the backend's answer to each settlement, at level debug."""
    for (ending, run), answer in zip(batch, answers, strict=True):
        emit(JobSettled(ending.id, run.job.name if run else "", ending.outcome.value, answer.value))


def report_unrun(delivery: Delivery, reason: str, text: str) -> None:
    """Log a job that becomes a dead letter because it cannot be run."""
    line = "job %s of topic %s goes to the dead letters (%s): %s"
    boundary.log(logger, logging.ERROR, line, delivery.id, delivery.topic, reason, text)
