"""What is said about jobs and flows in the outbox."""

from __future__ import annotations

from collections.abc import Sequence

from ..app import App
from ..backends.outbox import MOST_COUNTED, OutboxItem, OutboxState
from ..units import count, format_duration, times

OUTBOX_LATE = 60.0
"""Age in seconds from which a job in the outbox is worth a warning: a carrier takes it within a second."""


def look(app: App) -> tuple[OutboxState, Sequence[str]]:
    """Return the state of an application's outbox, and its advice. Raises BackendUnavailable without its database."""
    outbox = app.new_outbox()
    try:
        outbox.open()
        return outbox.state(), outbox.advice()
    finally:
        outbox.close()


def is_late(state: OutboxState) -> bool:
    """Return whether jobs in an outbox need somebody: they were refused, or wait for too long."""
    return bool(state.refused) or (state.oldest_age or 0.0) > OUTBOX_LATE


def told(state: OutboxState) -> str:
    """Return a sentence about the jobs in an outbox."""
    if not state.waiting:
        return "the outbox is empty"
    more = " or more" if state.waiting >= MOST_COUNTED else ""
    oldest = f", the oldest for {format_duration(round(state.oldest_age or 0.0))}"
    refused = f"; the backend has refused {state.refused:,} of them" if state.refused else ""
    return f"{count(state.waiting, 'job')}{more} in the outbox{oldest}{refused}"


def explained(item: OutboxItem) -> str:
    """Return a sentence about a job or flow in the outbox."""
    what = "it waits" if item.members is None else f"{count(item.members, 'member')} of flow {item.id} wait"
    since = f"in the outbox of the application's database, for {format_duration(round(item.age))}"
    if item.next_try is None:
        return f"{what} {since}: the carrier, a part of the supervisor, takes it to the backend (`jobsctl outbox`)"
    tried = f"the backend has refused it {times(item.tries)}: {item.reason}; next try {next_try(item.next_try)}"
    return f"{what} {since}: {tried} (`jobsctl outbox retry {item.id}`)"


def next_try(seconds: float) -> str:
    """Say when a refused item is tried again."""
    return "now" if seconds <= 0 else f"in {format_duration(round(seconds))}"
