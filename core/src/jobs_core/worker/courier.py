"""The courier: the one thread of a worker that talks to the backend.

It reserves jobs for the executor, settles finished runs, renews the lease, interrupts overdue runs, and releases jobs
that have waited too long. The rest of the time it sleeps in the backend. During an outage it still collects and
interrupts runs, and it sends each unanswered request again under the same request id.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from .. import boundary, events
from ..backends.base import Backend, Delivery, Outcome, Settlement
from ..errors import BackendError, BackendUnavailable, OwnerLost
from ..failpoints import failpoint
from ..ids import new_token
from ..limiting import BOTH
from ..runs import failure
from ..runs.notebook import Notebook
from ..runs.outcome import decide
from ..runs.run import Ending, Run, StopFlag
from ..scoreboard.layout import Phase
from ..scoreboard.writer import NOWHERE, Scoreboard
from ..soundness import is_sound, require_soundness
from .decoder import Decoder
from .draining import Draining
from .executors.base import Executor
from .interruptions import Interruptions
from .isolation import Isolation
from .lease import Lease
from .outage import Outage
from .pending_ends import MOST_PENDING, PendingEnd, PendingEnds
from .reservations import Reservations
from .run_queue import SETTLE_INTERVAL, RunQueue
from .settings import CourierSettings, Listener
from .settlements import Settlements, log_stale
from .spinning import Spinning
from .too_fast import TooFast
from .topic_order import topic_order
from .wake_up import NEVER, Situation, Sleep, next_wake_up

HOUSEKEEP_LIMIT = 500
CLEANING_INTERVAL = 3600.0
"""Seconds between two cleanings of the payload store, which lists all of it."""
OUTCOME_NAMES = {
    Outcome.DONE: "done",
    Outcome.RETRY: "retry",
    Outcome.DEAD: "dead",
    Outcome.EXPIRED: "dead",
    Outcome.CANCELLED: "cancelled",
    Outcome.DEFER: "deferred",
    Outcome.RELEASE: "deferred",
}

FAILED = frozenset({Outcome.RETRY, Outcome.DEAD, Outcome.EXPIRED})
"""Outcomes that the worker counts as failed attempts. A snooze and a cancellation are none."""

FLUSH_PATIENCE = 2.0
"""Longest time in seconds that a stopping worker waits for the deletion of blobs; the rest are deleted later."""

DUE_SHARE = 0.9
"""Share of `max_jobs` after which the worker requests a successor, which then serves before the last job has run."""

YEAR = 86400.0 * 365

logger = logging.getLogger("jobs.worker")


class Courier:
    """The courier of one worker; only `start`, `wake`, `stop`, `join`, `quiet` and `serve` may be called by other threads."""

    def __init__(
        self,
        backend: Backend,
        owner: str,
        executor: Executor,
        decoder: Decoder,
        settings: CourierSettings,
        listener: Listener,
        board: Scoreboard = NOWHERE,
        isolation: Isolation | None = None,
    ) -> None:
        self.owner = owner
        self.done = self.failed = 0
        self.failure: BaseException | None = None
        self.replace = False  # the worker is to be replaced: a job cannot be interrupted
        self.abandoned = False  # jobs that are released or settled still run: the process has to end at once
        self._backend = backend
        self._order = topic_order(settings.topics)
        self._topics = list(settings.topics)  # in the order of the last request
        self._executor = executor
        self._run_queue: RunQueue = executor.run_queue
        self._decoder = decoder
        self._settings = settings
        self._listener = listener
        self._board = board
        self._notebook = Notebook(self.wake)
        self._settlements = Settlements(backend, board, decoder.discarder, self._notebook)
        self._spinning = Spinning()
        self._too_fast = TooFast()
        self._reservations = Reservations(executor, isolation, settings.largest_batch, watched=board is not NOWHERE)
        self._pending_ends = PendingEnds(self.wake)
        self._interruptions = Interruptions(self._reservations, executor, settings.timeout_grace)
        self._outage = Outage(settings.lease)
        self._lease = Lease(settings.lease, self._run_queue, polls="cancel" in backend.features and not backend.wakes_to_cancel)
        decoder.know(backend.features)
        self._has_lines = not BOTH.isdisjoint(backend.features)
        self._passed_over = False  # jobs with limits were left behind, because no slot was free
        self._next_housekeeping = self._next_cleaning = 0.0
        most = settings.max_jobs
        self._most = most or sys.maxsize  # largest number of jobs to reserve in all
        self._taken = 0
        self._due_at = most - max(1, int(most * DUE_SHARE)) if most else -1  # a successor is requested when this many are left
        self._reserve_request: tuple[str, int] | None = None
        self._may_have_work = True
        self._quiet = settings.starts_quiet  # reserves no new jobs
        self._stopping = self._told_stopping = False
        self._stop_flag = StopFlag(self._notebook if decoder.keeps_notes else None)  # for the jobs
        self._checkpoint_fails = self._told_unclosed = False
        self._stop_at = NEVER
        self._reopened = 0
        self._thread = threading.Thread(target=self._main, name="jobs-courier")

    # -- from other threads and signal handlers --------------------------------------------------

    def start(self) -> None:
        """Start the courier's thread, which opens the backend, serves, and stops the executor when it ends."""
        self._thread.start()

    def wake(self) -> None:
        """Wake the courier to check for changes."""
        self._backend.interrupt()

    def stop(self, timeout: float | None = None) -> None:
        """Reserve no more jobs, let running ones finish, and release those still running after `timeout` seconds."""
        self._stop_at = time.monotonic() + (self._settings.stop_timeout if timeout is None else timeout)
        self._stopping = self._stop_flag.stopping = True
        self.wake()

    def quiet(self) -> None:
        """Reserve no more jobs, but run those already reserved, until `serve` or `stop`."""
        self._quiet = True
        self.wake()

    def serve(self) -> None:
        """Start or resume reserving jobs."""
        self._quiet = False
        self._may_have_work = True
        self.wake()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    # -- the thread ------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._open()
            self._listener.opened()
            while not self._finished():
                self._turn()
        except BackendError as error:  # raised while opening: a retry would not fix it
            self.failure = error
        except BaseException as error:
            # Jobs that have started and are not settled are charged: one of them may have made the courier fail.
            self.failure = error
            self._run_queue.take_back()
            boundary.log_past(logging.ERROR, f"worker {self.owner}: the courier failed; the worker ends", error)
        finally:
            self._executor.stop()
            if self._decoder.discarder is not None:
                self._decoder.discarder.flush(FLUSH_PATIENCE)
            if self.failure is None or is_sound():  # otherwise `close` would wait for an answer that never comes
                self._backend.close()
            if self.abandoned:
                self._listener.abandoned(self.replace)

    def _open(self) -> None:
        """Connect, with retries until the worker is stopped; raise any error that is not an outage."""
        while not self._stopping:
            try:
                self._open_as_owner()
                if self._settings.defines is not None:
                    self._settings.defines(self._backend)
                self._outage.over()
                return
            except BackendUnavailable as error:
                self._note_outage(error)
                time.sleep(self._outage.pause())

    def _open_as_owner(self) -> None:
        began = time.monotonic()
        self._backend.open(self.owner)
        self._lease.renewed(began)
        if self._most < sys.maxsize:
            self._backend.expect(max(0, self._left))

    def _finished(self) -> bool:
        if self._settlements.waiting:
            # Settlements that cannot be sent are given up 1 s after the stop timeout; the lease then releases their jobs.
            return (self.abandoned or self._outage.lasts) and time.monotonic() > self._stop_at + 1.0
        return self._stopping and not self._unsettled

    @property
    def _unsettled(self) -> bool:
        """Return whether jobs are running, or have ended and cannot be settled yet."""
        return bool(self._reservations.runs) or len(self._pending_ends) > 0

    def _turn(self) -> None:
        """Do all work that is due, then sleep until there is more."""
        now = time.monotonic()
        self._collect()
        self._board.beat(self.done, self.failed, len(self._reservations.runs) + len(self._pending_ends))
        if self._stopping:
            self._wind_up(now)
        neglected = now > self._lease.neglected_at and not self._outage.lasts
        if not neglected:  # otherwise the heartbeat comes first: it reports reservations that were lost meanwhile
            self._interrupt_overdue(now)
        if waiting_long := self._reservations.release_waiting(now):
            self._settlements.unsent += waiting_long
        if self._executor.upset:
            self._submit_lost(now)
        if self._interruptions.told:
            self._end_stubborn(now)
        if now >= self._outage.next_try and self._ask(self._talk, now) and self._outage.lasts:
            self._outage.over()
            self._board.reach(True)
        if neglected:
            self._interrupt_overdue(now)
        self._sleep()

    def _ask(self, call: Callable[[float], None], value: float) -> bool:
        """Call the backend; on an error, handle it and return False."""
        try:
            call(value)
            return True
        except OwnerLost as error:
            self._reopen(error)
        except BackendError as error:
            self._note_outage(error)
        return False

    def _note_outage(self, error: BackendError) -> None:
        """Note a failed call, to be retried later; raise if this process itself is at fault."""
        require_soundness()
        self._outage.began(error)
        self._board.reach(False)

    def _talk(self, now: float) -> None:
        """Make all of this turn's calls to the backend."""
        if self._settlements.waiting:
            self._settle()
        keep_house = self._settings.keeps_house and now >= self._next_housekeeping
        # Heartbeat and housekeeping share one wake-up. An outage is over only when the backend has answered a call.
        runs = len(self._reservations.runs)
        if self._outage.lasts or self._backend.called or self._lease.due(now, runs, early=keep_house):
            self._beat()
        if keep_house:
            kept = self._backend.housekeep(HOUSEKEEP_LIMIT)
            # The interval counts from the end of the call, so that slow round trips leave time to wait for jobs.
            self._next_housekeeping = now if kept.more else time.monotonic() + min(3.0, self._settings.lease / 10)
            if self._settings.cleans is not None and now >= self._next_cleaning:
                self._next_cleaning = now + CLEANING_INTERVAL
                self._settings.cleans()
        if now >= self._reservations.checkpoints.due:
            self._checkpoint(now)
        if self._notebook.runs and now >= self._notebook.due:
            self._note(now)
        if self._run_queue.parked and now <= self._run_queue.leased_until:
            self._run_queue.parked = False
            self._executor.submit(())
        self._admit(now)
        if self._due_at >= 0:
            self._request_successor(now)
        if self._wants_jobs(now):
            self._reserve(now)

    # -- finished runs ---------------------------------------------------------------------------

    def _collect(self) -> None:
        """Turn finished runs into settlements."""
        if self._pending_ends.completed:
            for settlement, run in self._pending_ends.collect():
                self._queue(settlement, run)
        if not self._run_queue.finished:
            return
        ours, stale = self._reservations.collect()
        if self._passed_over:
            self._passed_over, self._may_have_work = False, True
        for run in stale:
            self._board.note(run, "stale")
            log_stale(run)
            self._notebook.forget(run)
            self._board.settled(((None, run),))
        self._conclude(ours)
        self._board.publish()

    def _conclude(self, runs: Sequence[Run]) -> None:
        """Count and log the outcomes of runs that have ended, and queue their settlements."""
        unsent: list[Ending] = self._settlements.unsent
        for run in runs:
            settlement = run.settlement or decide(run)  # the executor has decided, if the run ended there
            if run.unfit:
                self._board.note_unrun(run.delivery.topic, OUTCOME_NAMES[settlement.outcome])
            else:
                self._board.note(run, OUTCOME_NAMES[settlement.outcome])
            if settlement.outcome is Outcome.DONE:
                self.done += 1
                if self._settings.logs_done:
                    events.emit(events.JobDone(*run.about, run.ended - run.started))
                if run.ended - run.started < run.policy.min_time:
                    self._note_too_fast(run)
            elif settlement.outcome is Outcome.RELEASE:
                events.emit(events.JobSuspended(*run.about, 0 if run.progress is None else run.progress.steps))
            else:
                self.failed += settlement.outcome in FAILED
                failure.log(run, settlement)
                if settlement.close_limits and not self._decoder.keeps_limits:
                    settlement = self._without_closing(run, settlement)
                if settlement.outcome is Outcome.DEFER:
                    settlement = self._spinning.slowed(run, settlement)
            if run.owed is not None:
                self._pending_ends.add(PendingEnd(settlement, run.owed, run))
            elif run.policy.acks == "late":
                unsent.append((settlement, run))
            else:
                self._queue(settlement, run)

    def _queue(self, settlement: Settlement, run: Run | None) -> None:
        """Queue the settlement of a job, or only its follow-ups if it was acknowledged before it ran."""
        if run is None or run.policy.acks == "late":
            self._settlements.unsent.append((settlement, run))
        else:
            self._settlements.late += settlement.followups
            self._settlements.discard_blobs([(settlement, run)])
            self._board.settled(((settlement, run),))

    def _settle(self) -> None:
        """Send settlements, then let the next ones collect for SETTLE_INTERVAL seconds, to be sent together."""
        try:
            self._settlements.send()
        finally:
            self._start_acknowledged()
        self._run_queue.be_quiet(time.monotonic() + SETTLE_INTERVAL)

    def _without_closing(self, run: Run, settlement: Settlement) -> Settlement:
        """Return a settlement that closes no limits, since the backend has none; warn once."""
        if not self._told_unclosed:
            self._told_unclosed = True
            line = "job %s of %s closes the limit %s, but %s:// has no limits: only the job itself is delayed"
            boundary.log(logger, logging.WARNING, line, run.id, run.job.name, settlement.close_limits[0][0], self._backend.name)
        return msgspec.structs.replace(settlement, close_limits=())

    def _checkpoint(self, now: float) -> None:
        """Store the cursors that running jobs have reached; a backend that refuses them must not stop the worker."""
        checkpoints = self._reservations.checkpoints
        cursors = checkpoints.take(now, self._reservations.runs)
        try:
            if cursors:
                failpoint("checkpoint.before")
                self._backend.checkpoint(cursors)
                failpoint("checkpoint.after")
        except (BackendUnavailable, OwnerLost):
            raise
        except BackendError as error:
            if not self._checkpoint_fails:
                self._checkpoint_fails = True
                text = "the cursors of resumable jobs cannot be stored, and a crash repeats what they do from now on: %s"
                boundary.log(logger, logging.WARNING, text, error)
            return
        self._checkpoint_fails = False
        checkpoints.stored()

    def _note(self, now: float) -> None:
        """Store what running jobs tell; a backend that refuses it must not stop the worker."""
        notebook = self._notebook
        notes = notebook.take(now)
        try:
            if notes:
                failpoint("note.before")
                self._backend.note(notes)
                failpoint("note.after")
        except (BackendUnavailable, OwnerLost):
            notebook.failed(now)
            raise
        except BackendError as error:
            if not notebook.fails:
                notebook.fails = True
                text = "the progress and log lines of jobs cannot be stored, and are lost from now on: %s"
                boundary.log(logger, logging.WARNING, text, error)
        else:
            notebook.fails = False
        notebook.stored()

    def _note_too_fast(self, run: Run) -> None:
        self._board.note_too_fast(run)
        report = self._too_fast.report(run)
        if report is not None:
            events.emit(report)
            self._listener.too_fast(report)

    # -- reserving -------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return how many more jobs may be reserved now."""
        return min(self._reservations.room(), self._left)

    @property
    def _left(self) -> int:
        """Return how many more jobs `max_jobs` allows."""
        return self._most - self._taken + self._reservations.released

    def _wants_jobs(self, now: float) -> bool:
        if self._reserve_request:
            return True
        if not self._may_have_work or not self._can_reserve(now):
            return False
        return not self._run_queue.pending or self._room() >= min(self._reservations.batch(), self._left) // 2

    def _can_reserve(self, now: float) -> bool:
        """Return whether one more job could be reserved."""
        if self._stopping or self._quiet or self._room() <= 0 or self._reservations.closed(now):
            return False
        if len(self._pending_ends) >= MOST_PENDING:
            return False
        return not (self._passed_over and self._reservations.full)

    def _reserve(self, now: float) -> None:
        """Reserve what is ready; repeat a request whose answer was lost."""
        if self._reserve_request is None:
            self._reserve_request = new_token(), self._room()
            self._topics = self._order()
        request, limit = self._reserve_request
        if self._has_lines:
            self._backend.startable = self._reservations.startable()
        failpoint("reserve.before")
        began = time.monotonic()
        deliveries = self._backend.reserve(self._topics, limit, request)
        self._board.note_call("reserve", time.monotonic() - began)
        failpoint("reserve.after")
        self._passed_over = self._backend.passed_over
        self._take(deliveries, limit, now)
        if not deliveries and self._settings.drain and not self._unsettled:
            self._stop_if_drained()

    def _reserve_next(self, timeout: float) -> bool:
        """Sleep until jobs are reserved or `timeout` seconds are over; return whether any are. A failed request is repeated."""
        request, limit = self._reserve_request = new_token(), self._room()
        self._topics = self._order()
        if self._has_lines:
            self._backend.startable = self._reservations.startable()
        began = time.monotonic()
        failpoint("reserve.before")
        deliveries = self._backend.reserve_next(self._topics, limit, request, timeout)
        failpoint("reserve.after")
        self._passed_over = self._backend.passed_over
        if deliveries:
            self._take(deliveries, limit, began)
        self._reserve_request = None
        return bool(deliveries)

    def _take(self, deliveries: list[Delivery], limit: int, began: float) -> None:
        """Start the jobs that a reserve call begun at `began` has returned, and settle those that cannot run."""
        self._reserve_request = None
        self._may_have_work = len(deliveries) >= limit or (self._settings.drain and bool(deliveries))
        self._lease.renewed(began)
        now = time.monotonic()
        ready, deferred = self._reservations.take(self._decode(deliveries), now)
        self._settlements.unsent += deferred
        self._taken += len(deliveries)
        if self._decoder.met_limits or self._settings.limits_keys:
            ready = self._put_first(ready)
        elif ready:
            self._reservations.note_limited([], len(ready))
        self._start(ready, now)
        self._board.publish()
        self._admit(now)
        self._request_successor(now)
        if self._passed_over and not self._reservations.full:  # some of these jobs did not need a slot
            self._may_have_work = True

    def _decode(self, deliveries: Sequence[Delivery]) -> list[Run]:
        """Return the runs of these deliveries; settle those that cannot run."""
        runs: list[Run] = []
        for delivery in deliveries:
            run = self._decoder.accept(delivery)
            if isinstance(run, Run):
                run.stop_flag = self._stop_flag
                runs.append(run)
                continue
            if isinstance(run, PendingEnd):
                self._pending_ends.add(run)
                run = run.settlement
            else:
                self._settlements.unsent.append((run, None))
            if run.outcome is Outcome.RELEASE:
                self._reservations.released += 1
            elif run.outcome is not Outcome.DEFER:
                self._board.note_unrun(delivery.topic, OUTCOME_NAMES[run.outcome])
        if runs and events.tells_all():
            for run in runs:
                events.emit(events.JobTaken(*run.about))
        return runs

    def _put_first(self, runs: list[Run]) -> list[Run]:
        """Have the runs with limits start before all that wait, since they hold slots; return the others."""
        per_key = self._settings.limits_keys
        first = [run for run in runs if run.delivery.limits or (run.delivery.key and run.delivery.topic in per_key)]
        if runs:
            self._reservations.note_limited(first, len(runs) - len(first))
        if not first:
            return runs
        self._run_queue.pending.extendleft(reversed(first))
        rest = [run for run in runs if run not in first] if len(first) < len(runs) else []
        if not rest:
            self._executor.submit(())
        return rest

    def _request_successor(self, now: float) -> None:
        """Request a successor once `max_jobs` allows few more jobs.

        Suspects that have just been reserved get their chance first. Otherwise a worker with `max_jobs = 1` would be told to
        stop during the suspect's pause, would release it uncharged, and so would every successor. Those that would have to
        wait for another worker's suspects are deferred, which makes room for other jobs.
        """
        if self._left > self._due_at or self._reservations.pausing(now):
            return
        self._settlements.unsent += self._reservations.defer_shut_out()
        if self._left <= self._due_at:
            self._due_at = -1
            self._listener.due("max_jobs")

    @functools.cached_property
    def _draining(self) -> Draining:
        return Draining()

    def _stop_if_drained(self) -> None:
        if self._draining.is_over(self._backend, self._topics):
            self._stopping = True
            self._stop_at = time.monotonic() + self._settings.stop_timeout

    # -- starting --------------------------------------------------------------------------------

    def _start(self, runs: Sequence[Run], now: float) -> None:
        if runs:
            self._run_queue.be_quiet(now + SETTLE_INTERVAL)
            self._executor.submit(runs)

    def _admit(self, now: float) -> None:
        """Start suspects and early acknowledged jobs whose turn has come; first send the settlements that must precede them."""
        reservations, settlements = self._reservations, self._settlements
        if self._stopping or not reservations.waiting:
            return
        first = reservations.admit(now)
        settlements.unsent += first
        early = reservations.early(settlements.acknowledging)
        settlements.acknowledge(early)
        if first or early:
            self._settle()
        self._start(reservations.admitted(now), now)

    def _start_acknowledged(self) -> None:
        """Start jobs that are acknowledged and have not run, even while stopping: no other worker will run them."""
        acknowledged = self._settlements.acknowledged
        if acknowledged:
            now, self._settlements.acknowledged = time.monotonic(), []
            self._start(self._reservations.start(acknowledged, now), now)

    def _submit_lost(self, now: float) -> None:
        """Resubmit the runs that an executor took and never began."""
        self._executor.upset = False
        lost = self._reservations.lost(now)
        self._board.settled((None, run) for run in lost)  # frees the slots that some of them have there
        if lost:
            self._executor.submit(lost)
        if self._reservations.astray:
            self._executor.upset = True

    # -- lease, deadlines, cancels ---------------------------------------------------------------

    def _beat(self) -> None:
        failpoint("heartbeat.before")
        began = time.monotonic()
        heartbeat = self._backend.heartbeat()
        self._board.note_call("heartbeat", time.monotonic() - began)
        failpoint("heartbeat.after")
        for job_id in heartbeat.lost:
            self._reservations.lose(job_id)
            if len(self._pending_ends):
                self._board.settled(((None, self._pending_ends.lose(job_id)),))
        for job_id in heartbeat.cancelled:
            if run := self._interruptions.cancel(job_id):
                self._conclude([run])
        for job_id in heartbeat.forced:
            self._interruptions.force(job_id)
        self._lease.heard(began)

    def _interrupt_overdue(self, now: float) -> None:
        if self._reservations.deadlines.heap and self._interruptions.interrupt_overdue(now):
            self._be_replaced(now)

    def _end_stubborn(self, now: float) -> None:
        """Stop waiting for runs that have ignored their interruption: only the end of the process can end them."""
        ended, blocked = self._interruptions.end_stubborn(now)
        self._conclude(ended)
        if ended:
            self.abandoned = True
            self._be_replaced(now)
        if blocked:  # no other run of this worker can continue
            self._settlements.unsent += self._reservations.release_unstarted()
            self._settlements.unsent += self._reservations.release_running()
            self._stop_at = now

    def _be_replaced(self, now: float) -> None:
        """Have this worker replaced: a job that cannot be interrupted ends only with the process. Other jobs finish first."""
        if not self.replace:
            self.replace = self._stopping = True
            self._stop_at = min(self._stop_at, now + YEAR)
            self._listener.due("timeout")

    # -- the end, and a new beginning ------------------------------------------------------------

    def _wind_up(self, now: float) -> None:
        """Release jobs that have not started, and abandon running ones at the stop timeout or if no interrupt can end them."""
        if not self._told_stopping:
            self._told_stopping = self._stop_flag.stopping = True
            self._board.phase(Phase.STOPPING)
            events.emit(events.WorkerStopping(self.owner, len(self._executor.started())))
        self._settlements.unsent += self._reservations.release_unstarted()
        if len(self._pending_ends) and now >= self._stop_at:
            self._settlements.unsent += self._pending_ends.release()
        if self._reservations.runs and now >= self._stop_at:
            self._settlements.unsent += self._reservations.release_running()
            self.abandoned = True
        elif self.replace and not self._reservations.runs:
            self.abandoned = True
            self._stop_at = min(self._stop_at, now)
        elif self.replace and (ended := self._interruptions.end_unreachable(now)):
            self._conclude(ended)
            self.abandoned = True
            self._stop_at = now

    def _reopen(self, error: OwnerLost) -> None:
        """Continue under a fresh owner id, since the lease ran out and the reservations went to other workers."""
        self._reopened += 1
        old = self.owner
        self.owner = f"{old.partition('+')[0]}+{self._reopened}"
        self._reservations.forget()
        self._settlements.clear()
        self._notebook.runs.clear()
        self._board.settled((None, run) for run in self._pending_ends.clear())
        self._reserve_request = None
        self._may_have_work = True
        self._board.owner(self.owner)
        events.emit(events.OwnerReplaced(old, self.owner, len(self._executor.started())))
        boundary.log(logger, logging.DEBUG, "%s", error)
        self._backend.close()
        try:
            self._open_as_owner()
        except BackendError as unavailable:
            self._note_outage(unavailable)

    # -- sleep -----------------------------------------------------------------------------------

    def _sleep(self) -> None:
        """Sleep in the backend until there is work; during an outage, sleep here."""
        now = time.monotonic()
        collect = self._run_queue.looks_at if self._reservations.runs and now < self._run_queue.looks_at else NEVER
        if collect == NEVER:
            self._run_queue.wake_me()  # before `finished` is checked: a run that finishes now is seen there or wakes us
        pause = self._outage.next_try - now
        if pause > 0:
            time.sleep(min(pause, 0.05))  # nothing can wake this sleep, so it is short: it delays stops and finished jobs
        elif not (self._run_queue.finished or self._settlements.waiting or self._wants_jobs(now)):
            self._ask(self._sleep_in_backend, collect)

    def _sleep_in_backend(self, collect: float) -> None:
        sleep, timeout = next_wake_up(self._situation(collect))
        if self._notebook.runs:
            timeout = max(0.0, min(timeout, self._notebook.due - time.monotonic()))
        if sleep is Sleep.WAIT:
            self._backend.wait((), timeout)
        elif sleep is Sleep.DRAIN:
            self._stop_if_drained()
            if not self._stopping:
                self._reserve_next(timeout)
                self._may_have_work = True  # if not, the next reserve call shows it
        elif self._reserve_next(timeout) and self._executor_begins():
            self._backend.wait((), SETTLE_INTERVAL)

    def _executor_begins(self) -> bool:
        """Return whether the executor has just got a job for every slot, and other work can wait until these have begun."""
        return self._reservations.full and not self._settlements.waiting and time.monotonic() < self._run_queue.looks_at

    def _situation(self, collect: float) -> Situation:
        now, reservations = time.monotonic(), self._reservations
        return Situation(
            now=now,
            heartbeat=self._lease.next_beat,
            interruption=self._interruptions.next(),
            start=reservations.next_start(now),
            housekeeping=self._next_housekeeping if self._settings.keeps_house else NEVER,
            poll=self._lease.next_poll(len(reservations.runs)),
            checkpoint=reservations.checkpoints.due,
            stop=(self._stop_at if self._unsettled else now) if self._stopping else NEVER,
            collect=collect,
            ahead=reservations.looks_ahead(self._may_have_work),
            full=reservations.full,
            more=self._may_have_work,
            can_reserve=self._can_reserve(now),
            drains=self._settings.drain and not self._unsettled,
        )
