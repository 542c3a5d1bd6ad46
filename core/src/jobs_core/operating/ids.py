"""Ids of jobs as users type them: the beginning of an id is enough if it matches only one job."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ..backends.base import Backend
from ..errors import ArgumentError, NotSupported
from ..scoreboard.state import read_board

SHORTEST = 4
"""Shortest beginning of an id that is looked up: a shorter text is probably a typo."""

MOST_SHOWN = 5

MOST_FLOWS = 1000
"""Most flows that are searched for an id by its beginning."""

_WHOLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class AmbiguousId(ArgumentError):
    """Raised when several ids begin with the typed text."""

    def __init__(self, text: str, found: list[str]) -> None:
        more = ", …" if len(found) > MOST_SHOWN else ""
        super().__init__(f"{text} matches several ids: {', '.join(found[:MOST_SHOWN])}{more}: type more of it")


def unknown(text: str) -> str:
    """Return the message for an id that the backend does not know."""
    return f"unknown job {text}: it never existed here, or it finished without a stored result"


def missing(backend: Backend, text: str) -> str:
    """Return the message for an id, or the beginning of one, that no job has: it may be that of a flow."""
    return flow_instead(backend, text) or unknown(text)


def flow_instead(backend: Backend, text: str) -> str:
    """Return the message for the id of a flow, or its beginning, where that of a job is expected; "" for any other text."""
    if "flows" not in backend.features:
        return ""
    found = [text] if backend.flow(text) is not None else []
    if not found and len(text) >= SHORTEST and not _WHOLE.fullmatch(text):
        found = [flow.id for flow in backend.flows(MOST_FLOWS) if flow.id.startswith(text)]
    return f"{text} is a flow, not a job: `jobsctl flow show {found[0]}` shows it and its jobs" if len(found) == 1 else ""


def whole_id(backend: Backend, text: str, run_dir: Path) -> str:
    """Return the only id that begins with `text`, or `text` itself if there is none; raise AmbiguousId if there are several."""
    if _WHOLE.fullmatch(text) or len(text) < SHORTEST:
        return text
    with contextlib.suppress(NotSupported):
        if backend.get(text) is not None:
            return text
    found = set(backend.find_ids(text, MOST_SHOWN + 1))
    if "lookup" not in backend.features:  # jobs that run on this machine are known to the scoreboard
        board = read_board(run_dir, most_entries=10**6)
        found |= {entry.id for worker in board.workers for entry in worker.running if entry.id.startswith(text)}
    if len(found) > 1 and text not in found:
        raise AmbiguousId(text, sorted(found))
    return text if text in found or not found else found.pop()
