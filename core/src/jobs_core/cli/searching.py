"""Filters of `jobsctl list` and `jobsctl dead`: by job, key, text of the arguments, time and error."""

from __future__ import annotations

import functools
import itertools
import shlex
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from ..backends.base import Backend, JobRecord
from ..operating.formatting import count
from ..operating.searching import Search, accepted
from . import output
from .common import Context
from .types import PAST, PAST_EXAMPLE, TEXT

F = TypeVar("F", bound=Callable[..., Any])


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

    def page(most: int, offset: int) -> list[JobRecord]:
        return context.operate(lambda backend: browse(backend, most, offset))

    return list(itertools.islice(accepted(context.app, search, page, _tell_of_more), limit))


def _tell_of_more(most: int) -> None:
    output.echo(f"jobs: only the first {count(most, 'job')} of a topic were searched: it has more in this state", err=True)
