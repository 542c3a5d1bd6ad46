"""The errors in a job's history as text: a type, a message, a traceback that begins at the user's first frame."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..boundary import name_of, text_of, told, traceback_of

_WORKER = Path(__file__).resolve().parent
PLUMBING = (
    str(_WORKER),
    str(_WORKER.with_name("injection")),
    str(Path(contextlib.__file__).with_name("asyncio")),
    contextlib.__file__,
)
"""Beginnings of the files whose frames lead to a job's own."""
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
