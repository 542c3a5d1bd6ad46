"""Enqueue the ticks of the schedule on one machine. Any number of machines may do so: each tick is enqueued once.

A tick's job has an id, a push request and a unique key that depend only on entry and tick. The key is held long after the
tick (see `Tick.held`), so that a machine that is late, or was down, adds nothing. A backend without unique keys recognises
only the request, for about a minute, or not even that: there, only one machine should run the schedule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct

from .. import events
from ..backends.documents import ABSENT, Guard, all_of
from ..boundary import told
from ..errors import BackendUnavailable, JobsError, QueueFull
from ..failpoints import failpoint
from ..message import UniqueKey
from . import times
from .entries import Entry, entries
from .state import Handled, ScheduleState
from .stored import KIND, Known, Stored, call_of

if TYPE_CHECKING:
    from ..app import App
    from ..backends.base import Backend, Outgoing

Push: TypeAlias = "Callable[[Sequence[Outgoing], str], Mapping[str, str]]"
"""`Backend.push` of the caller's connection."""

PushGuarded: TypeAlias = "Callable[[Sequence[Outgoing], str, Guard], Mapping[str, str] | None]"
"""`Backend.push_guarded` of the caller's connection."""

IN_TIME = 60_000
"""Milliseconds after which a tick counts as missed: longer than a restart or a slow broker, shorter than an outage."""

CLOCK_ERROR = 86_400_000
"""Largest step back of the clock, in milliseconds, after which the schedule waits for the recorded time to come again.

After a larger step, the earlier time is assumed to have been wrong, and the entry continues from now.
"""

PAUSE = 1.0
"""Seconds until a tick that could not be enqueued is tried again."""

DAY, HOUR = 86_400_000, 3_600_000


class Tick(Struct, frozen=True):
    """One time at which an entry is due."""

    entry: Entry
    at: int  # milliseconds
    missed_since: int | None = None  # the time of the first missed tick, if it is late enough to be reported

    @property
    def id(self) -> str:
        """Return the job's id: a UUID of version 8 (RFC 9562), made of the tick and a digest of entry and tick."""
        digest = hashlib.sha256(f"{self.entry.job}\0{self.entry.name}\0{self.at}".encode()).hexdigest()
        head, variant = f"{self.at & (1 << 48) - 1:012x}", "89ab"[int(digest[3], 16) % 4]
        return f"{head[:8]}-{head[8:]}-8{digest[:3]}-{variant}{digest[4:7]}-{digest[7:19]}"

    @property
    def held(self) -> float:
        """Return the seconds for which its unique key is held: past the next tick, plus a day for late machines.

        After the next tick, no machine enqueues this one any more. If ticks are less than a minute apart, the extra time is
        shorter, so that keys do not pile up.
        """
        following = self.entry.after(self.at)
        period = DAY if following is None else following - self.at
        return (period + min(DAY, max(HOUR, 1440 * period))) / 1000


class Ticker:
    """Determines the due ticks, enqueues them, and records them. One thread uses it: the housekeeper's loop.

    `now` is this machine's wall clock, `time.time()`. `state` is the file in the run directory; None remembers nothing.
    Raises ConfigError as `entries` does.
    """

    def __init__(self, app: App, state: Path | None) -> None:
        self._app = app
        self._state = ScheduleState(state) if state is not None else None
        self._static = entries(app)
        self.entries = self._static  # those of the backend's documents too, once they were read
        self._known = Known(app, self._static)
        self._since: dict[str, int] = {}  # entries with documents: ticks up to this time are not enqueued
        self.stale = False  # a tick was not pushed, because the entry had been changed
        self._handled = self._state.load() if self._state is not None else {}
        self._next: dict[str, int | None] = {}  # the first tick that is not handled
        self._failed = False
        self._full: set[str] = set()  # entries whose queue had no room
        self._unique: bool | None = None

    def refresh(self, backend: Backend, version: int | None = None) -> None:
        """Read the documents of the schedule, if they have changed; without `documents` there are none.

        `version` is that of their kind, if the caller has just asked for it.
        """
        if "documents" not in backend.features:
            return
        if version is None:
            version = backend.document_versions([KIND])[KIND]
        if version == self._known.version and not self.stale:
            return
        before, first = self._known.stored, self._known.version < 0
        self._known.read(list(all_of(backend, KIND)))
        self._known.version, self.stale = version, False
        after = self._known.stored
        if not first:
            _tell_changes(before, after)
        self._since = {name: stored.since for name, stored in after.items()}
        paused = {name for name, stored in after.items() if stored.said.paused}
        made = [stored.entry for stored in after.values() if stored.entry is not None]
        self.entries = sorted(
            (entry for entry in (*self._static, *made) if entry.name not in paused), key=lambda entry: entry.name
        )
        self._next.clear()

    @property
    def refused(self) -> dict[str, str]:
        """Return why documents of the schedule are not obeyed here, by the name of their entry."""
        return self._known.refused

    def due(self, now: float) -> list[Tick]:
        """Return the ticks to enqueue now: for each entry the latest due one. Earlier ones are dropped as missed."""
        at, before = int(now * 1000), dict(self._handled)
        ticks = [tick for entry in self.entries if (tick := self._due(entry, at))]
        if self._handled != before:
            self._save()
        return ticks

    def next(self, now: float) -> float:
        """Return the seconds until the next tick is due; infinite if there is none."""
        if self.stale:
            return 0.0
        upcoming = [tick for entry in self.entries if (tick := self._upcoming(entry)) is not None]
        if not upcoming:
            return float("inf")
        return max(PAUSE if self._failed else 0.0, min(upcoming) / 1000 - now)

    def enqueue(self, ticks: Iterable[Tick], push: Push, push_guarded: PushGuarded | None = None) -> None:
        """Push each tick's job, and record it; repeating the call adds nothing.

        With `push_guarded`, a tick is pushed only if the document of its entry is as it was last read. Otherwise it stays due,
        and `stale` is set: call `refresh`.

        If the queue is full, the tick stays due; if the backend is unavailable, it does too, and BackendUnavailable is
        raised. A tick that can never be enqueued is reported and dropped.
        """
        handled: list[Tick] = []
        full = False
        self._failed = True
        try:
            for tick in ticks:
                try:
                    if not self._push(tick, push, push_guarded):
                        self.stale = True
                        continue
                except QueueFull as error:  # an error of one topic does not affect others
                    full = True
                    self._tell_full(tick.entry, error)
                else:
                    handled.append(tick)
                    self._full.discard(tick.entry.name)
                    _tell(tick, runs=True)
            self._failed = full
        finally:
            failpoint("schedule.pushed")
            self.done(handled)

    def done(self, ticks: Iterable[Tick]) -> None:
        """Record these ticks as handled; `enqueue` calls this."""
        known = dict(self._handled)
        for tick in ticks:
            self._reset(tick.entry, max(tick.at, self._handled[tick.entry.name].until))
        if self._handled != known:
            self._save()

    # -- one entry -------------------------------------------------------------------------------

    def _due(self, entry: Entry, now: int) -> Tick | None:
        known, since = self._handled.get(entry.name), self._since.get(entry.name)
        if since is not None and (known is None or known.identity != entry.identity or known.until < since):
            self._reset(entry, min(since, now))  # made, changed or resumed then
        elif known is None or known.identity != entry.identity:
            self._reset(entry, now)  # seen for the first time: nothing was missed
            return None
        known = self._handled[entry.name]
        if known.until > now + CLOCK_ERROR:
            events.emit(events.ClockSetBack(entry.name, (known.until - now) / 1000))
            self._reset(entry, now)
            return None
        first = self._upcoming(entry)
        if first is None or first > now:
            return None
        last = times.latest(entry.after, known.until, now)
        assert last is not None  # the tick `first` is due
        tick = Tick(entry, last, first if now - first > IN_TIME else None)
        if now - last <= IN_TIME or entry.missed == "once":
            return tick
        _tell(tick, runs=False)
        self._reset(entry, last)
        return None

    def _reset(self, entry: Entry, until: int) -> None:
        self._handled[entry.name] = Handled(entry.identity, until)
        self._next.pop(entry.name, None)

    def _upcoming(self, entry: Entry) -> int | None:
        if entry.name not in self._next:
            known = self._handled.get(entry.name)
            if known is None:
                return 0  # not examined yet
            self._next[entry.name] = entry.after(known.until)
        return self._next[entry.name]

    def _save(self) -> None:
        if self._state is None:
            return
        names = {*(entry.name for entry in (*self._static, *self.entries)), *self._known.stored}
        self._state.save({name: handled for name, handled in self._handled.items() if name in names})

    # -- one tick --------------------------------------------------------------------------------

    def _push(self, tick: Tick, push: Push, push_guarded: PushGuarded | None = None) -> bool:
        """Push a tick; return False if its entry was changed."""
        try:
            outgoing, request = [self._outgoing(tick)], f"tick-{tick.id}"
            if push_guarded is None:
                push(outgoing, request)
                return True
            name = tick.entry.name
            return push_guarded(outgoing, request, Guard(KIND, name, self._known.versions.get(name, ABSENT))) is not None
        except (BackendUnavailable, QueueFull):
            raise
        except JobsError as error:
            events.emit(events.TickRefused(tick.entry.name, tick.entry.job, str(error)))
            return True

    def _outgoing(self, tick: Tick) -> Outgoing:
        entry = tick.entry
        headers = {"schedule": entry.name, "tick": tick.at / 1000}
        call = call_of(self._app, entry, headers)
        call.job = call.job.using(id=tick.id, unique=None)
        try:
            message = self._app.message(call)
        except JobsError:
            raise
        except BaseException as error:  # from a plugin's jobs_before_enqueue, or from the application's types of arguments
            raise JobsError(told(error)) from None
        key = UniqueKey(f"tick:{tick.id}", tick.held) if self._has_unique() else None
        return self._app.outgoing(msgspec.structs.replace(message, id=tick.id, unique=key))

    def _tell_full(self, entry: Entry, error: QueueFull) -> None:
        if entry.name not in self._full:  # report it once, until the queue has room again
            events.emit(events.TickWaits(entry.name, entry.job, str(error)))
        self._full.add(entry.name)

    def _has_unique(self) -> bool:
        if self._unique is None:
            self._unique = "unique" in self._app.new_backend().features
        return self._unique


def _tell_changes(before: Mapping[str, Stored], after: Mapping[str, Stored]) -> None:
    """Log what was changed since the documents were last read."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if new is None:
            events.emit(events.ScheduleChanged(name, "removed", ""))
        elif old is None or old.version != new.version:
            was, now = old.said if old is not None else None, new.said
            if now.paused != (was is not None and was.paused):
                change = "paused" if now.paused else "resumed"
            else:
                change = "added" if was is None else "changed"
            events.emit(events.ScheduleChanged(name, change, now.by))


def _tell(tick: Tick, *, runs: bool) -> None:
    if tick.missed_since is not None:
        entry, first = tick.entry, tick.missed_since / 1000
        events.emit(events.TicksMissed(entry.name, entry.job, first, tick.at / 1000, runs))
