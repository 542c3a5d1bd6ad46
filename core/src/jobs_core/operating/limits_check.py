"""The part of `jobsctl check` about limits, fairness, flows and kept jobs: what the backend lacks, settings without effect, and
definitions that differ elsewhere. Findings are good, a warning, or bad.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ..app import App
from ..backends.base import Backend
from ..backends.limits import KEY_LIMIT, Limit, LimitState, key_limit, name_of
from ..errors import elsewhere
from ..limiting import computes, defined_limits, described, fair_setting, is_fair, undefined, uses
from .formatting import count

MOST_STATES = 1000
"""Most values of limits that are read for a check."""


def lacking(app: App) -> Iterator[tuple[str, str]]:
    """Yield what the application uses and its backend does not have, whether the backend can be reached or not."""
    config, used = app.config, uses(app.registry)
    backend = app.new_backend()
    fair = sorted(name for name in config.topics if is_fair(config, name))
    if fair and "fairness" not in backend.features:
        setting = fair_setting(config, fair[0])
        yield "bad", _lacks(backend, "fairness", f"jobs with a key cannot be enqueued while {setting}: remove it")
    if "limits" not in backend.features:
        if used:
            limit, jobs = next(iter(used.items()))
            yield "bad", _lacks(backend, "limits", f"{jobs[0]} cannot be enqueued with its limit {limit}: leave it out")
        elif computes(app.registry):
            yield "bad", _lacks(backend, "limits", f"{_computing(app)} computes its limits: leave them out")
        elif config.limits:
            yield "warning", _lacks(backend, "limits", f"limits.{next(iter(config.limits))} has no effect: remove it")
    if "flows" not in backend.features and (where := _uses_flows(app)):
        yield "warning", _lacks(backend, "flows", f"what {where} sends is refused: let each job enqueue the next")
    for key, feature in (("keep_done", "history"), ("keep_logs", "notes")):
        keeping = [f"topics.{name}.{key}" for name, topic in config.topics.items() if getattr(topic, key)]
        if keeping and feature not in backend.features:
            has = "has" if len(keeping) == 1 else "have"
            yield "warning", _lacks(backend, feature, f"{', '.join(keeping)} {has} no effect: remove it")


def _lacks(backend: Backend, feature: str, what: str) -> str:
    return f"{backend.name}:// does not support {feature}: {what}, or {elsewhere(feature)}"


def _computing(app: App) -> str:
    return next(job.name for job in app.registry if computes([job]))


def _uses_flows(app: App) -> str:
    """Return a name in the modules with jobs that composes flows, with its module; other modules are not searched."""
    from ..flows import Chain, Flow, Group, chain, group  # late: only a backend without flows needs them

    composing = (Flow, Chain, Group, chain, group)
    modules: dict[str, dict[str, Any]] = {}
    for job in app.registry:
        modules.setdefault(job.function.__module__, getattr(job.function, "__globals__", {}))
    for name in app.config.modules:
        modules.setdefault(name, vars(sys.modules[name]) if name in sys.modules else {})
    for module, names in modules.items():
        for name, value in list(names.items()):
            if any(value is each for each in composing):
                return f"{name} of {module}"
    return ""


def problems(app: App) -> Iterator[tuple[str, str]]:
    """Yield the findings about limits and fair topics; none if neither is used."""
    config, used = app.config, uses(app.registry)
    fair = any(is_fair(config, name) for name in config.topics)
    for name, topic in config.topics.items():
        if topic.max_per_key is not None and not topic.fair:
            yield "warning", f"topics.{name}.max_per_key has no effect: it belongs to fair = true, which is not set"
    if not (used or config.limits or fair or computes(app.registry)):
        return
    if "limits" in app.new_backend().features:
        yield from _names(app, used)
        yield from app.operate(lambda backend: [*_stored(app, backend), *_keys(app, backend)])


def _names(app: App, used: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    config = app.config
    missing = undefined(used, config)
    for limit, jobs in missing.items():
        others = f" and {count(len(set(jobs)) - 1, 'other job')}" if len(set(jobs)) > 1 else ""
        yield (
            "warning",
            f"{min(jobs)}{others} {'use' if others else 'uses'} the limit {limit}, which limits nothing: define it, "
            f"limits.{limit} = {{concurrency = 5}}",
        )
    unused = [] if computes(app.registry) else sorted(set(config.limits) - set(used))
    for limit in unused:
        yield "warning", f'[limits.{limit}] is used by no job here: name it, @job(limits="{limit}"), or remove it'
    if config.limits and not missing and not unused:
        yield "good", ", ".join(f"{name} ({described(limit)})" for name, limit in defined_limits(config).items())


def _stored(app: App, backend: Backend) -> Iterator[tuple[str, str]]:
    """Compare the definitions that the backend has with those of the configuration."""
    here = defined_limits(app.config)
    states = {state.limit: state for state in backend.limits(MOST_STATES, tuple(here))}
    for name, state in {**{each.limit: each for each in backend.limits(MOST_STATES)}, **states}.items():
        if ":" not in name and state.definition not in (None, Limit()):
            yield from _difference(name, state, here.get(name))


def _keys(app: App, backend: Backend) -> Iterator[tuple[str, str]]:
    """Compare `max_per_key` of the backend, which tells it of keys in use, with that of the configuration."""
    topics = sorted({*app.config.topics, *app.config.served_topics()})
    stored: dict[str, int | None] = {}
    for state in backend.limits(MOST_STATES, [name_of(key_limit(topic, "")) for topic in topics]):
        topic = name_of(state.limit)[len(KEY_LIMIT) :]
        stored[topic] = state.definition.concurrency if state.definition is not None else None
    for topic, there in stored.items():
        here = app.config.topic(topic).max_per_key if is_fair(app.config, topic) else None
        if there != here:
            yield (
                "warning",
                f"topic {topic} has {_most(there)} in the backend, and {_most(here)} here: `jobsctl start` or `reload` writes "
                "this one; if it comes back, another application configures the same topic",
            )


def _most(per_key: int | None) -> str:
    return "no max_per_key" if per_key is None else f"max_per_key = {per_key}"


def _difference(name: str, state: LimitState, here: Limit | None) -> Iterator[tuple[str, str]]:
    there = described(state.definition or Limit())
    if state.overridden:
        yield "warning", f"limit {name} is overridden: {there}, until `jobsctl limits reset {name}`"
    elif here is None:
        yield (
            "warning",
            f"limit {name} is defined in the backend ({there}), but not here: by another application, or by an earlier "
            f"configuration; then `jobsctl limits reset {name} --definition` removes it",
        )
    elif here != state.definition:
        yield (
            "warning",
            f"limit {name} is {there} in the backend, and {described(here)} here: `jobsctl start` or `reload` writes this one; "
            "if it comes back, another application defines the same name",
        )
