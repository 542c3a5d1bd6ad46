"""The progress of a job as a program or an operator follows it: what the job last told, and each change of that."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .backends.base import JobRecord, State

INTERVAL: Final = 0.5
"""Seconds between two looks at a job that is followed: workers send what jobs tell as often."""

LONGEST_INTERVAL: Final = 2.0
"""The same at most: while a job waits and nothing changes, each interval is longer by a quarter."""

ENDED: Final = frozenset({State.DONE, State.DEAD, State.CANCELLED, State.UNKNOWN})
"""States after which nothing is told, unless an operator retries a dead letter."""


def longer(pause: float, state: State) -> float:
    """Return the seconds until the next look at a job in this state, after one that has found nothing new."""
    return INTERVAL if state is State.RESERVED else min(LONGEST_INTERVAL, pause * 1.25)


class Source(Protocol):
    """The methods of an application from which a progress is read."""

    def progress(self, job_id: str) -> JobProgress: ...

    async def aprogress(self, job_id: str) -> JobProgress: ...


class _Told(Struct):
    at: float = 0.0
    done: float | None = None
    total: float | None = None
    text: str = ""


class JobProgress(Struct, frozen=True, eq=False):
    """What a job last told with `current_job().progress()`; None and "" where it told nothing.

    Iterate over it, with `for` or `async for`, to get this progress and each later one until the job has ended, the end
    included. The job is looked at twice a second, and less often while it waits, every 2 s at least.
    """

    id: str
    state: State
    done: float | None = None
    total: float | None = None
    text: str = ""
    at: float | None = None  # Unix time by the broker's clock
    _source: Any = None

    @property
    def share(self) -> float | None:
        """Return the share that is done, from 0 to 1; None if the total is unknown."""
        return min(1.0, self.done / self.total) if self.done is not None and self.total else None

    @property
    def ended(self) -> bool:
        """Return whether the job has ended, or is unknown."""
        return self.state in ENDED

    def __str__(self) -> str:
        return " ".join(filter(None, (shown_progress(self.done, self.total), self.text))) or self.state.value

    def __iter__(self) -> Iterator[JobProgress]:
        now, pause = self, INTERVAL
        yield now
        while not now.ended:
            time.sleep(pause)
            later, pause = self._source.progress(self.id), longer(pause, now.state)
            if now.changed(later):
                now, pause = now.then(later), INTERVAL
                yield now

    async def __aiter__(self) -> AsyncIterator[JobProgress]:
        import asyncio  # late: half of this package's import time

        now, pause = self, INTERVAL
        yield now
        while not now.ended:
            await asyncio.sleep(pause)
            later, pause = await self._source.aprogress(self.id), longer(pause, now.state)
            if now.changed(later):
                now, pause = now.then(later), INTERVAL
                yield now

    def changed(self, later: JobProgress) -> bool:
        """Return whether something has changed since."""
        return later.state is not self.state or (later.at is not None and later.at != self.at)

    def then(self, later: JobProgress) -> JobProgress:
        """Return a later progress, with what is known from this one if the job has ended and left nothing."""
        return replace(self, state=later.state) if later.at is None else later


def progress_of(job_id: str, record: JobRecord | None, told: bytes, source: Source | None) -> JobProgress:
    """Return the progress of a record; `told` is what the job has told, as it was encoded."""
    if record is None:
        return JobProgress(job_id, State.UNKNOWN, _source=source)
    if not told:
        return JobProgress(job_id, record.state, _source=source)
    try:
        document = msgspec.json.decode(told, type=_Told)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # of an earlier release, or another writer
        return JobProgress(job_id, record.state, _source=source)
    return JobProgress(job_id, record.state, document.done, document.total, document.text, document.at, source)


def shown_progress(done: float | None, total: float | None) -> str:
    """Return how far a job is, such as "3 of 10 (30 %)"."""
    if done is None:
        return ""
    try:
        if not total:
            return f"{done:,.10g}"
        return f"{done:,.10g} of {total:,.10g} ({min(1.0, done / total):.0%})".replace("%", " %")
    except (OverflowError, TypeError, ValueError):  # of an earlier release, or another writer
        return ""
