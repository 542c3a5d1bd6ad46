"""Failures as text, in a job's history and in the log: a type, a message, a traceback that begins at the user's first frame."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .. import boundary
from ..backends.base import Delivery, Outcome, Settlement
from ..boundary import name_of, text_of, told, traceback_of
from ..events import JobDied, JobFailed, emit

if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger("jobs.worker")

_CORE = Path(__file__).resolve().parents[1]
PLUMBING = (
    str(_CORE / "worker"),
    str(_CORE / "injection"),
    str(Path(contextlib.__file__).with_name("asyncio")),
    contextlib.__file__,
)
"""Path prefixes of the files whose frames come before the job's own in a traceback."""
_HOST = socket.gethostname()


class Failure(NamedTuple):
    """An error as text. It holds no object of the application, and is never turned back into an exception."""

    type: str
    text: str
    line: str  # type and text, for the log
    traceback: str


def of(error: BaseException) -> Failure:
    """Describe the error of a run, without the worker's own frames that lead to the job."""
    return Failure(name_of(type(error)), text_of(error), told(error), traceback_of(error, PLUMBING))


def history(failure: Failure, *, at: float, attempt: int) -> bytes:
    """Return one JSON document for a job's history."""
    return document(at=at, attempt=attempt, type=failure.type, message=failure.text, traceback=failure.traceback)


def document(**facts: Any) -> bytes:
    """Return a JSON document for a job's history, with host and process."""
    return msgspec.json.encode({**facts, "host": _HOST, "pid": os.getpid()})


def log(run: Run, settlement: Settlement) -> None:
    """Log a failed attempt or a dead letter."""
    failure = run.failure
    if run.unfit and failure is not None:
        log_unrun(run.delivery, settlement.reason, failure.text)
    elif failure is not None and settlement.outcome is Outcome.RETRY:
        emit(JobFailed(*run.about, settlement.after, failure.line, failure.traceback))
    elif failure is not None and settlement.outcome is Outcome.DEAD:
        emit(JobDied(*run.about, settlement.reason, failure.line, failure.traceback))


def log_unrun(delivery: Delivery, reason: str, text: str) -> None:
    """Log a job that becomes a dead letter because it cannot be run."""
    line = "job %s of topic %s goes to the dead letters (%s): %s"
    boundary.log(logger, logging.ERROR, line, delivery.id, delivery.topic, reason, text)
