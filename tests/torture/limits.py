"""The row "100,000 jobs under 1,000 limits": no limit is ever exceeded, and no slot is lost, whatever is killed.

Each job tells when it ran, and when it was reserved. Two runs of one limit that overlap held two of its slots at least; the
reservations of jobs that ran took a token each. A token that came back with an unstarted job is used later than it was taken,
so that at some moment up to a burst more may be reserved. At the end, each limit has to admit as many jobs as it defines.
A job runs again only if its worker was killed before it had settled it, or the broker before the reservation was on its disk.
A worker that is cut off for longer than its lease may exceed a limit (docs/guarantees.md): no act here does that.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jobs_core.backends.base import Backend, Delivery, Outcome, Outgoing, Settlement, State
from jobs_core.backends.limits import Limit, name_of
from jobs_core.ids import new_id, new_token
from jobs_core.message import Message, new_message

from ..support.ledger import Producing
from ..support.project import PATIENCE
from .stage import Row, Stage
from .supervised import ROUND, SHORT_LEASE, Act, Run, SetUpSupervision, Supervision, unexplained, with_failpoints
from .troubles import in_turn

TASKS = '''
"""Jobs that keep a ledger: when they ran, and when they were reserved."""
import os, time
from pathlib import Path
from jobs_core import current_job, job

RUNS = os.open(Path(__file__).resolve().parents[1] / "runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@job
def work(seconds: float):
    delivery = current_job()._run.delivery
    who = f"{delivery.id} {'|'.join(str(delivery.token).split())} {os.getpid()}"
    limits = " ".join(delivery.limits)
    os.write(RUNS, f"start {who} {time.monotonic():.6f} {delivery.broker_now:.6f} {limits}\\n".encode())
    time.sleep(seconds)
    os.write(RUNS, f"end {who} {time.monotonic():.6f}\\n".encode())
'''

DEFINED = {"one": Limit(1), "two": Limit(2), "rate": Limit(None, 0.1, 3), "both": Limit(3, 0.05, 5)}
TOML = """
[limits.one]
concurrency = 1
[limits.two]
concurrency = 2
[limits.rate]
rate = "10/s"
burst = 3
[limits.both]
concurrency = 3
rate = "20/s"
burst = 5
"""
KINDS = ("one", "two", "one", "rate", "two", "one", "both", "one", "two", "rate")
"""The names of ten limits after each other."""

TOGETHER = 8
"""Jobs after each other that have the same limits, so that they stand in each other's way."""

SECONDS = 0.002
TOLERANCE = 0.001
"""Seconds by which the time of a reservation may be rounded."""

PROBE = "probe"
"""A topic that no worker serves."""

FAIL_POINTS = (
    "reserve.after_commit=kill@30,reserve.after=kill@40",
    "settle.before_commit=kill@20,settle.before=kill@30",
    "settle.after_commit=kill@20,settle.after=kill@30",
    "reserve.before=kill@50",
)
"""Windows around the steps that take and free slots: before and after the commit, and before the worker knows."""

ACTS: tuple[Act, ...] = (*ROUND, *map(with_failpoints, FAIL_POINTS))


class LimitedStage(Supervision):
    """Jobs under many limits: most have one, and every third has two."""

    tasks = TASKS
    job_limits = TOML
    values = 1000
    """Limits in all."""

    def producing(self, count: int, batch: int) -> AbstractContextManager[Producing]:
        return Producing(self.app, self.ledger, count, batch=batch, pause=0.002, make=self._message)

    def _message(self, number: int) -> Message:
        return new_message("tasks.work", "default", [SECONDS], {}, limits=self._limits(number // TOGETHER))

    def _limits(self, number: int) -> list[str]:
        value, second = number % self.values, (number * 7 + 3) % self.values
        apart = number % 3 == 0 and KINDS[second % 10] != KINDS[value % 10]
        return sorted({_limit(value), *([_limit(second)] if apart else [])})

    def check(self) -> None:
        told = json.loads(self.project.here("limits", "--json", "--limit", "100000"))
        held = [state for state in told if state["used"] or state["waiting"]]
        assert not held, f"after the drain, {len(held)} limits are used, such as {held[:3]}"
        runs = self.runs()
        problems = [*exceeded(runs)]
        assert not problems, f"{len(problems)} limits were exceeded: {problems[:5]}"
        again = [*unexplained(runs, self.broker_deaths)]
        assert not again, f"{len(again)} jobs ran again without a cause: {again[:5]}"
        with self.backend() as backend:
            _assert_full_number(backend, [_limit(value) for value in range(self.values)])


def _limit(value: int) -> str:
    return f"{KINDS[value % 10]}:{value}"


# -- what the ledger shows -------------------------------------------------------------------------


def exceeded(runs: Sequence[Run]) -> Iterator[str]:
    """Say which limits were exceeded, and by how much."""
    by_limit: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        for limit in run.facts[1:]:
            by_limit[limit].append(run)
    for limit, those in by_limit.items():
        definition = DEFINED[name_of(limit)]
        most = most_at_once((run.start, run.end) for run in those)
        if definition.concurrency is not None and most > definition.concurrency:
            yield f"{limit}: {most} at once"
        early = _too_early(sorted(float(run.facts[0]) for run in those), definition)
        if early > definition.burst * (definition.interval or 0.0) + TOLERANCE:
            yield f"{limit}: a job was reserved {early:.4f} s too early"


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """Return how many of these spans of time overlap at most; one may begin when another ends."""
    changes = sorted(change for begin, end in spans for change in ((begin, 1), (end, -1)) if begin < end)
    at_once = most = 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    return most


def _too_early(reserved: Sequence[float], definition: Limit) -> float:
    """Return by how many seconds a reservation at these times came before its rate allowed it, at most."""
    if definition.interval is None:
        return 0.0
    earliest, worst = 0.0, 0.0  # GCRA, see jobs_core/backends/limits.py
    for now in reserved:
        worst = max(worst, earliest - now - (definition.burst - 1) * definition.interval)
        earliest = max(earliest, now) + definition.interval
    return worst


# -- what is left ----------------------------------------------------------------------------------


def _assert_full_number(backend: Backend, limits: Sequence[str]) -> None:
    """Assert that each limit admits as many jobs as it defines, and one more when these have ended."""
    time.sleep(max(definition.burst * (definition.interval or 0.0) for definition in DEFINED.values()))  # their debts
    wanted = {limit: DEFINED[name_of(limit)].concurrency or DEFINED[name_of(limit)].burst for limit in limits}
    jobs = [Outgoing(new_id(), PROBE, b"", limits=(limit,)) for limit in limits for _ in range(wanted[limit] + 1)]
    for begin in range(0, len(jobs), 500):
        backend.push(jobs[begin : begin + 500], new_token())
    first = _reserve_all(backend)
    admitted = Counter(delivery.limits[0] for delivery in first)
    rates = {limit for limit in limits if DEFINED[name_of(limit)].concurrency is None}  # open again while the probe runs
    short = {limit: admitted[limit] for limit in limits if admitted[limit] < wanted[limit]}
    assert not short, f"{len(short)} limits have lost slots; admitted: {dict(list(short.items())[:5])}"
    over = {limit: admitted[limit] for limit in limits if admitted[limit] > wanted[limit] and limit not in rates}
    assert not over, f"{len(over)} limits admit too many: {dict(list(over.items())[:5])}"
    _settle(backend, first)
    deadline = time.monotonic() + PATIENCE
    while len(first) < len(jobs):
        more = _reserve_all(backend)
        assert time.monotonic() < deadline, f"{len(jobs) - len(first)} jobs of limits that nothing holds cannot be reserved"
        _settle(backend, more)
        first += more
    assert not [state for state in backend.limits(100_000) if state.used or state.waiting]


def _reserve_all(backend: Backend) -> list[Delivery]:
    """Reserve what can be reserved: a reserve looks at some closed lines only, so several find nothing more in the end."""
    found: list[Delivery] = []
    misses = 0
    while misses < 30:
        new = backend.reserve([PROBE], 500, new_token())
        misses = 0 if new else misses + 1
        found += new
    return found


def _settle(backend: Backend, deliveries: Sequence[Delivery]) -> None:
    for begin in range(0, len(deliveries), 500):
        some = [Settlement(one.id, one.token, Outcome.DONE) for one in deliveries[begin : begin + 500]]
        backend.settle(some, new_token())
    assert not backend.browse(PROBE, State.DEAD, 1)


# -- rows ------------------------------------------------------------------------------------------


class FewerLimitsStage(LimitedStage):
    """The same for a few thousand jobs, with so many under each limit."""

    values = 100


def row(set_up: SetUpSupervision) -> Row:
    """Return the row with 100,000 jobs and the defaults of the configuration: an act every 2,000 jobs."""

    @contextlib.contextmanager
    def limits_row(directory: Path, count: int) -> Iterator[tuple[Stage, Callable[[Any], None]]]:
        with set_up(LimitedStage, directory, "") as stage:
            yield stage, in_turn(*itertools.islice(itertools.cycle(ACTS), max(len(ACTS), count // 2000)))

    return limits_row


def short_row(set_up: SetUpSupervision) -> Row:
    """Return the row of `make test`: each act once."""

    @contextlib.contextmanager
    def limits_row(directory: Path, count: int) -> Iterator[tuple[Stage, Callable[[Any], None]]]:
        with set_up(FewerLimitsStage, directory, SHORT_LEASE) as stage:
            yield stage, in_turn(*ACTS)

    return limits_row
