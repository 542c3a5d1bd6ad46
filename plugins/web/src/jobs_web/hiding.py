"""What `[plugins.web] show_arguments = false` hides from the role `read`: what jobs were given, said and returned.

Names, ids, states, times, unique keys and the values of limits remain: a reader needs them to see how far things are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from jobs_core.backends.letters import Fingerprint
from jobs_core.operating.snapshot import Snapshot

HIDDEN_FIELDS = ("message", "result", "errors", "log", "progress", "cursor", "timeline", "unreadable")
"""Fields of a job as data which show arguments, results or messages of errors."""

_OF_ERRORS = ("type", "attempt", "at", "host", "pid")


def without_arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job as data without what is hidden; of its message, the name of the job stays."""
    name = (data.get("message") or {}).get("job")
    shown = {key: value for key, value in data.items() if key not in HIDDEN_FIELDS}
    return {**shown, "message": {"job": name}} if name else shown


def without_messages(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with the runs and errors of the job, of which only what they said is hidden."""
    runs = [{key: value for key, value in run.items() if key != "error"} for run in data.get("timeline", ())]
    errors = [{key: error[key] for key in _OF_ERRORS if key in error} for error in data.get("errors", ())]
    return {**without_arguments(data), "timeline": runs, "errors": errors}


def without_message(cause: Fingerprint) -> Fingerprint:
    """Return what dead letters have in common without the message of their errors."""
    return replace(cause, message="")


def without_messages_of_groups(snapshot: Snapshot) -> Snapshot:
    """Return what the backend holds without the messages of errors in its groups of dead letters."""
    if snapshot.groups is None:
        return snapshot
    return replace(
        snapshot, groups=[replace(group, fingerprint=without_message(group.fingerprint)) for group in snapshot.groups]
    )
