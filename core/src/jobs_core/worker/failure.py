"""Errors as text for a job's history: a type, a message, a traceback from the user's first frame on."""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from pathlib import Path
from typing import Any

import msgspec

LONGEST_TEXT = 20_000
_PLUMBING = (str(Path(__file__).resolve().parent), str(Path(contextlib.__file__).with_name("asyncio")), contextlib.__file__)
_HOST = socket.gethostname()


def describe(error: BaseException, *, at: float, attempt: int) -> bytes:
    """One JSON document of a job's history. Nothing in it is ever turned back into an exception."""
    return document(
        at=at,
        attempt=attempt,
        type=_name(error),
        message=clip(str(error), 2000),
        traceback=clip(traceback_text(error), LONGEST_TEXT),
    )


def document(**facts: Any) -> bytes:
    """A JSON document for a job's history, with host and process."""
    return msgspec.json.encode({**facts, "host": _HOST, "pid": os.getpid()})


def traceback_text(error: BaseException) -> str:
    """The traceback without the frames that are the worker's way to the job."""
    frames = traceback.TracebackException.from_exception(error, limit=-50)
    while len(frames.stack) > 1 and frames.stack[0].filename.startswith(_PLUMBING):
        del frames.stack[0]
    return "".join(frames.format())


def clip(text: str, limit: int) -> str:
    """`text`, with its middle left out if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - limit} characters left out …\n{text[-half:]}"


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
