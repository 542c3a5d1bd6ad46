"""The table of changes in docs/backend-authors.md states what the memory model does, row by row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs_core import UniqueKey
from jobs_core.backends.base import BackendOptions, JobRecord, Outcome, Outgoing, Settlement, State
from jobs_core.backends.memory import MemoryBackend, forget

PAGE = Path(__file__).parents[2] / "docs" / "backend-authors.md"
SCOPES: dict[str, str | float] = {"queued": "queued", "done": "done", "seconds": 1000.0}


def table() -> dict[str, list[str]]:
    """Return the rows of the page's table: the change, and its cells."""
    text = PAGE.read_text().partition("| change |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


class Bench:
    """One job with a unique key, between two that became ready before and after it, on its own clock."""

    def __init__(self, scope: str | float) -> None:
        self.now = 100.0
        forget("memory://table")
        self.backend = MemoryBackend("memory://table", BackendOptions(lease=10.0, clock=lambda: self.now))
        self.backend.open("owner")
        self.key = UniqueKey("key", scope)  # type: ignore[arg-type]
        self.requests = map(str, itertools.count())

    def push(self, name: str, at: float, delay: float = 0.0, unique: UniqueKey | None = None) -> dict[str, str]:
        self.now = at
        return dict(self.backend.push([Outgoing(name, "t", b"{}", delay=delay, unique=unique)], next(self.requests)))

    def waiting(self, delay: float = 0.0) -> None:
        self.push("before", 101.0)
        self.push("job", 102.0, delay, self.key)
        self.push("after", 104.0)
        self.now = 105.0

    def reserved(self) -> None:
        self.waiting()
        (self.delivery,) = self.backend.claim(["job"], next(self.requests))

    def settle(self, outcome: Outcome, **fields: object) -> None:
        settlement = Settlement("job", self.delivery.token, outcome, **fields)  # type: ignore[arg-type]
        self.backend.settle([settlement], next(self.requests))

    def dead(self) -> None:
        self.reserved()
        self.settle(Outcome.DEAD, error=b"{}")

    def found(self) -> JobRecord | None:
        record = self.backend.get("job")
        return None if record is None or record.state in (State.DONE, State.CANCELLED) else record

    def place(self) -> str:
        record = self.found()
        if record is not None and record.state is State.SCHEDULED:
            return "not in line"
        order = [delivery.id for delivery in self.backend.reserve(["t"], 9, next(self.requests))]
        return {2: "last", 1: "between"}.get(order.index("job"), "first") if "job" in order else "none"

    def release_owner(self, *started: str) -> None:
        other = MemoryBackend("memory://table", BackendOptions(lease=10.0, clock=lambda: self.now))
        other.release_owner("owner", started, b"{}")
        self.backend.open("owner")


def settled(outcome: Outcome, **fields: object) -> tuple[Callable[[Bench], None], Callable[[Bench], None]]:
    return Bench.reserved, lambda bench: bench.settle(outcome, error=b"{}", **fields)


def nothing(bench: Bench) -> None:
    pass


def scheduled(bench: Bench) -> None:
    bench.waiting(delay=500.0)


CHANGES: dict[str, tuple[Callable[[Bench], None], Callable[[Bench], None]]] = {
    "`push`": (nothing, Bench.waiting),
    "`push` with a delay": (nothing, scheduled),
    "its time comes": (lambda bench: bench.waiting(delay=1.0), nothing),
    "`reserve`": (Bench.waiting, lambda bench: bench.backend.claim(["job"], "claim") and None),
    "settled `RELEASE`": settled(Outcome.RELEASE),
    "settled `RETRY`": settled(Outcome.RETRY),
    "settled `DEFER`": settled(Outcome.DEFER),
    "settled `DONE`": settled(Outcome.DONE),
    "settled `DEAD`": settled(Outcome.DEAD),
    "settled `DEAD`, `counts=False`": settled(Outcome.DEAD, counts=False),
    "settled `EXPIRED`": settled(Outcome.EXPIRED),
    "settled `CANCELLED`": settled(Outcome.CANCELLED),
    "`cancel` of a waiting job": (Bench.waiting, lambda bench: bench.backend.cancel("job") and None),
    "`release_owner`, job not started": (Bench.reserved, Bench.release_owner),
    "`release_owner`, job started": (Bench.reserved, lambda bench: bench.release_owner("job")),
    "`requeue` of a dead letter": (Bench.dead, lambda bench: bench.backend.requeue(["job"]) and None),
    "`requeue` of a scheduled job": (scheduled, lambda bench: bench.backend.requeue(["job"]) and None),
    "`discard`": (Bench.waiting, lambda bench: bench.backend.discard(["job"], "why") and None),
    "`purge`": (Bench.waiting, lambda bench: bench.backend.purge("t", State.READY) and None),
    "`drop`": (Bench.dead, lambda bench: bench.backend.drop(["job"]) and None),
}


def happened(change: str, scope: str | float) -> tuple[Bench, JobRecord | None]:
    bench = Bench(scope)
    before, act = CHANGES[change]
    before(bench)
    old = bench.found()
    bench.now += 1
    act(bench)
    return bench, old


@pytest.mark.parametrize("change", CHANGES)
def test_the_table_matches_the_model(change: str) -> None:
    *keys, place, attempt, history = table()[change]
    for said, scope in zip(keys, SCOPES.values(), strict=True):
        bench, _ = happened(change, scope)
        assert said == ("held" if bench.push("rival", bench.now, unique=bench.key) else "free"), f"key, {scope}"
    bench, old = happened(change, "done")
    new = bench.found()
    assert {"where it was": "between", "by its time": "between"}.get(place, place) == bench.place()
    if new is None:
        assert (attempt, history) == ("–", "–")
        return
    counted = new.attempt - (old.attempt if old else 0)
    assert attempt == ("same" if counted == 0 else "+ 1" if counted == 1 else "0")
    assert history == ("same" if not old or old.errors == new.errors else "+ 1")


def test_the_table_has_every_change() -> None:
    assert list(table()) == list(CHANGES)
    assert {outcome.name for outcome in Outcome} <= {change.split("`")[1] for change in CHANGES if change.startswith("settled")}
