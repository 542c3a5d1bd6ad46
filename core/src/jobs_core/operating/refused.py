"""Documents of the schedule and of pool sizes that machines refuse: not signed, changed without the keys, or without sense."""

from __future__ import annotations

from collections.abc import Sequence

from ..app import App
from ..escapes import word
from ..machines import EVERYWHERE, sizes
from ..schedule import Schedule, Stored, entries
from ..schedule.entries import problems_of
from ..schedule.stored import HIDDEN


def entry_refused(name: str, why: str) -> str:
    """Say that the document of a schedule entry is refused, and how to get rid of it."""
    return (
        f"schedule entry {name}: its document in the backend is refused: {why}. Machines that start now run the entry without "
        f"it, or not at all; `jobsctl schedule remove {word(name)}` deletes the document"
    )


def size_refused(name: str, why: str) -> str:
    """Say that the size of a pool is refused, and how to get rid of it. `name` is TARGET/POOL."""
    target, _, pool = name.partition("/")
    where, option = ("all machines", "--all") if target == EVERYWHERE else (target, word(target))
    return (
        f"pool {pool}: its size on {where} in the backend is refused: {why}. Machines that start now have the configured size; "
        f"`jobsctl machines auto {word(pool)} {option}` deletes the document"
    )


def refused_entries(app: App) -> dict[str, str]:
    """Return why machines of this code refuse documents of the schedule, by entry. The application has to be imported.

    Raises NotSupported (documents) and BackendUnavailable.
    """
    stored, refused = Schedule(app).read()
    return {**refused, **not_obeyed(app, stored)}


def not_obeyed(app: App, stored: Sequence[Stored]) -> dict[str, str]:
    """Return why machines of this code refuse entries of which the documents can be trusted and read."""
    static = {entry.name for entry in entries(app)}
    found = {}
    for one in stored:
        if one.entry is None:
            continue
        if one.name in static:
            found[one.name] = HIDDEN
        elif problems := list(problems_of(app, one.entry)):
            found[one.name] = "; ".join(problems)
    return found


def refused_sizes(app: App) -> dict[str, str]:
    """Return why machines refuse sizes of pools, by TARGET/POOL; none without documents. Raises BackendUnavailable."""
    refused: dict[str, str] = {}
    if "documents" in app.operate(lambda backend: backend.features):
        app.operate(lambda backend: sizes(app, backend, refused.__setitem__))
    return refused
