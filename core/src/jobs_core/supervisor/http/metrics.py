"""Metrics of one installation as OpenMetrics or Prometheus text, from the scoreboard alone.

Counters stay correct when workers come and go: those of ended workers are in `totals.json`. A new supervisor continues its
predecessor's, which are in `state.json`. All restart at zero with a new run directory; Prometheus detects that as a reset.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from ...backends.outbox import OutboxState
from ...scoreboard.layout import BUCKETS, OP_BUCKETS, OUTCOMES, UNRUN
from ...scoreboard.reader import JobFigures, OpFigures, total
from ...scoreboard.state import Backlog, Board, SupervisorState
from ...scoreboard.view import SHOWN, shown_state, silence

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

STALE = 5.0
"""Seconds without a round trip after which the backend counts as down."""

FORGOTTEN = 30.0
"""Seconds after which counts of topics are left out: for an autoscaler, an old figure is worse than none."""

REST = "(other)"
"""Topic and job label of runs for which a worker's table of 64 rows has no room."""

Kind = Literal["counter", "gauge", "histogram", "info"]
Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]  # suffix of the family's name, labels, value


class Family(Struct):
    """One metric with all its samples."""

    name: str
    kind: Kind
    help: str
    samples: list[Sample]
    unit: str = ""
    exemplars: dict[Labels, tuple[str, float]] = {}  # labels of a bucket → trace id and value of one of its runs


def exposition(board: Board, *, lease: float, openmetrics: bool) -> str:
    """Return all metrics as text."""
    lines: list[str] = []
    for family in families(board, lease):
        if family.samples:
            lines += _openmetrics(family) if openmetrics else _prometheus(family)
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def families(board: Board, lease: float) -> Iterator[Family]:
    """Yield every metric; a metric without data has no samples."""
    it = board.supervisor
    yield from _of_jobs(total(board.figures()).values())
    yield Family(
        "jobs_redelivered", "counter", "Jobs redelivered because their worker crashed.",
        [("_total", (), board.totals.released)],
    )  # fmt: skip
    yield from _of_topics(board)
    yield from _of_backend(board)
    yield _of_calls(board.ops())
    if it:
        yield from _of_workers(board, it, lease)
        yield from _of_supervisor(it)


# -- the metrics ------------------------------------------------------------------------------------


def _of_jobs(rows: Iterable[JobFigures]) -> Iterator[Family]:
    finished: list[Sample] = []
    run: list[Sample] = []
    wait: list[Sample] = []
    too_fast: list[Sample] = []
    exemplars: dict[Labels, tuple[str, float]] = {}
    for row in rows:
        labels = (("topic", row.topic or REST), ("job", row.job or REST))
        finished += [("_total", (*labels, ("outcome", name)), row.outcomes.get(name, 0)) for name in OUTCOMES]
        if row.job == UNRUN:
            continue
        run += _histogram(labels, row.run_buckets, row.run_seconds)
        for trace, seconds in row.examples.items():
            bucket: Labels = (*labels, ("le", _BOUNDS[bisect_left(BUCKETS, seconds)]))
            exemplars[bucket] = trace, seconds
        too_fast.append(("_total", labels, row.too_fast))
        wait += _histogram(labels, row.wait_buckets, row.wait_seconds)
    yield Family("jobs_finished", "counter", "Runs that ended, by outcome.", finished)
    yield Family("jobs_too_fast", "counter", "Runs that succeeded sooner than the min_time of their job.", too_fast)
    yield Family("jobs_run_seconds", "histogram", "Duration of runs.", run, "seconds", exemplars)
    yield Family("jobs_wait_seconds", "histogram", "Time from when jobs were due until their first run.", wait, "seconds")


_BOUNDS = [*(repr(float(bound)) for bound in BUCKETS), "+Inf"]
_OP_BOUNDS = [*(repr(float(bound)) for bound in OP_BUCKETS), "+Inf"]


def _histogram(labels: Labels, buckets: list[int], seconds: float, bounds: Sequence[str] = _BOUNDS) -> list[Sample]:
    sums = list(itertools.accumulate(buckets))
    samples: list[Sample] = [("_bucket", (*labels, ("le", bound)), count) for bound, count in zip(bounds, sums, strict=True)]
    return [*samples, ("_count", labels, sums[-1]), ("_sum", labels, float(seconds))]


def _of_topics(board: Board) -> Iterator[Family]:
    backlog = board.backlog
    topics = backlog.topics if backlog and time.time() - backlog.at < FORGOTTEN else {}
    alerts = backlog.alerts if backlog else []
    yield Family(
        "jobs_topic_jobs", "gauge", "Jobs of a topic by state.",
        [
            ("", (("topic", name), ("state", state)), getattr(topic, state))
            for name, topic in topics.items()
            for state in ("ready", "scheduled", "reserved", "dead")
        ],
    )  # fmt: skip
    yield Family(
        "jobs_topic_oldest_age_seconds", "gauge", "Age of the oldest ready job; 0 if there is none.",
        [
            ("", (("topic", name),), float(topic.oldest_age or 0))
            for name, topic in topics.items()
            if topic.oldest_age is not None or not topic.ready  # else the backend does not report ages
        ], "seconds",
    )  # fmt: skip
    yield Family(
        "jobs_enqueued", "counter", "Jobs that were added to a topic, by any producer, as the backend counts them.",
        [("_total", (("topic", name),), topic.pushed) for name, topic in topics.items() if topic.pushed is not None],
    )  # fmt: skip
    yield Family(
        "jobs_duplicate_refused", "counter", "Enqueues that added nothing, because of a unique key or a chosen id.",
        [("_total", (("topic", name),), topic.refused) for name, topic in topics.items() if topic.refused is not None],
    )  # fmt: skip
    yield Family(
        "jobs_topic_paused", "gauge", "1 if a topic is paused.",
        [("", (("topic", name),), int(topic.paused)) for name, topic in topics.items()],
    )  # fmt: skip
    if backlog and topics and backlog.has_lines:
        yield Family(
            "jobs_limited", "gauge", "Jobs of a topic that wait for room in a limit.",
            [("", (("topic", name),), topic.limited) for name, topic in topics.items()],
        )  # fmt: skip
        yield from _of_limits(backlog)
    if backlog and topics and backlog.flows is not None:
        yield Family(
            "jobs_flow_jobs", "gauge", "Members of flows that have not ended, by state.",
            [("", (("state", state),), number) for state, number in backlog.flows.items()],
        )  # fmt: skip
    if backlog and topics and backlog.outbox is not None:
        yield from _of_outbox(backlog.outbox)
    unserved = backlog.unserved if backlog else {}
    yield Family(
        "jobs_topic_unserved", "gauge", "1 if jobs wait in a topic that no pool serves.",
        [("", (("topic", name),), int(name in unserved)) for name in topics],
    )  # fmt: skip
    yield Family(
        "jobs_topic_alert", "gauge", "1 while a backlog alert of a topic is active.",
        [("", (("topic", name),), int(name in alerts)) for name in topics],
    )  # fmt: skip


def _of_outbox(outbox: OutboxState) -> Iterator[Family]:
    yield Family(
        "jobs_outbox_jobs", "gauge", "Jobs in the outbox, which are to be carried to the backend.", [("", (), outbox.waiting)]
    )
    yield Family(
        "jobs_outbox_refused_jobs", "gauge", "Those of them that the backend has refused so far.", [("", (), outbox.refused)]
    )
    yield Family(
        "jobs_outbox_oldest_age_seconds", "gauge", "Time since the oldest of them was inserted; 0 if there is none.",
        [("", (), outbox.oldest_age or 0.0)], "seconds",
    )  # fmt: skip


def _of_limits(backlog: Backlog) -> Iterator[Family]:
    """Yield the use of limits: of each name (value=""), and of the values that the housekeeper found to be the fullest."""
    labelled = [
        ((("limit", name), ("value", value)), each)
        for each in backlog.limits
        for name, _, value in (each.limit.partition(":"),)
    ]
    yield Family(
        "jobs_limit_used", "gauge", "Reserved jobs that a limit counts; values: the fullest alone.",
        [("", labels, each.used) for labels, each in labelled],
    )  # fmt: skip
    yield Family(
        "jobs_limit_waiting", "gauge", "Jobs that a limit keeps from starting; values: the fullest alone.",
        [("", labels, each.waiting) for labels, each in labelled],
    )  # fmt: skip


def _of_backend(board: Board) -> Iterator[Family]:
    backlog = board.backlog
    if backlog is None:
        return
    up = backlog.answers and time.time() - backlog.answered_at < STALE
    yield Family("jobs_backend_up", "gauge", "1 if the backend answered recently.", [("", (), int(up))])
    yield Family(
        "jobs_backend_round_trip_seconds",
        "gauge",
        "Duration of the last round trip to the backend.",
        [("", (), backlog.round_trip)],
        "seconds",
    )


def _of_calls(ops: Mapping[str, OpFigures]) -> Family:
    samples: list[Sample] = []
    for op, figures in sorted(ops.items()):
        samples += _histogram((("op", op),), figures.buckets, figures.seconds, _OP_BOUNDS)
    return Family("jobs_backend_op_seconds", "histogram", "Duration of calls to the backend.", samples, "seconds")


def _counted(board: Board, it: SupervisorState, lease: float) -> tuple[Counter[tuple[str, str]], Counter[str], Counter[str]]:
    """Count workers by pool and state, and by pool their running jobs and bytes of memory."""
    states = Counter({(pool.name, state): 0 for pool in it.pools for state in SHOWN})
    running = Counter({pool.name: 0 for pool in it.pools})
    memory = Counter({pool.name: 0 for pool in it.pools})
    children = {child.owner: child for child in it.workers}
    now = time.monotonic()
    for view in board.workers:
        child = children.pop(view.file, None)
        pool = view.header.pool
        states[pool, shown_state(view.header, view.running_count, child, now, silence(lease))] += 1
        running[pool] += view.running_count
        memory[pool] += child.memory if child else 0
    for child in children.values():  # their files are not yet written, or already removed
        states[child.pool, child.state] += 1
        memory[child.pool] += child.memory
    return states, running, memory


def _of_workers(board: Board, it: SupervisorState, lease: float) -> Iterator[Family]:
    states, running, memory = _counted(board, it, lease)
    yield Family(
        "jobs_workers", "gauge", "Workers by state.",
        [("", (("pool", pool), ("state", state)), number) for (pool, state), number in states.items()],
    )  # fmt: skip
    yield _by_pool("jobs_workers_wanted", "gauge", "Workers that a pool should have now.", {p.name: p.wanted for p in it.pools})
    yield _by_pool("jobs_running", "gauge", "Jobs running now.", running)
    yield _by_pool("jobs_worker_memory_bytes", "gauge", "Resident memory of workers, shared pages included.", memory, "bytes")
    yield Family(
        "jobs_worker_restarts", "counter", "Workers replaced, by reason.",
        [
            ("_total", (("pool", pool.name), ("reason", reason)), number)
            for pool in it.pools
            for reason, number in pool.restarts.items()
        ],
    )  # fmt: skip
    yield Family("jobs_worker_crashes", "counter", "Workers that crashed.", [("_total", (), it.crashed)])
    yield _by_pool(
        "jobs_pool_failures", "gauge", "Consecutive workers that crashed soon after their start.",
        {pool.name: pool.failures for pool in it.pools},
    )  # fmt: skip


def _of_supervisor(it: SupervisorState) -> Iterator[Family]:
    yield Family("jobs_build", "info", "Running release of jobs-core.", [("_info", (("version", it.version),), 1)])
    yield Family(
        "jobs_reload", "counter", "Reloads, by whether the new code was accepted.",
        [("_total", (("result", result),), it.reloads.get(result, 0)) for result in ("done", "refused")],
    )  # fmt: skip
    yield Family(
        "jobs_generation", "gauge", "Generation of the code that is serving; a reload raises it.", [("", (), it.generation)]
    )
    yield Family("jobs_quiet", "gauge", "Whether an operator told it to take no new jobs.", [("", (), int(it.quiet))])
    yield Family(
        "process_start_time_seconds", "gauge", "Start time of the supervisor, Unix time.", [("", (), it.started_at)], "seconds"
    )


def _by_pool(name: str, kind: Kind, text: str, numbers: dict[str, int], unit: str = "") -> Family:
    return Family(name, kind, text, [("", (("pool", pool),), number) for pool, number in numbers.items()], unit)


# -- the two formats --------------------------------------------------------------------------------


def _openmetrics(family: Family) -> Iterator[str]:
    yield f"# TYPE {family.name} {family.kind}"
    if family.unit:
        yield f"# UNIT {family.name} {family.unit}"
    yield f"# HELP {family.name} {_escaped(family.help)}"
    for line, (_, labels, _) in zip(_samples(family), family.samples, strict=True):
        found = family.exemplars.get(labels)
        yield f'{line} # {{trace_id="{found[0]}"}} {found[1]!r}' if found else line


def _prometheus(family: Family) -> Iterator[str]:
    """Render the older format: a counter has the name of its sample, and there are no infos or units."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
    kind = "gauge" if family.kind == "info" else family.kind
    yield f"# HELP {family.name}{suffix} {_escaped(family.help)}"
    yield f"# TYPE {family.name}{suffix} {kind}"
    yield from _samples(family)


def _samples(family: Family) -> Iterator[str]:
    for suffix, labels, value in family.samples:
        text = ",".join(f'{name}="{_escaped(label)}"' for name, label in labels)
        yield f"{family.name}{suffix}{{{text}}} {value!r}" if text else f"{family.name}{suffix} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
