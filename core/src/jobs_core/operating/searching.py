"""Search among jobs: by job, key, text of the arguments, time and error. The number of jobs that are read is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from ..app import App
from ..backends.base import JobRecord
from ..errors import MessageError, PayloadError, PayloadStoreUnavailable

MOST: Final = 10_000
"""Most jobs of one topic and state that a search reads."""

PAGE: Final = 500
"""Jobs that are read in one call."""

AT_ONCE: Final = 200
"""Jobs that a search with a time to keep reads in one call."""

Browse: TypeAlias = Callable[[int, int], "list[JobRecord]"]
"""Reads up to a number of jobs from an offset on."""


class Search(Struct, frozen=True):
    """The tests that a job has to pass. A test that is not given accepts every job."""

    job: str | None = None
    key: str | None = None
    text: str | None = None  # in the arguments as JSON
    error: str | None = None  # in the reason of a dead letter, or in its last error
    since: float | None = None  # when it came into its state, or was pushed
    until: float | None = None

    @property
    def given(self) -> bool:
        """Return whether there is any test."""
        return any(getattr(self, name) is not None for name in self.__struct_fields__)

    def accepts(self, app: App, record: JobRecord) -> bool:
        """Return whether a record passes all tests; one whose arguments cannot be read contains no text."""
        at = record.since or record.pushed_at
        if (self.since is not None and at < self.since) or (self.until is not None and at > self.until):
            return False
        if self.key is not None and record.key != self.key:
            return False
        if self.error is not None and self.error.lower() not in _error_of(record).lower():
            return False
        return self._accepts_message(app, record)

    def _accepts_message(self, app: App, record: JobRecord) -> bool:
        if self.job is None and self.text is None:
            return True
        try:
            message = app.envelope(record)
            if self.job is not None and self.job not in (message.job, (message.job or "").rpartition(".")[2]):
                return False
            if self.text is None:
                return True
            message = app.payloads.unpacked(message)
        except (MessageError, PayloadError, PayloadStoreUnavailable):
            return False
        return self.text.lower() in msgspec.json.encode((message.args, message.kwargs)).decode().lower()


def _error_of(record: JobRecord) -> str:
    if not record.errors:
        return record.reason
    error = msgspec.json.decode(record.errors[-1])
    return f"{record.reason}\n{error.get('type')}: {error.get('message')}"


def accepted(
    app: App, search: Search, browse: Browse, told: Callable[[int], object] = lambda most: None
) -> Iterator[JobRecord]:
    """Yield the jobs that a search accepts, of the first MOST; call `told` with MOST if there are more."""
    for offset in range(0, MOST, PAGE):
        page = browse(PAGE, offset)
        yield from (record for record in page if search.accepts(app, record))
        if len(page) < PAGE:
            return
    told(MOST)


class Stretch(Struct, frozen=True):
    """What a search found among the jobs from one position to another."""

    found: list[JobRecord]
    end: int  # the position of the first job that was not looked at
    more: bool  # whether there may be jobs from there on that a search reads


def stretch(app: App, search: Search, browse: Browse, begin: int, most: int, seconds: float) -> Stretch:
    """Search from a position on, until `most` jobs are found, the first MOST have been read, or the time is up.

    Reads AT_ONCE jobs at least, whatever the time.
    """
    until, found, position = time.monotonic() + seconds, [], begin
    while position < MOST:
        page = browse(min(AT_ONCE, MOST - position), position)
        for number, record in enumerate(page, 1):
            if search.accepts(app, record):
                found.append(record)
                if len(found) == most:
                    return Stretch(found, position + number, position + number < MOST)
        if len(page) < min(AT_ONCE, MOST - position):
            return Stretch(found, position + len(page), False)
        position += len(page)
        if time.monotonic() >= until:
            break
    return Stretch(found, position, position < MOST)
