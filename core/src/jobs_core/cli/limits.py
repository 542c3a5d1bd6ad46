"""`jobsctl limits`: show the limits on concurrency and rate, and override them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from ..backends.base import Backend
from ..backends.limits import Limit, LimitState, held_back, name_of
from ..limiting import described
from ..operating.limits import NONE, applies, changed
from ..options import limit_error
from ..units import format_duration, format_rate, interval
from . import output
from .common import Context, fail, json_option, pass_context
from .exits import Exit
from .groups import DefaultsToList
from .types import LIMIT


class _LimitName(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    name = "NAME[:VALUE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if reason := limit_error(str(value)):
            self.fail(reason, param, ctx)
        return str(value)


class _Rate(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != NONE:
            try:
                interval(str(value))
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return str(value)


class _Concurrency(click.IntRange):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return NONE if value == NONE else super().convert(value, param, ctx)


@click.group("limits", cls=DefaultsToList)
def limits_command() -> None:
    """Show the limits that jobs name, and override them; `jobsctl limits` alone lists them."""


@limits_command.command("list")
@click.argument("name", required=False)
@click.option("--limit", "most", type=LIMIT, default=50, show_default=True, help="List at most this many.")
@json_option
@pass_context
def list_command(context: Context, name: str | None, most: int, as_json: bool) -> None:
    """List limits and their values, those with the most waiting jobs first: all, or those of NAME, or NAME:VALUE.

    "used" counts reserved jobs; "waiting" counts the jobs that this limit keeps from being reserved. The row of a name is not
    the sum of its values: its bounds apply to each of them ("for each value").
    """
    states = context.operate(lambda backend: _states(backend, name, most))
    if as_json:
        output.json([_as_data(state) for state in states])
        return
    columns = ["limit", "used", "of", "rate", "waiting", ""]
    divided = {name_of(state.limit) for state in states if ":" in state.limit}
    rows = [_row(state, each_value=state.limit in divided) for state in states]
    output.table(columns, rows, empty=_nothing(context, name))


def _nothing(context: Context, limit: str | None) -> str:
    """Return why no limit is listed."""
    none = f"no limit {limit} is in use" if limit else "no limits are in use"
    names = [name for name in sorted(context.app.config.limits) if limit is None or name == name_of(limit)]
    if not names or (limit is not None and ":" in limit):
        return none
    are = "is" if len(names) == 1 else "are"
    return f"{none}: {', '.join(names)} {are} defined in the configuration, no worker has started yet"


def _states(backend: Backend, name: str | None, most: int) -> list[LimitState]:
    found = backend.limits(most if name is None or ":" not in name else 10_000, () if name is None else (name_of(name),))
    return found if name is None or ":" not in name else [state for state in found if state.limit == name]


def _row(state: LimitState, *, each_value: bool) -> tuple[Any, ...]:
    applies = state.definition or Limit()
    rate = "" if applies.interval is None else format_rate(applies.interval)
    rate += f" burst {applies.burst}" if applies.interval is not None and applies.burst > 1 else ""
    of = "" if applies.concurrency is None else applies.concurrency
    notes = [*held_back(state), *(["overridden"] if state.overridden else []), *(["for each value"] if each_value else [])]
    return state.limit, state.used, of, rate, state.waiting, ", ".join(notes)


def _as_data(state: LimitState) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(state)
    if data["definition"] is not None:
        each = data["definition"].pop("interval")
        data["definition"]["rate"] = None if each is None else format_rate(each)
    return data


@limits_command.command("set")
@click.argument("limit", metavar="NAME[:VALUE]", type=_LimitName())
@click.option("--concurrency", metavar="N", type=_Concurrency(0, 10**12), help='Jobs at once; 0 closes it; "none": no bound.')
@click.option("--rate", metavar="RATE", type=_Rate(), help='Starts in a period, such as "10/s"; "none": no rate.')
@click.option("--burst", metavar="N", type=click.IntRange(1, 10**12), help="Starts that may come together after a pause.")
@pass_context
def set_command(context: Context, limit: str, concurrency: int | str | None, rate: str | None, burst: int | None) -> None:
    """Override a limit, or one value of it, until `jobsctl limits reset`: at once, on all machines.

    Options that you leave out keep their present values. Running jobs are not affected.
    """
    if concurrency is None and rate is None and burst is None:
        fail("nothing to set: give --concurrency, --rate or --burst", Exit.USAGE)
    states, before = context.operate(lambda backend: applies(context.app, backend, limit))
    try:
        made = changed(before, concurrency, rate, burst)
    except ValueError as error:
        fail(f"--burst: limit {limit} {error}: give --rate too", Exit.USAGE)
    context.operate(lambda backend: backend.override_limit(limit, made))
    output.echo(f"{limit}: {described(made)}, until `jobsctl limits reset {limit}`")
    if doubt := _doubt(context, limit, states):
        output.echo(f"jobs: {doubt}", err=True)
    if (state := states.get(limit)) is not None and state.closed_for > 0:
        until = f"for {format_duration(math.ceil(state.closed_for))}"
        output.echo(
            f"jobs: a job has closed {limit} {until}: to open it, run `jobsctl limits reset {limit}`, then set it again",
            err=True,
        )


@limits_command.command("reset")
@click.argument("limit", metavar="NAME[:VALUE]", type=_LimitName())
@click.option("--definition", is_flag=True, help="Also remove the definition of NAME, once no configuration contains it.")
@pass_context
def reset_command(context: Context, limit: str, definition: bool) -> None:
    """End the override of a limit, or of one value of it, and its closures by jobs: its definition applies again."""
    if definition and ":" in limit:
        fail("--definition: only names are defined, not values", Exit.USAGE)
    if definition and limit in context.app.config.limits:
        fail(f"--definition: this configuration defines {limit}: remove [limits.{limit}] from it first", Exit.USAGE)

    def reset(backend: Backend) -> None:
        backend.override_limit(limit, None)
        if definition:
            backend.define_limits({limit: Limit()}, {})

    states, _ = context.operate(lambda backend: applies(context.app, backend, limit))
    context.operate(reset)
    _, now = context.operate(lambda backend: applies(context.app, backend, limit))
    output.echo(f"{limit}: {described(now)}")
    if not definition and limit not in states and (doubt := _doubt(context, limit, states)):
        output.echo(f"jobs: {doubt}", err=True)


def _doubt(context: Context, limit: str, states: Mapping[str, LimitState]) -> str:
    """Return why a limit is probably a typo; "" if it is known, by more than an earlier override."""
    name, defined = name_of(limit), context.app.config.limits
    if "{" in limit:
        return f"braces are not replaced in {limit}: `jobsctl limits set {name}` sets each of its values"
    if name in defined or any(state.used or state.waiting or not state.overridden for state in states.values()):
        return ""
    near = difflib.get_close_matches(name, defined, 1)
    return f"limit {name} is not defined here, and not in use" + (f"; did you mean {near[0]}?" if near else "")
