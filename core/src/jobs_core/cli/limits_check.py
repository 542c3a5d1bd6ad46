"""The part of `jobsctl check` about limits and fairness: settings without effect, and definitions that differ elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from ..app import App
from ..backends.base import Backend
from ..backends.limits import Limit, LimitState
from ..limiting import computes, defined_limits, described, is_fair, undefined, uses
from . import output
from .formatting import count

MOST_STATES = 1000
"""Most values of limits that are read for a check."""


def problems(app: App) -> Iterator[tuple[str, str]]:
    """Yield the findings about limits and fair topics; none if neither is used."""
    config, used = app.config, uses(app.registry)
    fair = sorted(name for name in config.topics if is_fair(config, name))
    for name, topic in config.topics.items():
        if topic.max_per_key is not None and not topic.fair:
            yield output.WARN, f"topics.{name}.max_per_key has no effect: it belongs to fair = true, which is not set"
    if not (used or config.limits or fair or computes(app.registry)):
        return
    features, name = app.new_backend().features, app.new_backend().name
    if fair and "fairness" not in features:
        yield (
            output.BAD,
            f"{name}:// does not support fairness (topics.{fair[0]}.fair): remove it, or choose a backend that does: see "
            '"Backends" in the documentation',
        )
    if "limits" not in features:
        if used:
            limit, jobs = next(iter(used.items()))
            yield (
                output.BAD,
                f"{name}:// does not support limits: {jobs[0]} cannot be enqueued with its limit {limit}: choose a "
                'backend that does: see "Backends" in the documentation',
            )
        elif config.limits:
            yield output.WARN, f"{name}:// does not support limits: [limits.{next(iter(config.limits))}] has no effect"
        return
    yield from _names(app, used)
    yield from app.operate(lambda backend: list(_stored(app, backend)))


def _names(app: App, used: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    config = app.config
    missing = undefined(used, config)
    for limit, jobs in missing.items():
        others = f" and {count(len(set(jobs)) - 1, 'other job')}" if len(set(jobs)) > 1 else ""
        yield (
            output.WARN,
            f"{min(jobs)}{others} {'use' if others else 'uses'} the limit {limit}, which limits nothing: define it, "
            f"limits.{limit} = {{concurrency = 5}}",
        )
    unused = [] if computes(app.registry) else sorted(set(config.limits) - set(used))
    for limit in unused:
        yield output.WARN, f'[limits.{limit}] is used by no job here: name it, @job(limits="{limit}"), or remove it'
    if config.limits and not missing and not unused:
        yield output.GOOD, ", ".join(f"{name} ({described(limit)})" for name, limit in defined_limits(config).items())


def _stored(app: App, backend: Backend) -> Iterator[tuple[str, str]]:
    """Compare the definitions that the backend has with those of the configuration."""
    here = defined_limits(app.config)
    states = {state.limit: state for state in backend.limits(MOST_STATES, tuple(here))}
    for name, state in {**{each.limit: each for each in backend.limits(MOST_STATES)}, **states}.items():
        if ":" not in name and state.definition not in (None, Limit()):
            yield from _difference(name, state, here.get(name))


def _difference(name: str, state: LimitState, here: Limit | None) -> Iterator[tuple[str, str]]:
    there = described(state.definition or Limit())
    if state.overridden:
        yield output.WARN, f"limit {name} is overridden: {there}, until `jobsctl limits reset {name}`"
    elif here is None:
        yield (
            output.WARN,
            f"limit {name} is defined in the backend ({there}), but not here: by another application, or by an earlier "
            f"configuration; then `jobsctl limits reset {name} --definition` removes it",
        )
    elif here != state.definition:
        yield (
            output.WARN,
            f"limit {name} is {there} in the backend, and {described(here)} here: `jobsctl start` or `reload` writes this one; "
            "if it comes back, another application defines the same name",
        )
