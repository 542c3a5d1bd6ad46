"""The housekeeper: the one child of a supervisor that talks to the backend on behalf of the installation.

It releases a dead worker's jobs, maintains the backend, counts jobs, ticks the schedule and raises alerts. If the backend
hangs, only the housekeeper hangs with it. Each machine may run a housekeeper, so everything that it does may be done twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ... import events
from ...app import App, set_current_app
from ...backends.base import Backend, Counts
from ...boundary import told
from ...dead_actions import ACTION, DeadActions
from ...errors import BackendError, BackendUnavailable, NotSupported
from ...failpoints import failpoint
from ...limiting import BOTH, define
from ...machines import COMMAND, REPORT, SIZE
from ...pauses import Pace
from ...plugins import guarded
from ...schedule import Ticker
from ...schedule.stored import KIND as SCHEDULE_KIND
from ...scoreboard import state
from ...scoreboard.reader import OpFigures, WorkerFile
from ...scoreboard.state import Backlog, TopicState
from ...topics import topic_error
from ...worker.courier import CLEANING_INTERVAL, HOUSEKEEP_LIMIT
from ...worker.outage import Outage
from ..system import linux
from ..system.channel import Channel
from ..system.messages import CallHook, CommandDone, Counted, RanTooFast, Ready, Repair, Repaired, Stop, ToHousekeeper
from . import timeouts
from .alerts import TopicAlerts
from .carrier import CarrierThread
from .flows import members_by_state
from .limits import LimitAlerts, figures
from .machine import Machine
from .pool_sizes import PoolSizes
from .repair import describe
from .statistics import StatisticsSender
from .totals import TotalsFile

if TYPE_CHECKING:
    from .webhooks import Webhooks

logger = logging.getLogger("jobs.housekeeper")

COUNT_INTERVAL = 1.0
"""Seconds between two counts of the topics."""

"""Seconds between two cleanings of the payload store. They run on a thread of their own: the store may be far away."""

SURVEY_SHARE = 0.02
"""Largest share of time for counting topics that are neither served nor configured here: there may be thousands."""

UNLISTED_INTERVAL = 10.0
"""Seconds between two such counts if a backend cannot list its topics: RabbitMQ logs an error for a topic without a queue."""

LIMITS_INTERVAL = 5.0
"""Seconds between two readings of the limits, and of the flows."""

MOST_FLOWS = 1000
"""Most flows that are read."""

MOST_LIMITS = 1000
"""Most values of limits that are read."""

SCHEDULE = "schedule.json"


def _webhooks(app: App) -> Webhooks | None:
    """Return what tells receivers of events, if there are any."""
    if not app.config.webhooks:
        return None
    from .webhooks import Webhooks  # late: most applications send none

    return Webhooks(app)


class Housekeeper:
    """The housekeeper. Its main thread works; another thread listens to the supervisor, and kills the workers if that dies."""

    def __init__(self, app: App, channel: Channel[ToHousekeeper], run_dir: Path, generation: int = 0) -> None:
        self._app = app
        self._channel = channel
        self._run_dir = run_dir
        self._supervisor = os.getppid()
        self._backend: Backend = app.new_backend()
        self._open = False
        self._outage = Outage()
        self._orders: deque[Repair | CallHook | RanTooFast | CommandDone] = deque()
        self._stopping = False
        self._totals = TotalsFile(run_dir)
        self._statistics = StatisticsSender(run_dir)
        if "statistics" in self._backend.features:
            self._statistics.begin(self._totals.figures(generation), time.time())
        self._topics = sorted(app.config.served_topics() | set(app.config.topics))
        self._destinations = app.destinations()
        self._others: dict[str, Counts] = {}  # topics that are not in `_topics`, as of the last survey
        self._told_unlisted = False
        self._told_unserved: dict[str, bool] = {}  # topic → whether jobs waited when the warning was logged
        self._paused: frozenset[str] = frozenset()
        self._ticker = Ticker(app, run_dir / SCHEDULE)
        self._carrier = CarrierThread(app) if app.config.outbox.url else None
        self._machine = Machine(app, run_dir, self._supervisor, channel.send)
        self._dead_actions = DeadActions(app, self._machine.name)
        self._pool_sizes = PoolSizes(app, self._machine.name, channel.send)
        self._webhooks = _webhooks(app)
        self._alerts = TopicAlerts(app.config, app.plugins, also=None if self._webhooks is None else self._webhooks.alert)
        self._limit_alerts = LimitAlerts(app.config, self._alerts.send)
        before = state.read(run_dir / state.BACKLOG, Backlog)
        self._backlog = Backlog(at=time.time(), pid=os.getpid(), generation=generation, ops=before.ops if before else {})
        self._next_cleaning = time.monotonic() + CLEANING_INTERVAL
        self._next_kept = self._next_count = self._next_survey = self._next_limits = self._next_flows = 0.0
        self._survey_pace, self._limits_pace, self._flows_pace = (Pace(SURVEY_SHARE) for _ in range(3))
        self._next_report = 0.0
        self._unwritten = ""  # why backlog.json could not be written last time

    def run(self) -> None:
        set_current_app(self._app)
        threading.Thread(target=self._listen, name="jobs-control", daemon=True).start()
        self._channel.send(Ready())
        self._call_hook("jobs_housekeeper_started")
        if self._carrier is not None:
            self._carrier.start()
        while not (self._stopping and not self._orders):
            self._turn()
        self._call_hook("jobs_housekeeper_stopping")
        if self._carrier is not None:
            self._carrier.stop()
        self._alerts.close()
        self._send_last_statistics()
        if self._open and not self._outage.lasts and "documents" in self._backend.features:
            self._machine.leave(self._backend)
        self._backend.close()
        self._app.close()

    def _send_last_statistics(self) -> None:
        """Send what is left of them; if that fails, the next start does."""
        if "statistics" not in self._backend.features:
            return
        self._statistics.look(self._totals.figures(), time.time(), last=True)
        if self._open and not self._outage.lasts:
            with contextlib.suppress(BackendUnavailable):
                self._statistics.send(self._backend)

    # -- the supervisor --------------------------------------------------------------------------

    def _listen(self) -> None:
        """Read the supervisor's messages; when the supervisor dies, kill everything that it started."""
        while True:
            order, _ = self._channel.receive()
            if order is None:
                if linux.is_child_of(self._supervisor):  # it is alive, but does not know this process
                    os._exit(1)
                self._kill_all()
            elif isinstance(order, Stop):
                self._stopping = True
            else:
                self._orders.append(order)
            self._backend.interrupt()

    def _kill_all(self) -> NoReturn:
        """Kill all workers and exit: neither they nor their jobs' subprocesses outlive the supervisor."""
        for path in state.worker_files(self._run_dir):
            try:
                file = WorkerFile(path)
            except (OSError, ValueError):
                continue
            header = file.header()
            linux.kill_session(header.pid, header.start_ticks)
        os._exit(1)

    # -- one turn --------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        if self._statistics.is_due(time.time()):
            self._statistics.look(self._totals.figures(), time.time())
        if now >= self._outage.next_try:
            try:
                self._work(now)
                self._outage.over()
            except BackendError as error:
                self._outage.began(error)
                self._write_backlog(error=str(error))
                if self._stopping:
                    self._orders.clear()  # the files stay: the next start releases the jobs that they name
        self._sleep()

    def _work(self, now: float) -> None:
        if not self._open:
            self._backend.open(None)
            define(self._backend, self._app.config)
            self._open = True
            self._warn_of_risks()
        while self._orders:
            self._obey(self._orders[0])
            self._orders.popleft()
        if now >= self._next_kept:
            begin = time.monotonic()
            kept = self._backend.housekeep(HOUSEKEEP_LIMIT)
            self._note_call("housekeep", begin)
            self._look_at_documents()
            self._next_kept = now if kept.more else now + min(3.0, float(self._app.config.lease) / 10)
        if now >= self._next_count:
            self._count()
            self._next_count = now + COUNT_INTERVAL
        if now >= self._next_cleaning:
            self._next_cleaning = now + CLEANING_INTERVAL
            if self._app.payloads.store is not None:
                self._app.clean_payloads_soon()
        if (now >= self._next_report or self._machine.has_news) and "documents" in self._backend.features:
            self._machine.report(self._backend)
            self._next_report = now + REPORT
        if self._statistics.unsent:
            self._statistics.send(self._backend)
        self._dead_actions.work(self._backend)
        if self._webhooks is not None:
            self._webhooks.work(self._backend)
        self._tick()

    def _look_at_documents(self) -> None:
        """Take over changes of the schedule, commands to this machine, and sizes of its pools."""
        if "documents" in self._backend.features:
            versions = self._backend.document_versions([SCHEDULE_KIND, COMMAND, SIZE, ACTION])
            self._ticker.refresh(self._backend, versions[SCHEDULE_KIND])
            self._machine.look(self._backend, versions[COMMAND])
            self._pool_sizes.look(self._backend, versions[SIZE])
            self._backlog.refused_entries = dict(islice(self._ticker.refused.items(), state.MOST_REFUSED))
            self._backlog.refused_sizes = dict(islice(self._pool_sizes.refused.items(), state.MOST_REFUSED))
            self._dead_actions.look(self._backend, versions[ACTION])

    def _warn_of_risks(self) -> None:
        with contextlib.suppress(BackendError):  # a failure here must not stop the work
            for advice in self._backend.advice():
                events.emit(events.BackendRisk(advice))

    def _sleep(self) -> None:
        now = time.monotonic()
        pause = self._outage.next_try - now
        if pause > 0:
            time.sleep(min(pause, 0.05))
        elif not (self._orders or self._stopping):
            until = min(self._next_kept, self._next_count, self._dead_actions.next()) - now
            until = min(until, self._ticker.next(time.time()))
            if until > 0:
                try:
                    self._backend.wait((), until)
                except BackendError as error:
                    self._outage.began(error)

    # -- orders ------------------------------------------------------------------------------------

    def _obey(self, order: Repair | CallHook | RanTooFast | CommandDone) -> None:
        if isinstance(order, Repair):
            self._repair(order)
        elif isinstance(order, CommandDone):
            self._machine.done(order)
        elif isinstance(order, RanTooFast):
            self._alerts.too_fast(time.monotonic(), order.job, order.topic, order.seconds, order.min_time, order.more)
        else:
            self._call_hook(order.hook, facts=order.facts)

    def _repair(self, repair: Repair) -> None:
        """Release a dead worker's jobs, then add its counters to the totals and remove its files."""
        path = self._run_dir / state.WORKERS / repair.file
        found = describe(path, repair)
        failpoint("repair.before")
        started = found.started
        if repair.culprit and timeouts.settle(
            self._app, self._backend, found.owner, repair.culprit, repair.reason, found.report["stacks"]
        ):
            started = []
        ran = [] if BOTH.isdisjoint(self._backend.features) else found.ran
        released = self._backend.release_owner(found.owner, started, found.document, *([ran] if ran else []))
        failpoint("repair.after")
        if released or repair.crash:
            events.emit(events.JobsHandedBack(found.owner, released, len(found.started)))
        self._totals.add_worker(path, released)
        self._channel.send(Repaired(repair.file))
        if repair.crash:
            self._call_hook("jobs_worker_crashed", report=found.report)

    def _call_hook(self, hook: str, **facts: Any) -> None:
        for implementation in self._app.plugins.implementations(hook):
            guarded(implementation, **facts)

    # -- counting --------------------------------------------------------------------------------

    def _count(self) -> None:
        begin = time.monotonic()
        counts = self._backend.counts(self._topics)
        round_trip = self._note_call("count", begin)
        self._paused = self._backend.paused()
        if begin >= self._next_survey:
            self._survey()
        if begin >= self._next_limits:
            self._look_at_limits(counts)
        if begin >= self._next_flows and "flows" in self._backend.features:
            self._look_at_flows()
        self._alerts.check(time.monotonic(), counts)
        self._backlog.answered_at = time.time()
        self._backlog.round_trip = round_trip
        self._backlog.alerts = sorted(self._alerts.active())
        self._warn_of_unserved({**counts, **self._others})
        self._statistics.saw({topic: count.pushed for topic, count in {**counts, **self._others}.items()})
        self._write_backlog(counts={**counts, **self._others})
        ages = {topic: (count.ready, count.oldest_age) for topic, count in counts.items() if topic not in self._paused}
        self._channel.send(Counted(ages, leases="fencing" in self._backend.features))

    def _note_call(self, op: str, begin: float) -> float:
        """Count a call to the backend that began at `begin`, and return its seconds."""
        seconds = time.monotonic() - begin
        self._backlog.ops.setdefault(op, OpFigures()).note(seconds)
        return seconds

    def _look_at_limits(self, counts: dict[str, Counts]) -> None:
        """Read the use of limits, if this application defines some or jobs wait for one."""
        config = self._app.config
        self._backlog.has_lines = not BOTH.isdisjoint(self._backend.features)
        if "limits" not in self._backend.features:
            return
        if not (config.limits or self._backlog.limits or any(count.limited for count in counts.values())):
            return
        begin = time.monotonic()
        states = self._backend.limits(MOST_LIMITS)
        now = time.monotonic()
        self._next_limits = now + self._limits_pace.pause(now - begin, LIMITS_INTERVAL)
        self._backlog.limits = figures(states)
        self._limit_alerts.check(now, states)
        self._backlog.full = self._limit_alerts.active(now)

    def _look_at_flows(self) -> None:
        """Count the members of flows that have not ended, of the first MOST_FLOWS, the failed ones first."""
        begin = time.monotonic()
        self._backlog.flows = members_by_state(self._backend.flows(MOST_FLOWS))
        now = time.monotonic()
        self._next_flows = now + self._flows_pace.pause(now - begin, LIMITS_INTERVAL)

    def _survey(self) -> None:
        """Count every other topic that the backend has, or that this application enqueues to."""
        begin = time.monotonic()
        known = {*self._destinations, *self._listed()}
        others = sorted(known.difference(self._topics))
        self._others = self._backend.counts(others) if others else {}
        now = time.monotonic()
        least = 0.0 if "browse" in self._backend.features else UNLISTED_INTERVAL
        self._next_survey = now + self._survey_pace.pause(now - begin, least)

    def _listed(self) -> list[str]:
        """Return the backend's topics with valid names; invalid ones, of other programs, must not delay repairs."""
        try:
            return [topic for topic in self._backend.topics() if isinstance(topic, str) and topic_error(topic) is None]
        except BackendUnavailable:
            raise
        except NotSupported:
            pass
        except Exception as error:
            if not self._told_unlisted:
                self._told_unlisted = True
                events.emit(events.BackendRisk(f"its reserved jobs cannot be listed by topic: {told(error)}"))
        return []

    def _warn_of_unserved(self, counts: dict[str, Counts]) -> None:
        """Warn of each topic that no pool serves: once, and once more when jobs wait there for the first time."""
        unserved = {}
        for topic in filter(self._app.config.is_unserved, counts):
            waiting, senders = (
                counts[topic].ready + counts[topic].limited + counts[topic].scheduled,
                self._destinations.get(topic, []),
            )
            if not (waiting or senders):
                continue
            unserved[topic] = senders
            told = self._told_unserved.get(topic)
            if told is None or (waiting and not told):
                self._told_unserved[topic] = bool(waiting)
                events.emit(events.TopicUnserved(topic, waiting, senders))
                if waiting:
                    self._alerts.unserved(topic, counts[topic])
        self._backlog.unserved = unserved

    def _write_backlog(self, *, counts: dict[str, Counts] | None = None, error: str = "") -> None:
        """Write backlog.json."""
        backlog = self._backlog
        backlog.at = time.time()
        backlog.answers, backlog.error = not error, error
        backlog.outbox = None if self._carrier is None else self._carrier.state
        if counts is not None:
            backlog.topics = {
                topic: TopicState(
                    count.ready,
                    count.scheduled,
                    count.reserved,
                    count.dead,
                    count.oldest_age,
                    topic in self._paused,
                    count.limited,
                    count.waiting,
                    count.pushed,
                    count.refused,
                )
                for topic, count in counts.items()
            }
        try:
            state.write(self._run_dir / state.BACKLOG, backlog)
            self._unwritten = ""
        except OSError as failed:
            if str(failed) != self._unwritten:  # a full disk is reported once, not every second
                self._unwritten = str(failed)
                events.emit(events.RunDirTrouble(state.BACKLOG, str(failed)))

    # -- the schedule ----------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._ticker.stale:
            self._ticker.refresh(self._backend)
        ticks = self._ticker.due(time.time())
        if ticks:
            backend = self._backend
            guarded = backend.push_guarded if "documents" in backend.features else None
            self._ticker.enqueue(ticks, backend.push, guarded)
