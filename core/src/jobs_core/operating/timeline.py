"""The timeline, the progress and the log lines of a job as text."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..app import App
from ..backends.base import JobRecord, State
from ..errors import PayloadError
from ..following import shown_progress
from ..payloads import HIDDEN
from ..units import format_duration, shown_time


def read(app: App, record: JobRecord, stored: bytes) -> dict[str, Any]:
    """Return a progress or a log line of a record, as far as it can be read here."""
    try:
        found = msgspec.json.decode(app.payloads.unpack_note(record.id, stored))
    except PayloadError:
        return {"text": HIDDEN}
    except ValueError:
        return {"text": repr(stored[:200])}
    return found if isinstance(found, dict) else {"text": str(found)}


def shown(told: Mapping[str, Any]) -> str:
    """Return a progress in one line."""
    return " ".join(filter(None, (shown_progress(told.get("done"), told.get("total")), str(told.get("text", "")))))


def shown_line(line: Mapping[str, Any]) -> str:
    """Return a log line with its time, and its level if that says something."""
    level = str(line.get("level", "info"))
    text = str(line.get("text", "")).replace("\n", "\n    ")
    return f"{_clock(line.get('at'))} {'' if level in ('info', 'print') else f'{level}: '}{text}"


def lines_of(record: JobRecord, runs: Sequence[Mapping[str, Any]], errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what has happened to a job as lines, oldest first."""
    return [f"{_moment(at)}  {text}" for at, text in events_of(record, runs, errors)]


def events_of(
    record: JobRecord, runs: Sequence[Mapping[str, Any]], errors: Sequence[Mapping[str, Any]]
) -> list[tuple[float | None, str]]:
    """Return what has happened to a job and when, oldest first: from its runs if they are kept, else from its errors."""
    events = [(record.pushed_at, f"pushed to {record.topic}")] if record.pushed_at else []
    told = {run.get("attempt") for run in runs}
    events += [event for run in runs for event in _run(run)]
    events += [failed(error) for error in errors if is_untold(error, told)]
    now = _state(record)
    return [*sorted(events, key=lambda event: event[0]), now]


def is_untold(error: Mapping[str, Any], attempts: Collection[Any]) -> bool:
    """Return whether an error is not that of a run in the timeline, which has these attempts."""
    return error.get("attempt") not in attempts or "type" not in error


def _run(run: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
    yield float(run.get("began", 0.0)), f"attempt {run.get('attempt')} begins in process {run.get('pid')} on {run.get('host')}"
    yield end_of_run(run)


def end_of_run(run: Mapping[str, Any]) -> tuple[float, str]:
    """Return when and how a run of the timeline ended."""
    began, ended = float(run.get("began", 0.0)), float(run.get("ended", 0.0))
    error = f": {run['error']}" if run.get("error") else ""
    after = f", again after {format_duration(round(run['after'], 3))}" if run.get("after") else ""
    return ended, f"attempt {run.get('attempt')} ends after {_took(ended - began)}: {run.get('outcome')}{after}{error}"


def _took(seconds: float) -> str:
    if seconds < 0.001:
        return "less than 1 ms"
    return (
        f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 60 else format_duration(round(seconds))
    )


def failed(error: Mapping[str, Any]) -> tuple[float, str]:
    """Return when an attempt failed, and its error in one line."""
    at = float(error.get("at") or 0.0)
    if error.get("type") == "WorkerDied":
        return at, "the worker that ran it died"
    what = f"attempt {error['attempt']} failed" if error.get("attempt") and error.get("traceback") else "not run"
    told = ": ".join(str(error[key]) for key in ("type", "message") if error.get(key))
    return at, f"{what}: {(told.splitlines() or [''])[0][:200]}"


def _state(record: JobRecord) -> tuple[float | None, str]:
    """Return the present state of a job, and since when."""
    if record.state is State.SCHEDULED:
        return record.since, f"scheduled for {shown_time(record.due or 0.0)}"
    if record.state is State.RESERVED:
        return record.since, f"reserved by {record.owner}"
    return record.since, f"{record.state.value}: {record.reason}" if record.reason else record.state.value


def _moment(at: float | None) -> str:
    return shown_time(at) if at else " " * 19


def _clock(at: Any) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, (int, float)) and 0 < at < 1e11 else "        "
