"""The loops of resumable jobs: `current_job().steps(...)`."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from ..errors import CheckpointError
from .progress import Progress, encoded_as_json, require_size

if TYPE_CHECKING:
    from .run import Run

T = TypeVar("T")

_CURSOR = "steps: the cursor"


class _Loop:
    """The part of a loop that sync and async ones share: its number, and the cursor of the step in progress."""

    def __init__(self, run: Run, progress: Progress, cursor: Callable[[Any], Any] | None, number: int, count: int) -> None:
        self._run = run
        self._progress = progress
        self._cursor = cursor
        self._number = number
        self._count = count  # of rows so far, in all runs: the cursor, if no other is given
        self._step: bytes | None = None
        progress.enter(self)

    def _end_step(self) -> None:
        """End the step in progress, if any, and perhaps the run."""
        step, self._step = self._step, None
        if step is not None:
            self._progress.end_step(self._run, self._number, step)
        self._progress.between_steps(self._run)

    def _begin_step(self, row: object) -> None:
        """Compute the cursor before the step, because the step may change or delete the row."""
        if self._cursor is None:
            self._count += 1
            self._step = b"%d" % self._count
        else:
            self._step = cursor = encoded_as_json(self._cursor(row), _CURSOR)
            require_size(self._progress, cursor)


class Steps(_Loop, Generic[T]):
    """A loop of a resumable job, one step a row."""

    def __init__(self, rows: Iterator[T], *place: Any) -> None:
        super().__init__(*place)
        self._rows = rows

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._end_step()
        try:
            row = next(self._rows)
        except StopIteration:
            self._progress.leave(self._number)
            raise
        self._begin_step(row)
        return row


class AsyncSteps(_Loop, Generic[T]):
    """A loop of a resumable async job over an async iterable."""

    def __init__(self, rows: AsyncIterator[T], *place: Any) -> None:
        super().__init__(*place)
        self._rows = rows

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        self._end_step()
        try:
            row = await self._rows.__anext__()
        except StopAsyncIteration:
            self._progress.leave(self._number)
            raise
        self._begin_step(row)
        return row


def steps_of(run: Run, progress: Progress, items: Any, cursor: Callable[[Any], Any] | None) -> Steps[Any] | AsyncSteps[Any]:
    """Return the loop over the rows that are left; raise CheckpointError for items from which no run could continue."""
    number, start = progress.begin_loop()
    count = 0
    if not isinstance(items, (Iterable, AsyncIterable)):
        items = _called(items, cursor, start)
    elif start is not None and cursor is None:
        count = _count(start)
        items = _without_first(items, count)
    elif start is not None and cursor is not None:
        items = _after(items, cursor, start)
    if isinstance(items, (set, frozenset)):
        raise CheckpointError("steps: a set has another order in every process: pass sorted(...)")
    over = number < progress.place.loop
    if isinstance(items, AsyncIterable):
        return AsyncSteps(_nothing() if over else items.__aiter__(), run, progress, cursor, number, count)
    return Steps(iter(()) if over else iter(items), run, progress, cursor, number, count)


def _called(source: Any, cursor: Callable[[Any], Any] | None, start: bytes | None) -> Any:
    """Return the rows after a cursor, as the application's function gives them."""
    if not callable(source):
        raise CheckpointError(f"steps: expected an iterable, or a function that returns one, got {type(source).__name__}")
    if cursor is None:
        raise CheckpointError(
            "steps: a function that returns the rows after a cursor needs the cursor of a row, too: "
            "steps(rows_after, cursor=lambda row: row.id)"
        )
    items = source(None if start is None else msgspec.json.decode(start))
    if isinstance(items, (Iterable, AsyncIterable)):
        return items
    if inspect.iscoroutine(items):
        items.close()
        raise CheckpointError("steps: the function returned a coroutine: make it an async generator, or await the rows before")
    raise CheckpointError(f"steps: the function returned {type(items).__name__}, expected an iterable of rows")


def _count(start: bytes) -> int:
    count = msgspec.json.decode(start)
    if type(count) is not int:
        raise CheckpointError(
            f"steps: the stored cursor is {start.decode()}, not a number of rows: an earlier version of this job stored it; "
            "give steps the same cursor= as then"
        )
    return count


def _without_first(items: Any, count: int) -> Any:
    """Return the items without the first `count`."""
    if isinstance(items, AsyncIterable):
        return _without_first_async(items, count)
    if isinstance(items, Sequence):
        return map(items.__getitem__, range(count, len(items)))
    return itertools.islice(items, count, None)


async def _without_first_async(items: AsyncIterable[T], count: int) -> AsyncIterator[T]:
    async for item in items:
        if count:
            count -= 1
        else:
            yield item


def _after(items: Any, cursor: Callable[[Any], Any], start: bytes) -> Any:
    """Return the items after the one with this cursor."""
    start = encoded_as_json(msgspec.json.decode(start), _CURSOR)
    if isinstance(items, AsyncIterable):
        return _after_async(items, cursor, start)
    return _after_sync(iter(items), cursor, start)


def _after_sync(rows: Iterator[T], cursor: Callable[[Any], Any], start: bytes) -> Iterator[T]:
    for row in rows:
        if encoded_as_json(cursor(row), _CURSOR) == start:
            yield from rows
            return
    raise _not_found(start)


async def _after_async(rows: AsyncIterable[T], cursor: Callable[[Any], Any], start: bytes) -> AsyncIterator[T]:
    found = False
    async for row in rows:
        if found:
            yield row
        else:
            found = encoded_as_json(cursor(row), _CURSOR) == start
    if not found:
        raise _not_found(start)


def _not_found(start: bytes) -> CheckpointError:
    return CheckpointError(
        f"steps: no row has the stored cursor {start.decode()[:100]}, so the place to continue from is unknown: give a "
        "function that returns the rows after a cursor, steps(rows_after, cursor=...)"
    )


async def _nothing() -> AsyncIterator[Any]:
    return
    yield
