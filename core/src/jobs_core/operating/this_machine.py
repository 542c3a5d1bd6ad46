"""Explain a job by the processes on this machine, using only the scoreboard."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ..app import App
from ..scoreboard.reader import RunEntry
from ..scoreboard.state import PoolState, SupervisorState, read_board
from ..scoreboard.view import TAKING
from ..supervisor import pidfile
from ..unfinished import Here, no_supervisor
from .formatting import age, count
from .overview import Overview, WorkerLine

LONGEST_ID = 64
"""Characters of an id that the scoreboard keeps."""


class ThisMachine(Here):
    """The supervisor of this configuration's run directory, and its workers.

    The scoreboard is read once, when it is first needed.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    @functools.cached_property
    def _pid(self) -> int | None:
        return pidfile.running(self._app.run_dir)

    @functools.cached_property
    def _view(self) -> Overview:
        return Overview(read_board(self._app.run_dir, most_entries=10**6))

    def of_waiting(self, topic: str) -> Iterator[str]:
        """Explain why the supervisor does not serve a topic, and how busy the pools are that serve it."""
        it = self._view.board.supervisor
        try:
            pid = self._pid
        except pidfile.OfAnotherUser as error:
            yield str(error)
            return
        if pid is None:
            yield no_supervisor(self._app.run_dir, self._app.backend_url)
            return
        if it is None or it.pid != pid or it.state == "starting":
            yield f"the supervisor, process {pid}, is not serving yet: `jobsctl status` says what it is waiting for"
        if it is not None and it.pid == pid:
            yield from self._of_supervisor(it, topic)

    def _of_supervisor(self, it: SupervisorState, topic: str) -> Iterator[str]:
        if it.state == "stopping":
            yield f"the supervisor, process {it.pid}, is stopping: it takes no new jobs"
        if it.quiet:
            yield "the supervisor is quiet, its workers take no new jobs: run `jobsctl quiet --off`"
        pools = [pool for pool in it.pools if topic in pool.topics]
        for pool in pools:
            yield from self._of_pool(pool)
        if not pools and topic in self._app.config.served_topics():
            yield f"the running supervisor has no pool for topic {topic} yet: run `jobsctl reload`"

    def _of_pool(self, pool: PoolState) -> Iterator[str]:
        yield from self._view.trouble_of(pool)
        mine = [line for line in self._view.workers if line.pool == pool.name]
        taking = [line for line in mine if line.state in TAKING]
        if not taking:
            yield self._no_worker_takes(pool, mine)
            return
        running = sum(line.running_count for line in taking)
        room = pool.concurrency * len(taking)
        if running < room:
            busy = f", {count(running, 'job')} running" if running else ""
            yield (
                f"pool {pool.name} has room: {count(len(taking), 'worker')} for {count(pool.concurrency, 'job')} at a time "
                f"each{busy}"
            )
            return
        longest = max((line.running[0] for line in taking if line.running), key=self._seconds, default=None)
        what = f", the longest {self._told(longest)}" if longest else ""
        full = f"{count(len(taking), 'worker')} with {count(running, 'job')}"
        yield f"pool {pool.name} is full: {full}{what}; {self._limit(pool)}"

    def _no_worker_takes(self, pool: PoolState, mine: list[WorkerLine]) -> str:
        if pool.wanted == 0 and pool.scaled:
            return f"pool {pool.name} was scaled to 0 workers by hand: run `jobsctl scale {pool.name} --auto`"
        if pool.wanted == 0:
            return f"pool {pool.name} has no workers now, because it was idle: it starts some once jobs are waiting"
        states = [line.state for line in mine]
        told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "it has none"
        return f"no worker of pool {pool.name} takes jobs now: {told}"

    def _limit(self, pool: PoolState) -> str:
        if pool.scaled:
            return f"its size was set by hand: run `jobsctl scale {pool.name} --auto`"
        if pool.wanted < pool.max:
            return f"it may grow to {count(pool.max, 'worker')}"
        return f"it has as many workers as pools.{pool.name}.workers allows"

    def of_reserved(self, owner: str) -> Iterator[str]:
        """Explain a reservation: the job waits behind others in its worker, or its worker has died."""
        line = next((line for line in self._view.workers if line.owner == owner), None)
        if line is not None:
            behind = f", behind {self._told(line.running[0])}" if line.running else ""
            yield (
                f"that is process {line.pid} of pool {line.pool} ({line.state}) on this machine: the job is in flight "
                f"there{behind}"
            )
        elif owner.startswith(f"{socket.gethostname()[:40]}-"):
            yield (
                "the supervisor on this machine does not know that worker: it is a separate `jobsctl worker`, or it is dead "
                f"and its jobs return to their topics when its lease of {self._app.config.lease} expires"
            )

    def of_running(self, job_id: str) -> Iterator[str]:
        """Name the worker in which the job is running."""
        for line in self._view.workers:
            for entry in line.running:
                if entry.id == job_id or (len(entry.id) >= LONGEST_ID and job_id.startswith(entry.id)):
                    late = self._view.monotonic - entry.deadline
                    over = f"; its timeout passed {age(late)} ago" if entry.deadline and late > 0 else ""
                    since = time.strftime("%H:%M:%S", time.localtime(time.time() - self._seconds(entry)))
                    yield (
                        f"it has been running in process {line.pid} of pool {line.pool} ({line.state}) since {since}, for "
                        f"{age(self._seconds(entry))}{over}; `jobsctl stack {line.pid}` shows where it is"
                    )

    def _told(self, entry: RunEntry) -> str:
        return f"{entry.job} {entry.id}, running for {age(self._seconds(entry))}"

    def _seconds(self, entry: RunEntry) -> float:
        return entry.seconds(self._view.monotonic)


def view(run_dir: Path) -> Overview | None:
    """Return the state of the supervisor in a run directory, with all running jobs; None if none is running, or not ours."""
    try:
        if pidfile.running(run_dir) is None:
            return None
    except (pidfile.OfAnotherUser, OSError):
        return None
    board = read_board(run_dir, most_entries=10**6)
    return None if board.supervisor is None else Overview(board)
