"""Filters of `jobsctl list` and `jobsctl dead`: by job, key, text of the arguments, time and error."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

import click
import msgspec
from msgspec import Struct

from ..backends.base import Backend, JobRecord
from ..errors import MessageError, PayloadError, PayloadStoreUnavailable
from ..operating.formatting import count
from . import output
from .common import Context
from .types import PAST, PAST_EXAMPLE, TEXT

MOST = 10_000
"""Most jobs of one topic and state that a search reads."""

PAGE = 500
"""Jobs that are read in one call."""

F = TypeVar("F", bound=Callable[..., Any])


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

    def accepts(self, context: Context, record: JobRecord) -> bool:
        """Return whether a record passes all tests; one whose arguments cannot be read contains no text."""
        at = record.since or record.pushed_at
        if (self.since is not None and at < self.since) or (self.until is not None and at > self.until):
            return False
        if self.key is not None and record.key != self.key:
            return False
        if self.error is not None and self.error.lower() not in _error_of(record).lower():
            return False
        return self._accepts_message(context, record)

    def _accepts_message(self, context: Context, record: JobRecord) -> bool:
        if self.job is None and self.text is None:
            return True
        try:
            message = context.app.envelope(record)
            if self.job is not None and self.job not in (message.job, (message.job or "").rpartition(".")[2]):
                return False
            if self.text is None:
                return True
            message = context.app.payloads.unpacked(message)
        except (MessageError, PayloadError, PayloadStoreUnavailable):
            return False
        return self.text.lower() in msgspec.json.encode((message.args, message.kwargs)).decode().lower()


def _error_of(record: JobRecord) -> str:
    if not record.errors:
        return record.reason
    error = msgspec.json.decode(record.errors[-1])
    return f"{record.reason}\n{error.get('type')}: {error.get('message')}"


def search_options(command: F) -> F:
    """Add the options of a search to a command, which gets a `Search` as `search`."""

    @functools.wraps(command)
    def searching(*args: Any, **given: Any) -> Any:
        moments: dict[str, Any] = {name: None if given[name] is None else _unix(given[name]) for name in ("since", "until")}
        texts: dict[str, Any] = {name: given[name] for name in ("job", "key", "text", "error")}
        rest = {name: value for name, value in given.items() if name not in moments and name not in texts}
        return command(*args, **rest, search=Search(**texts, **moments))

    for option in (
        click.option("--until", metavar="TIME", type=PAST, help="Only jobs that came into this state at or before this time."),
        click.option(
            "--since", metavar="TIME", type=PAST, help=f"Only jobs that came into this state at or after: {PAST_EXAMPLE}."
        ),
        click.option("--error", type=TEXT, help="Only jobs whose reason or last error contains this text."),
        click.option("--text", type=TEXT, help="Only jobs whose arguments, as JSON, contain this text."),
        click.option("--key", metavar="KEY", type=TEXT, help="Only jobs with this key."),
        click.option("--job", metavar="NAME", type=TEXT, help="Only jobs of this name; without a module, of any module."),
    ):
        option(searching)
    return searching  # type: ignore[return-value]


def typed(text: str) -> Search:
    """Return the search that a user has typed in one line: words in the arguments, and `key=value`; raise ValueError."""
    given: dict[str, Any] = {}
    words = []
    for word in shlex.split(text):
        name, sign, value = word.partition("=")
        if not sign or name not in Search.__struct_fields__:
            words.append(word)
        elif name in ("since", "until"):
            try:
                given[name] = _unix(PAST.convert(value, None, None))
            except click.UsageError as error:
                raise ValueError(error.message) from None
        else:
            given[name] = value
    if words:
        given["text"] = " ".join([*([given["text"]] if "text" in given else []), *words])
    return Search(**given)


def _unix(moment: datetime) -> float:
    return moment.timestamp()


def found(
    context: Context, browse: Callable[[Backend, int, int], list[JobRecord]], search: Search, limit: int | None
) -> list[JobRecord]:
    """Return up to `limit` records that pass; `browse` takes a number and an offset. Print a note if not all jobs were read."""
    if not search.given and limit is not None:
        return context.operate(lambda backend: browse(backend, limit, 0))
    records: list[JobRecord] = []
    for record in _read(context, browse):
        if search.accepts(context, record):
            records.append(record)
            if limit is not None and len(records) >= limit:
                break
    return records


def _read(context: Context, browse: Callable[[Backend, int, int], list[JobRecord]]) -> Iterator[JobRecord]:
    for offset in range(0, MOST, PAGE):
        page = context.operate(lambda backend, offset=offset: browse(backend, PAGE, offset))  # type: ignore[misc]
        yield from page
        if len(page) < PAGE:
            return
    output.echo(f"jobs: only the first {count(MOST, 'job')} of a topic were searched: it has more in this state", err=True)
