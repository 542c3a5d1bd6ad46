"""Search among jobs: by job, key, text of the arguments, time and error. The number of jobs that are read is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from msgspec import Struct

from ..app import App
from ..backends.base import JobRecord
from ..search import Search

MOST: Final = 10_000
"""Most jobs of one topic and state that a search reads."""

PAGE: Final = 500
"""Jobs that are read in one call."""

AT_ONCE: Final = 200
"""Jobs that a search with a time to keep reads in one call."""

Browse: TypeAlias = Callable[[int, int], "list[JobRecord]"]
"""Reads up to a number of jobs from an offset on."""


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


__all__ = ["AT_ONCE", "MOST", "PAGE", "Search", "Stretch", "accepted", "stretch"]
