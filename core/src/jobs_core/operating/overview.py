"""The state of an installation in words and rows, for `status` and `top`: computed from the scoreboard, printed elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from msgspec import Struct

from ..escapes import word
from ..events import TopicUnserved
from ..scoreboard.reader import RunEntry
from ..scoreboard.state import Backlog, Board, ChildState, PoolState, SupervisorState, TopicState, WorkerView
from ..scoreboard.view import TAKING, shown_state, silence, waits_for
from .formatting import age, are, count, size
from .refused import entry_refused, size_refused

STALE = 5.0
"""Age in seconds from which the last report of the housekeeper or the supervisor counts as out of date."""


MOST = 10
"""Most rows of a table that a page shows."""

MOST_TOLD = 5
"""Most topics of which a page tells the same problem: with hundreds of them, nothing else would be on it."""


class Sheet(Struct):
    """A table with its title, and the text about the rows that are left out."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    rest: str = ""


class WorkerLine(Struct):
    """One worker for display, from the supervisor's record and from the worker's own."""

    pid: int
    pool: str
    owner: str
    state: str
    since: float  # unix time at which the state, or the process, began
    running: list[RunEntry]
    running_count: int
    done: int
    failed: int
    memory: int
    generation: int
    silent: float  # seconds since its last heartbeat
    reason: str

    @property
    def busy(self) -> bool:
        return self.running_count > 0


class Overview:
    """A board at one moment. `width` is the largest width of a row."""

    def __init__(self, board: Board, *, width: int = 80, most: int | None = MOST) -> None:
        self.board = board
        self.now, self.monotonic = time.time(), time.monotonic()
        self.width = width
        self._most = most
        self._silence = silence(board.supervisor.lease if board.supervisor else 0.0)
        self.workers = list(self._lines())

    # -- workers ---------------------------------------------------------------------------------

    def _lines(self) -> Iterable[WorkerLine]:
        supervisor = self.board.supervisor
        children = {child.owner: child for child in supervisor.workers} if supervisor else {}
        for view in self.board.workers:
            child = children.pop(view.file, None)
            yield self._line(view, child)
        for child in children.values():  # just forked, without a scoreboard file yet; or ended, with its file removed
            yield WorkerLine(
                child.pid, child.pool, child.owner, child.state, child.since, [], 0, 0, 0, child.memory, child.generation,
                0.0, child.reason,
            )  # fmt: skip

    def _line(self, view: WorkerView, child: ChildState | None) -> WorkerLine:
        header = view.header
        silent = max(0.0, self.monotonic - header.beat)
        return WorkerLine(
            header.pid, header.pool, header.owner,
            shown_state(header, view.running_count, child, self.monotonic, self._silence),
            child.since if child else header.started_at, view.running, view.running_count, header.done, header.failed,
            child.memory if child else 0, header.generation, silent, child.reason if child else "",
        )  # fmt: skip

    # -- words -----------------------------------------------------------------------------------

    def headline(self) -> str:
        """Return the first line: the installation and its state."""
        it = self._supervisor()
        up = age(self.now - it.started_at)
        return f"jobs {it.version} is {it.state}: up {up}, generation {it.generation}, process {it.pid} on {it.host}"

    def summary(self) -> list[str]:
        """Return the lines after the headline: the totals."""
        busy = sum(line.busy for line in self.workers)
        running = sum(line.running_count for line in self.workers)
        ended = self.ended()
        failed = ended["retry"] + ended["dead"]
        workers = f"{count(len(self.workers), 'worker')}, {busy:,} busy with {count(running, 'job')}"
        lines = [f"{workers}; {ended['done']:,} done, {failed:,} failed so far"]
        backlog = self.board.backlog
        if backlog:
            totals = [
                f"{sum(getattr(topic, field) for topic in backlog.topics.values()):,} {state}"
                for state, field in _columns(backlog).items()
            ]
            lines.append(f"in the topics: {', '.join(totals)}")
        return lines

    def ended(self) -> Counter[str]:
        """Count runs by outcome since the first start in this run directory."""
        found: Counter[str] = Counter()
        for row in self.board.figures():
            found.update(row.outcomes)
        return found

    def troubles(self, *, most: int | None = MOST_TOLD) -> list[str]:
        """Return the problems that need an operator, the worst first; of those that many topics share, the first `most`."""
        return [*self.of_processes(), *self._of_topics(most)]

    def of_processes(self) -> list[str]:
        """Return the problems of this machine: of its supervisor, pools and workers, and of their way to the backend."""
        return [
            *self._of_supervisor(), *self._of_backend(), *self._of_documents(), *self._of_pools(), *self._of_workers(),
        ]  # fmt: skip

    def notes(self) -> list[str]:
        """Return notes that are not urgent, about dead letters."""
        topics = self.board.backlog.topics if self.board.backlog else {}
        return [
            f"topic {name}: {count(topic.dead, 'dead letter')}, see `jobsctl dead groups {word(name)}`"
            for name, topic in topics.items()
            if topic.dead
        ]

    def _of_supervisor(self) -> Iterable[str]:
        it = self._supervisor()
        if it.state == "starting":
            yield f"not serving yet: waiting for {waits_for(it, self.board.backlog)}"
        if self.now - it.written_at > 4 * STALE:
            yield f"the supervisor has said nothing for {age(self.now - it.written_at)}: is process {it.pid} stopped?"
        if it.state not in ("stopping", "starting"):
            if not it.housekeeper_pid:
                yield "the housekeeper is not running: no crash repair, schedule or counts until the supervisor restarts it"
            if not it.template_pid and any(pool.wanted for pool in it.pools):
                yield "the template is not running: no worker can be replaced until the supervisor restarts it"
        for name, error in it.helper_errors.items():
            yield f"{_HELPERS.get(name, name)}: {error}"
        if it.quiet:
            yield "quiet: no new jobs are taken until `jobsctl quiet --off`"
        if it.last_refusal:
            yield f"the last reload was refused, generation {it.generation} keeps running: {it.last_refusal}"

    def _of_backend(self) -> Iterable[str]:
        backlog = self.board.backlog
        if backlog is None:
            return
        since = f" for {age(self.now - backlog.answered_at)}" if backlog.answered_at else ""
        if not backlog.answers:
            yield f"the backend has not answered{since}: {backlog.error or 'no reason is known'}"
        elif self.now - backlog.answered_at > STALE:
            yield f"the backend has not answered{since}: the housekeeper (process {backlog.pid}) is waiting for it, or hanging"

    def _of_documents(self) -> Iterable[str]:
        backlog = self.board.backlog
        if backlog is None:
            return
        for told in (
            [entry_refused(name, why) for name, why in backlog.refused_entries.items()],
            [size_refused(name, why) for name, why in backlog.refused_sizes.items()],
        ):
            yield from told[:MOST_TOLD]
            if more := len(told[MOST_TOLD:]):
                yield f"{are(more, 'more document')} refused; `jobsctl check` lists all"

    def _of_pools(self) -> Iterable[str]:
        for pool in self._supervisor().pools:
            yield from self.trouble_of(pool)

    def trouble_of(self, pool: PoolState) -> Iterable[str]:
        """Explain why a pool has too few workers, if they crash."""
        again = f"; next try in {age(pool.next_start - self.now)}" if pool.next_start > self.now else ""
        error = f": {pool.last_error}" if pool.last_error else ""
        if pool.cannot_boot:
            yield f"pool {pool.name}: its workers cannot boot{again}{error}"
        elif pool.failures > 1:
            yield f"pool {pool.name}: {count(pool.failures, 'worker')} in a row crashed soon after their start{again}{error}"
        elif pool.failures and again:
            yield f"pool {pool.name}: a worker crashed soon after its start{again}{error}"

    def _of_workers(self) -> Iterable[str]:
        for line in self.workers:
            if line.state == "silent":
                yield (
                    f"worker {line.pid} ({line.pool}) has been silent for {age(line.silent)}"
                    f"; `jobsctl stack {line.pid}` shows why"
                )
        offline = [line for line in self.workers if line.state == "offline"]
        if offline:
            yield f"{count(len(offline), 'worker')} cannot reach the backend"

    def _of_topics(self, most: int | None) -> Iterable[str]:
        backlog = self.board.backlog
        if backlog is None:
            return
        alerts = []
        for name in backlog.alerts:
            topic = backlog.topics.get(name, TopicState())
            oldest = f", the oldest for {age(topic.oldest_age)}" if topic.oldest_age is not None else ""
            alerts.append(f"topic {name}: alert, {are(topic.ready, 'job')} ready{oldest}")
        yield from _first(most, alerts, "has an alert", "have alerts")
        for name, seconds in backlog.full.items():
            waiting = sum(each.waiting for each in backlog.limits if each.limit.partition(":")[0] == name)
            shows = f"`jobsctl limits {word(name)}` shows it"
            yield f"limit {name}: full for {age(seconds)}, {are(waiting, 'job')} waiting; {shows}"
        waits = {name: backlog.topics.get(name, TopicState()).waiting for name in backlog.unserved}
        unserved = [str(TopicUnserved(name, jobs, [])) for name, jobs in waits.items() if jobs]
        yield from _first(most, unserved, "has jobs and is served by no pool", "have jobs and are served by no pool")
        paused = [
            f"topic {name} is paused until `jobsctl resume {word(name)}`" for name, it in backlog.topics.items() if it.paused
        ]
        yield from _first(most, paused, "is paused", "are paused")

    # -- tables ----------------------------------------------------------------------------------

    def pools(self) -> Sheet:
        rows = [self._pool(pool) for pool in self._supervisor().pools]
        return Sheet("Pools", ["pool", "serving", "range", "mode", "running", "replaced", "topics"], rows)

    def _pool(self, pool: PoolState) -> Sequence[Any]:
        mine = [line for line in self.workers if line.pool == pool.name]
        serving = sum(line.state in TAKING for line in mine)
        limits = f"{pool.min}" if pool.min == pool.max else f"{pool.min}–{pool.max}"
        by_hand = " by hand" if pool.scaled else ""
        mode = pool.mode if pool.concurrency == 1 else f"{pool.mode} {pool.concurrency:,}"
        running = f"{sum(line.running_count for line in mine):,}"
        topics = clip(", ".join(pool.topics), self.width - 60)
        replaced = f"{sum(pool.restarts.values()):,}"
        return (clip(pool.name, 12), f"{serving}/{pool.wanted}", limits + by_hand, mode, running, replaced, topics)

    def worker_table(self) -> Sheet:
        """Return the workers that need attention first, then those busy for longest; as many as fit on the page."""
        ranked = sorted(self.workers, key=self._rank)
        shown, rest = self._cut(ranked)
        rows = [
            (
                line.pid,
                clip(line.pool, 10),
                line.state,
                self._runs(line),
                f"{line.done:,}",
                f"{line.failed:,}",
                size(line.memory),
            )
            for line in shown
        ]
        states = Counter(line.state for line in rest)
        more = f"and {len(rest):,} more: " + ", ".join(f"{number:,} {state}" for state, number in states.most_common())
        return Sheet("Workers", ["pid", "pool", "state", "runs", "done", "failed", "memory"], rows, more if rest else "")

    def _rank(self, line: WorkerLine) -> tuple[bool, float, int]:
        longest = line.running[0].seconds(self.monotonic) if line.running else -1.0
        return line.state in TAKING, -longest, line.pid

    def _runs(self, line: WorkerLine) -> str:
        if not line.running:
            return line.reason
        longest = line.running[0]
        what = f"{line.running_count:,} jobs" if line.running_count > 1 else clip_name(longest.job, self.width - 68)
        return f"{what} {age(longest.seconds(self.monotonic))}"

    def running_table(self) -> Sheet:
        """Return the jobs that have been running longest."""
        jobs = [(entry, line) for line in self.workers for entry in line.running]
        jobs.sort(key=lambda each: each[0].started)
        shown, _ = self._cut(jobs)
        rows = [
            (age(entry.seconds(self.monotonic)) + self._late(entry), clip_name(entry.job, self.width - 64), entry.id, line.pid)
            for entry, line in shown
        ]
        left = sum(line.running_count for line in self.workers) - len(shown)
        return Sheet("Running longest", ["for", "job", "id", "pid"], rows, f"and {left:,} more" if left > 0 else "")

    def _late(self, entry: RunEntry) -> str:
        return " overdue" if entry.deadline and entry.deadline < self.monotonic else ""

    def topics(self) -> Sheet:
        """Return the topics, those in trouble and those with jobs first."""
        backlog = self.board.backlog
        if backlog is None:
            return Sheet("Topics", [], [], "the housekeeper has not counted yet")
        served = {topic for pool in self._supervisor().pools for topic in pool.topics}

        def rank(each: tuple[str, TopicState]) -> tuple[bool, float, int, str]:
            name, topic = each
            return name not in backlog.alerts and name not in backlog.unserved, -(topic.oldest_age or 0.0), -topic.ready, name

        shown, rest = self._cut(sorted(backlog.topics.items(), key=rank))
        states = _columns(backlog)
        rows = [
            (
                clip(name, 28),
                *(f"{getattr(topic, state):,}" for state in states.values()),
                "" if topic.oldest_age is None else age(topic.oldest_age),
                ", ".join(
                    word
                    for word, holds in (
                        ("alert", name in backlog.alerts),
                        ("paused", topic.paused),
                        ("dead letters", bool(topic.dead)),
                        ("no pool serves it", name in backlog.unserved),
                        ("not served here", name not in served and name not in backlog.unserved),
                    )
                    if holds
                ),
            )
            for name, topic in shown
        ]
        old = self.now - min(backlog.at, backlog.answered_at or backlog.at)  # `at` advances while the backend is silent, too
        notes = [f"and {len(rest)} more"] if rest else []
        notes += [f"counted {age(old)} ago"] if old > STALE else []
        return Sheet("Topics", ["topic", *states, "oldest", ""], rows, "; ".join(notes))

    def crashes(self, most: int = 5) -> list[str]:
        """Describe the last few crashes, newest first."""
        it = self._supervisor()
        lines = []
        for crash in sorted(it.crashes, key=lambda crash: -crash.at)[:most]:
            ran = f"; ran {', '.join(crash.jobs[:2])}" if crash.jobs else ""
            ran += f" and {len(crash.jobs) - 2} more" if len(crash.jobs) > 2 else ""
            peak = f", peak memory {size(crash.peak_memory)}" if crash.peak_memory else ""
            lines.append(f"{age(self.now - crash.at)} ago: worker {crash.pid} ({crash.pool}): {crash.reason}{peak}{ran}")
        return lines

    def processes(self) -> str:
        """Name the other processes, with their ids."""
        it = self._supervisor()
        names = (
            ("template", it.template_pid),
            ("housekeeper", it.housekeeper_pid),
            ("http", it.http_pid),
            ("dashboard", it.dashboard_pid),
        )
        parts = [f"{name} {pid}" for name, pid in names if pid]
        parts += [f"broker {pid}" for pid in it.brokers]
        return ", ".join(parts)

    def _supervisor(self) -> SupervisorState:
        assert self.board.supervisor is not None
        return self.board.supervisor

    def _cut(self, items: list[Any]) -> tuple[list[Any], list[Any]]:
        """Split items into those to show and the rest; never leave out only one."""
        if self._most is None or len(items) <= self._most + 1:
            return items, []
        return items[: self._most], items[self._most :]


_HELPERS = {"http": "probes and metrics are not served", "dashboard": "the dashboard is not served"}


def waiting_columns(topics: Collection[TopicState]) -> dict[str, str]:
    """Return the columns for jobs that a limit or their flow holds back, if there are any, and their fields."""
    columns = {"limited": "limited", "waiting": "members"}
    return {column: field for column, field in columns.items() if any(getattr(topic, field) for topic in topics)}


def _first(most: int | None, told: Sequence[str], one: str, many: str) -> Iterable[str]:
    """Yield the first sentences of those that tell the same of several topics, and of how many more topics they are true."""
    cut = len(told) if most is None or len(told) == most + 1 else most
    yield from told[:cut]
    if more := len(told[cut:]):
        yield f"{count(more, 'more topic')} {one if more == 1 else many}; `jobsctl topics` lists all"


def _columns(backlog: Backlog) -> dict[str, str]:
    """Return the states in which jobs are counted, each with its field."""
    held = waiting_columns(backlog.topics.values())
    return {"ready": "ready", **held, "scheduled": "scheduled", "reserved": "reserved", "dead": "dead"}


def clip(text: str, width: int) -> str:
    """Return the text, or its beginning if it is too wide."""
    return text if len(text) <= max(width, 8) else text[: max(width, 8) - 1] + "…"


def clip_name(name: str, width: int) -> str:
    """Return a job's name if it fits, else its function alone."""
    return name if len(name) <= max(width, 8) else clip(name.rpartition(".")[2], width)
