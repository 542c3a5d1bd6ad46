"""The record of a job as data, for commands and the dashboard: its message decoded, as far as it can be read here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from ..app import App
from ..backends.base import Backend, JobRecord, State
from ..errors import MessageError, NotSupported, PayloadError, PayloadStoreUnavailable
from ..payloads import HIDDEN, describe
from ..units import format_duration, shown_time
from . import timeline
from .explain import QUEUED_OR_RUNNING


def browse(backend: Backend, topic: str, state: State, limit: int, offset: int) -> list[JobRecord]:
    """List jobs of a topic in one state. Raises NotSupported for a state that the backend does not have."""
    if state is State.LIMITED and state not in backend.queued_states:
        raise NotSupported("limits", f"{backend.name}://")
    if state is State.WAITING and state not in backend.queued_states:
        raise NotSupported("flows", f"{backend.name}://")
    if state is State.DONE and "history" not in backend.features:
        raise NotSupported("history", f"{backend.name}://")
    return backend.browse(topic, state, limit, offset)


def as_data(app: App, record: JobRecord) -> dict[str, Any]:
    """Return a record as data for JSON, with its message decoded if possible."""
    data: dict[str, Any] = {
        "id": record.id, "topic": record.topic, "state": record.state.value, "priority": record.priority,
        "attempt": attempt(record), "redeliveries": record.redeliveries, "crashes": record.crashes,
        "deferrals": record.deferrals, "pushed_at": time_of(record.pushed_at), "since": time_of(record.since),
        "due": time_of(record.due), "owner": record.owner, "cancel_requested": record.cancel_requested,
        "reason": record.reason, "key": record.key, "limits": list(record.limits), "blocked_by": record.blocked_by,
    }  # fmt: skip
    if record.member is not None:
        member = record.member
        data |= {"flow": member.flow, "stage": member.stage, "waiting_for": list(record.waiting_for)}
    data = {key: value for key, value in data.items() if value not in (None, "", []) and value is not False}
    if record.cursor:
        data["cursor"] = _cursor(app, record)
    if record.payload:
        try:
            data["message"] = _message(app, record)
        except MessageError as error:
            data["unreadable"] = str(error)
    if record.notes.progress:
        data["progress"] = timeline.read(app, record, record.notes.progress)
    if record.notes.lines:
        data["log"] = [timeline.read(app, record, line) for line in record.notes.lines]
    if record.timeline:
        data["timeline"] = [msgspec.json.decode(entry) for entry in record.timeline]
    data["errors"] = [msgspec.json.decode(error) for error in record.errors]
    return data


def _message(app: App, record: JobRecord) -> dict[str, Any]:
    """Return a record's message; if its arguments cannot be read here, with the reason as `unreadable` instead."""
    envelope = app.envelope(record)
    try:
        message: dict[str, Any] = msgspec.to_builtins(app.payloads.unpacked(envelope))
    except (PayloadError, PayloadStoreUnavailable) as error:
        return {**describe(envelope), "unreadable": str(error)}
    return message


def name_of(app: App, record: JobRecord) -> str:
    """Return the name of the job in a record's message."""
    try:
        return app.envelope(record).job or "?"
    except MessageError:
        return "(unreadable)"


def attempt(record: JobRecord) -> int:
    """Return the number of the running or next attempt, as in log lines; of the last one, if the job has ended."""
    return record.attempt + (record.state in QUEUED_OR_RUNNING or (record.state is State.DONE and bool(record.timeline)))


def age(record: JobRecord) -> str:
    """Return how long ago the job was pushed."""
    return format_duration(max(0, round(record.broker_now - record.pushed_at)))


def owner_or_due(record: JobRecord) -> str:
    """Return the worker that has reserved a job, or when it is due; "" for neither."""
    return record.owner or time_of(record.due) or ""


def time_of(at: float | None) -> str | None:
    """Return a time for people; None if there is none."""
    return shown_time(at) if at else None


def _cursor(app: App, record: JobRecord) -> Any:
    """Return the cursor of a resumable job, as far as it can be read here."""
    try:
        return msgspec.json.decode(app.payloads.unpack_cursor(record.id, record.cursor))
    except PayloadError:
        return HIDDEN
    except ValueError:
        return repr(record.cursor[:200])


def shown_result(app: App, record: JobRecord) -> str | None:
    """Return the result of a job as JSON; None without one."""
    if not record.result:
        return None
    try:
        return app.payloads.unpack_result(record.id, record.result).decode()
    except PayloadError:
        return HIDDEN


def push_line(data: Mapping[str, Any]) -> str:
    """Return the command that enqueues a job like this one again, from its record as data; "" if it cannot be read."""
    message = data.get("message") or {}
    if not message.get("job") or "unreadable" in message:
        return ""
    words = [str(message["job"]), *map(_as_word, message.get("args", ()))]
    words += [f"--kw={name}={_as_word(value)}" for name, value in message.get("kwargs", {}).items()]
    return shlex.join(["jobsctl", "push", *_behind_options(words)])


def _as_word(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _behind_options(words: list[str]) -> list[str]:
    """Put `--` before arguments that look like options, such as a negative number."""
    options = [word for word in words if word.startswith("--kw=")]
    return [*options, "--", *words[: len(words) - len(options)]] if any(word.startswith("-") for word in words[1:]) else words
