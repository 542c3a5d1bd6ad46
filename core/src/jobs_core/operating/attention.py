"""What needs an operator, the worst first: findings from a snapshot of the backend and from the processes on this machine.

A finding names its subject, so that a page can lead to where it is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from ..app import App
from ..backends.base import Counts
from ..backends.limits import LimitState, held_back
from ..config import Config
from ..escapes import word
from ..machines import MachineReport
from ..units import are, count, format_duration
from .formatting import age
from .snapshot import Snapshot
from .this_machine import view

SILENT = 15.0
"""Age in seconds from which the report of a machine, which sends one every 5 s, is out of date."""

OLD = 300.0
"""Age in seconds from which a ready job is worth a look, in a topic without `alert_age`."""

MOST_GROUPS = 5
"""Most groups of dead letters that are told."""

Level: TypeAlias = Literal["bad", "warning", "note"]
Subject: TypeAlias = Literal["backend", "machine", "topic", "dead", "flow", "limit"]


class Finding(Struct, frozen=True):
    """One sentence for an operator, with what it is about: the name of a topic or machine, or the id of a group or flow."""

    level: Level
    text: str
    subject: Subject
    name: str = ""
    fix: str = ""  # the command that fixes it, or shows more


_ORDER: dict[str, int] = {"bad": 0, "warning": 1, "note": 2}


def findings(app: App, snapshot: Snapshot) -> list[Finding]:
    """Return what needs an operator. Reads files of this machine, and asks no backend."""
    here = list(_here(app))
    if snapshot.error:
        return [Finding("bad", f"the backend does not answer: {snapshot.error}", "backend"), *here]
    found = [
        *here,
        *_machines(snapshot),
        *_topics(app.config, snapshot),
        *_limits(snapshot),
        *_flows(snapshot),
        *_dead(snapshot),
    ]
    return sorted(dict.fromkeys(found), key=lambda finding: _ORDER[finding.level])  # stable: the parts keep their order


def _here(app: App) -> Iterator[Finding]:
    """Yield the problems of the supervisor of this run directory, if there is one."""
    here = view(app.run_dir)
    for trouble in here.of_processes() if here is not None else ():
        yield Finding("bad", f"on this machine: {trouble}", "machine")


def _machines(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.machines is None:
        return
    waiting = sum(number.ready for number in snapshot.topics.values())
    if not snapshot.machines:
        level: Level = "bad" if waiting else "note"
        yield Finding(level, f"no machine reports: no supervisor is running, {are(waiting, 'job')} ready", "machine",
                      fix="jobsctl start")  # fmt: skip
    for machine in snapshot.machines:
        yield from _machine(machine)


def _machine(machine: MachineReport) -> Iterator[Finding]:
    if machine.age > SILENT:
        yield Finding("bad", f"machine {machine.name} has been silent for {age(machine.age)}", "machine", machine.name)
    if machine.state == "quiet":
        yield Finding("warning", f"machine {machine.name} is quiet: it takes no new jobs", "machine", machine.name,
                      f"jobsctl machines resume {word(machine.name)}")  # fmt: skip
    if machine.last_refusal:
        text = f"machine {machine.name} refused its last reload: {machine.last_refusal}"
        yield Finding("warning", text, "machine", machine.name)
    for pool in machine.pools:
        if pool.last_error and pool.serving < pool.wanted:
            text = f"pool {pool.name} of {machine.name}: {pool.serving:,} of {count(pool.wanted, 'worker')} serve: "
            yield Finding("bad", text + pool.last_error, "machine", machine.name)


def _topics(config: Config, snapshot: Snapshot) -> Iterator[Finding]:
    served = _served(snapshot)
    for name, number in snapshot.topics.items():
        if name in snapshot.paused:
            text = f"topic {name} is paused, {are(number.ready, 'job')} ready"
            yield Finding("warning" if number.ready else "note", text, "topic", name, f"jobsctl resume {word(name)}")
        elif number.ready and served is not None and name not in served:
            text = f"topic {name}: {are(number.ready, 'job')} ready, and no running machine serves it"
            yield Finding("bad", text, "topic", name)
        elif late := _late(config, name, number):
            yield Finding("bad", late, "topic", name)


def _served(snapshot: Snapshot) -> set[str] | None:
    """Return the topics that some machine serves; None if no machine reports, which is a finding of its own."""
    if not snapshot.machines:
        return None
    return {topic for machine in snapshot.machines for pool in machine.pools for topic in pool.topics}


def _late(config: Config, name: str, number: Counts) -> str:
    """Return how far a topic is behind; "" if it is not."""
    settings = config.topic(name)
    oldest = number.oldest_age or 0.0
    limit = float(settings.alert_age) if settings.alert_age is not None else OLD
    waited = f", the oldest for {age(oldest)}" if number.oldest_age is not None else ""
    if settings.alert_above is not None and number.ready > settings.alert_above:
        return f"topic {name} is behind: {are(number.ready, 'job')} ready{waited}; it alerts above {settings.alert_above:,}"
    if oldest > limit:
        alerts = f"; it alerts after {format_duration(limit)}" if settings.alert_age is not None else ""
        return f"topic {name} is behind: {are(number.ready, 'job')} ready{waited}{alerts}"
    return ""


def _limits(snapshot: Snapshot) -> Iterator[Finding]:
    for state in snapshot.limits or ():
        held = ", ".join(held_back(state))
        if held and state.waiting:
            text = f"limit {state.limit}: {held}, {are(state.waiting, 'job')} waiting for it"
            level: Level = "note" if held == "full" else "warning"
            yield Finding(level, text, "limit", state.limit, _opening(state))


def _opening(state: LimitState) -> str:
    """Return the command that lets more jobs start under a limit; N and RATE are for the operator to choose."""
    limit = word(state.limit)
    if state.closed_for > 0:
        return f"jobsctl limits reset {limit}"
    concurrency = state.definition.concurrency if state.definition is not None else None
    is_full = concurrency is not None and state.used >= concurrency
    return f"jobsctl limits set {limit} " + ("--concurrency N" if is_full else "--rate RATE")


def _flows(snapshot: Snapshot) -> Iterator[Finding]:
    for flow in snapshot.flows or ():
        if flow.state == "failed":
            name = f"{flow.name} ({flow.id})" if flow.name else flow.id
            text = f"flow {name} has failed: {count(flow.dead, 'dead member')}, {count(flow.waiting, 'member')} waiting"
            yield Finding("warning", text, "flow", flow.id, f"jobsctl flow retry {flow.id}")


def _dead(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.groups is None:
        for name, number in snapshot.topics.items():
            if number.dead:
                text = f"topic {name}: {count(number.dead, 'dead letter')}"
                yield Finding("warning", text, "topic", name, f"jobsctl dead groups {word(name)}")
        return
    letters: Counter[str] = Counter()
    causes = {}
    for group in snapshot.groups:
        letters[group.fingerprint.id] += group.letters
        causes[group.fingerprint.id] = group.fingerprint
    for found, dead in letters.most_common(MOST_GROUPS):
        cause = causes[found]
        told = f"{cause.kind}: {cause.message}" if cause.message else cause.kind
        fix = f"jobsctl dead retry --group {found}"
        yield Finding("warning", f"{count(dead, 'dead letter')}: {told}", "dead", found, fix)
    if (more := len(letters) - MOST_GROUPS) > 0:
        yield Finding("note", f"{count(more, 'more group')} of dead letters", "dead", fix="jobsctl dead groups")
