"""The schedule as operators see it: entries of code, configuration and backend, and when each runs next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..app import App
from ..schedule import Entry, Stored, entries


class Listed(Struct):
    """An entry, as it is shown."""

    entry: Entry
    stored: Stored | None  # what the backend says about it

    @property
    def paused(self) -> bool:
        return self.stored is not None and self.stored.said.paused

    @property
    def is_made_at_run_time(self) -> bool:
        return self.stored is not None and self.stored.entry is self.entry


def listed(app: App, stored: Sequence[Stored]) -> list[Listed]:
    """Return all entries by name: those of the application, which has to be imported, and those that the backend stores."""
    static = entries(app)
    known = {one.name: one for one in stored}
    names = {entry.name for entry in static}
    made = [one.entry for one in known.values() if one.entry is not None and one.name not in names]
    found = [Listed(entry, known.get(entry.name)) for entry in (*static, *made)]
    return sorted(found, key=lambda one: one.entry.name)


def runs_of(entry: Entry, now: float, count: int) -> Iterator[float]:
    """Yield the next times at which an entry is due, in unix seconds."""
    tick = entry.after(int(now * 1000))
    while tick is not None and count:
        yield tick / 1000
        tick, count = entry.after(tick), count - 1
