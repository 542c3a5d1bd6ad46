"""The courier: the one thread of a worker that talks to the backend.

It reserves jobs for the executor, settles finished runs, renews the lease, interrupts overdue runs, and releases jobs
that have waited too long. The rest of the time it sleeps in the backend. An outage stops none of this: each request
that was not answered is sent again under the same request id.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from .. import boundary, events
from ..backends.base import Backend, Delivery, Outcome
from ..errors import BackendError, BackendUnavailable, JobCancelled, JobInterrupted, JobTimeout, OwnerLost
from ..failpoints import failpoint
from ..ids import new_token
from ..scoreboard.layout import Phase
from ..scoreboard.writer import NOWHERE, Scoreboard
from ..soundness import is_sound, require_soundness
from .decoder import Decoder
from .executors.base import Executor
from .executors.steps import overdue
from .isolation import Isolation
from .outage import Outage
from .outcome import decide
from .prefetch import AHEAD
from .report import report, tell_done, tell_taken
from .reservations import Reservations
from .run import Run
from .run_queue import SETTLE_INTERVAL, RunQueue
from .settlements import Settlements, tell_stale
from .spinning import Spinning
from .topic_order import topic_order

logger = logging.getLogger("jobs.worker")

LONGEST_SLEEP = 5.0
HOUSEKEEP_LIMIT = 500
OUTCOME_NAMES = {
    Outcome.DONE: "done",
    Outcome.RETRY: "retry",
    Outcome.DEAD: "dead",
    Outcome.EXPIRED: "dead",
    Outcome.CANCELLED: "cancelled",
    Outcome.DEFER: "deferred",
    Outcome.RELEASE: "deferred",
}

CANCEL_POLL = 0.2
"""Seconds between two heartbeats of a worker that runs jobs, where the backend cannot wake it for a cancel."""

DUE_SHARE = 0.9
"""Share of `max_jobs` after which the worker requests a successor, so that it serves before the last job has run."""

_NEVER = float("inf")


class Courier:
    """The courier of one worker; only `start`, `wake`, `stop`, `join`, `quiet` and `serve` may be called by other threads."""

    def __init__(
        self,
        backend: Backend,
        owner: str,
        topics: Sequence[str] | Mapping[str, int],
        executor: Executor,
        decoder: Decoder,
        *,
        lease: float,
        stop_timeout: float,
        timeout_grace: float = 10.0,
        keeps_house: bool,
        drain: bool = False,
        max_jobs: int = 0,
        tells_done: bool = False,
        quiet: bool = False,
        board: Scoreboard = NOWHERE,
        isolation: Isolation | None = None,
        on_open: Callable[[], None] = lambda: None,
        on_due: Callable[[str], None] = lambda why: None,
        on_abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self.owner = owner
        self.done = self.failed = 0
        self.failure: BaseException | None = None
        self.replace = False  # the worker is to be replaced: a job cannot be interrupted
        self.abandoned = False  # released jobs are still running: the process has to end at once
        self._backend = backend
        self._order = topic_order(topics)
        self._topics = list(topics)  # as the last request names them
        self._executor = executor
        self._run_queue: RunQueue = executor.run_queue
        self._decoder = decoder
        self._lease = lease
        self._stop_timeout = stop_timeout
        self._grace = timeout_grace
        self._told_to_end: deque[tuple[float, Run]] = deque()  # runs that were interrupted, and the end of their grace periods
        self._keeps_house = keeps_house
        self._drain = drain
        self._most = max_jobs or sys.maxsize  # jobs that may be reserved
        self._taken = 0
        self._due_at = max_jobs - max(1, int(max_jobs * DUE_SHARE)) if max_jobs else -1  # requests a successor at so few left
        self._tells_done = tells_done  # a log line for each job that succeeds
        self._board = board
        self._on_open = on_open
        self._on_due = on_due
        self._on_abandon = on_abandon
        self._settlements = Settlements(backend, board)
        self._spinning = Spinning()
        self._reservations = Reservations(executor, self._settlements, isolation, watched=board is not NOWHERE)
        self._reserve_request: tuple[str, int] | None = None
        self._outage = Outage(lease)
        self._may_have_work = True
        self._quiet = quiet  # reserves no new jobs
        self._next_beat = self._next_housekeep = self._heard_at = 0.0
        self._asks_for_cancels = "cancel" in backend.features and not backend.wakes_to_cancel
        self._stopping = self._told_stopping = False
        self._stop_at = _NEVER
        self._generation = 0
        self._thread = threading.Thread(target=self._main, name="jobs-courier")

    # -- from other threads and signal handlers --------------------------------------------------

    def start(self) -> None:
        """Open the backend and begin, on a thread of its own; stop the executor when that thread ends."""
        self._thread.start()

    def wake(self) -> None:
        """Wake the courier to check for changes."""
        self._backend.interrupt()

    def stop(self, timeout: float | None = None) -> None:
        """Reserve no more jobs, finish those that run, and release those that still run after `timeout` seconds."""
        self._stop_at = time.monotonic() + (self._stop_timeout if timeout is None else timeout)
        self._stopping = True
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
            self._on_open()
            while not self._finished():
                self._turn()
        except BackendError as error:  # on opening: trying again would not fix it
            self.failure = error
        except BaseException as error:
            # Jobs that have started and are not settled are charged: one of them may have made the courier fail.
            self.failure = error
            self._run_queue.take_back()
            boundary.log_past(logging.ERROR, f"worker {self.owner}: the courier failed; the worker ends", error)
        finally:
            self._executor.stop()
            if self.failure is None or is_sound():  # else the closing call would wait for its answer in vain
                self._backend.close()
            if self.abandoned:
                self._on_abandon()

    def _open(self) -> None:
        """Connect, however long that takes; raise errors that are not an outage."""
        while not self._stopping:
            try:
                began = time.monotonic()
                self._backend.open(self.owner)
                self._renewed(began)
                self._tell_the_rest()
                self._outage.over()
                return
            except BackendUnavailable as error:
                self._goes_without(error)
                time.sleep(self._outage.pause())

    def _tell_the_rest(self) -> None:
        """Tell the backend how many more jobs this worker will request, if there is a limit."""
        if self._most < sys.maxsize:
            self._backend.expect(max(0, self._left))

    def _finished(self) -> bool:
        if self._settlements:
            # Jobs not settled by then return to their topics when the lease ends, so the worker need not wait forever.
            return (self.abandoned or self._outage.lasts) and time.monotonic() > self._stop_at + 1.0
        return self._stopping and not self._reservations

    def _turn(self) -> None:
        now = time.monotonic()
        self._collect()
        self._board.beat(self.done, self.failed, len(self._reservations))
        if self._stopping:
            if not self._told_stopping:
                self._told_stopping = True
                self._board.phase(Phase.STOPPING)
                events.emit(events.WorkerStopping(self.owner, len(self._executor.started())))
            self._wind_up(now)
        stood_still = now > self._next_beat + self._lease / 6 and not self._outage.lasts
        if not stood_still:  # else the heartbeat first reports the reservations that were lost meanwhile
            self._interrupt_overdue(now)
        self._reservations.give_back_what_waits_long(now)
        self._reservations.hand_over_again(now)
        if self._told_to_end:
            self._end_stubborn(now)
        if self._outage.may_try(now) and self._ask(self._talk, now) and self._outage.lasts:
            self._outage.over()
            self._board.reach(True)
        if stood_still:
            self._interrupt_overdue(now)
        self._sleep()

    def _ask(self, what: Callable[[float], None], value: float) -> bool:
        """Call the backend; on an error, handle it and return False."""
        try:
            what(value)
            return True
        except OwnerLost as error:
            self._go_on_as_another(error)
        except BackendError as error:
            self._goes_without(error)
        return False

    def _goes_without(self, error: BackendError) -> None:
        """Note a failed call and try again later, unless this process itself is at fault."""
        require_soundness()
        self._outage.began(error)
        self._board.reach(False)

    def _talk(self, now: float) -> None:
        """Make all of this turn's calls to the backend."""
        if self._settlements:
            self._settle()
        keep_house = self._keeps_house and now >= self._next_housekeep
        # Heartbeat and housekeeping share one wake-up. An outage is over only when the backend has answered a call.
        due = now >= min(self._next_beat - (self._lease / 12 if keep_house else 0.0), self._run_queue.leased_until)
        due = due or self._backend.called or now >= self._next_call()
        if self._outage.lasts or due:
            self._beat(now)
        if keep_house:
            kept = self._backend.housekeep(HOUSEKEEP_LIMIT)
            # Counted from the end of the call: with slow round trips, there must be time left to wait for jobs.
            self._next_housekeep = now if kept.more else time.monotonic() + min(3.0, self._lease / 10)
        if self._run_queue.parked and now <= self._run_queue.leased_until:
            self._run_queue.parked = False
            self._executor.submit(())
        if self._stopping:
            self._reservations.start_acknowledged(now)
        else:
            self._reservations.start_waiting(now)
        if self._wants_jobs(now):
            self._reserve(now)

    # -- finished runs ---------------------------------------------------------------------------

    def _collect(self) -> None:
        """Turn finished runs into settlements."""
        ours, stale = self._reservations.collect()
        for run in stale:
            self._board.note(run, "stale")
            tell_stale(run)
            self._board.settled(((None, run),))
        for run in ours:
            self._conclude(run)
        if ours or stale:
            self._board.publish()

    def _conclude(self, run: Run) -> None:
        ending = decide(run)
        if run.unfit:
            self._board.note_unrun(run.delivery.topic, OUTCOME_NAMES[ending.outcome])
        else:
            self._board.note(run, OUTCOME_NAMES[ending.outcome])
        if ending.outcome is Outcome.DONE:
            self.done += 1
            if self._tells_done:
                tell_done(run)
        else:
            self.failed += 1
            report(run, ending)
            if ending.outcome is Outcome.DEFER:
                ending = self._spinning.slowed(run, ending)
        if run.policy.acks == "late":
            self._settlements.add(ending, run)
        else:
            self._board.settled(((ending, run),))

    def _settle(self) -> None:
        """Send settlements, then wait a moment for more, so that they are sent together."""
        self._settlements.send()
        self._run_queue.be_quiet(time.monotonic() + SETTLE_INTERVAL)

    # -- reserving -------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return how many more jobs may be reserved now."""
        return min(self._reservations.room(), self._left)

    @property
    def _left(self) -> int:
        """Return how many more jobs `max_jobs` allows."""
        return self._most - self._taken + self._reservations.given_back

    def _wants_jobs(self, now: float) -> bool:
        if self._reserve_request:
            return True
        if not self._may_have_work or not self._can_take(now):
            return False
        return not self._run_queue.pending or self._room() >= min(self._reservations.batch(), self._left) // 2

    def _can_take(self, now: float) -> bool:
        """Return whether one more job could be reserved."""
        return not self._stopping and not self._quiet and self._room() > 0 and not self._reservations.closed(now)

    def _reserve(self, now: float) -> None:
        if self._reserve_request is None:
            self._reserve_request = new_token(), self._room()
            self._topics = self._order()
        request, limit = self._reserve_request
        failpoint("reserve.before")
        deliveries = self._backend.reserve(self._topics, limit, request)
        failpoint("reserve.after")
        self._take_in(deliveries, limit, now)
        if not deliveries and self._drain and not self._reservations:
            self._end_if_drained()

    def _reserve_next(self, timeout: float) -> bool:
        """Sleep until jobs are reserved or `timeout` is over; return whether any were. An outage repeats the request later."""
        request, limit = self._reserve_request = new_token(), self._room()
        self._topics = self._order()
        began = time.monotonic()
        failpoint("reserve.before")
        deliveries = self._backend.reserve_next(self._topics, limit, request, timeout)
        failpoint("reserve.after")
        if deliveries:
            self._take_in(deliveries, limit, began)
        self._reserve_request = None
        return bool(deliveries)

    def _take_in(self, deliveries: list[Delivery], limit: int, began: float) -> None:
        """Start the jobs that a reserve call begun at `began` has returned, and settle those that cannot run."""
        self._reserve_request = None
        self._may_have_work = len(deliveries) >= limit or (self._drain and bool(deliveries))
        self._renewed(began)
        now = time.monotonic()
        runs: list[Run] = []
        for delivery in deliveries:
            run = self._decoder.accept(delivery)
            if isinstance(run, Run):
                runs.append(run)
                continue
            self._settlements.add(run)
            if run.outcome is not Outcome.DEFER:
                self._board.note_unrun(delivery.topic, OUTCOME_NAMES[run.outcome])
        if runs and events.tells_all():
            tell_taken(runs)
        self._reservations.take(runs, now)
        if not self._stopping:
            self._reservations.start_waiting(now)
        self._use_up(len(deliveries))
        self._board.publish()

    def _use_up(self, jobs: int) -> None:
        """Count reserved jobs against `max_jobs`, and request a successor in time."""
        self._taken += jobs
        if self._left <= self._due_at:
            self._due_at = -1
            self._on_due("max_jobs")

    def _end_if_drained(self) -> None:
        counts = self._backend.counts(self._topics).values()
        if not any(count.ready or count.scheduled or count.reserved for count in counts):
            self._stopping = True
            self._stop_at = time.monotonic() + self._stop_timeout

    # -- lease, deadlines, cancels ---------------------------------------------------------------

    def _beat(self, now: float) -> None:
        failpoint("heartbeat.before")
        began = time.monotonic()
        heartbeat = self._backend.heartbeat()
        failpoint("heartbeat.after")
        for job_id in heartbeat.lost:
            self._reservations.lose(job_id)
        for job_id in heartbeat.cancelled:
            self._cancel(job_id)
        for job_id in heartbeat.forced:
            self._see_to_its_end(job_id)
        self._heard_at = began
        self._renewed(began)

    def _next_call(self) -> float:
        """Return when to ask for cancels (monotonic); infinity if the backend reports them or no job runs."""
        return self._heard_at + CANCEL_POLL if self._asks_for_cancels and self._reservations else _NEVER

    def _renewed(self, began: float) -> None:
        """Note that a call begun at `began` renewed the lease. The lease counts from then; no run starts after its end."""
        self._next_beat = began + self._lease / 6
        self._run_queue.leased_until = began + self._lease

    def _cancel(self, job_id: str) -> None:
        run = self._reservations.get(job_id)
        if run is None or run.interrupted is not None:
            return
        if self._reservations.withdraw(run):
            run.error = JobCancelled("cancelled before it started")
            self._conclude(run)
        else:
            self._executor.interrupt(run, JobCancelled("cancelled while it ran"))

    def _see_to_its_end(self, job_id: str) -> None:
        """Start the grace period of a cancelled run; when it is over, the worker stops waiting for the run."""
        run = self._reservations.get(job_id)
        if run is not None and all(run is not told for _, told in self._told_to_end):
            self._told_to_end.append((time.monotonic() + self._grace, run))

    def _interrupt_overdue(self, now: float) -> None:
        for run in self._reservations.deadlines.due(now):
            if self._reservations.get(run.delivery.id) is not run:
                continue
            delivery, attempt = run.delivery, run.delivery.attempt + 1
            events.emit(events.JobOverdue(delivery.id, run.job.name, delivery.topic, attempt, run.timeout or 0.0))
            if not self._executor.can_interrupt(run):
                self._be_replaced(now)
            self._told_to_end.append((now + self._grace, run))
            self._executor.interrupt(run, overdue(run))

    def _be_replaced(self, now: float) -> None:
        """Have this worker replaced, since only its end ends a job that ignores its interruption. Other jobs finish first."""
        if not self.replace:
            self.replace = self._stopping = True
            self._stop_at = min(self._stop_at, now + 86400.0 * 365)
            self._on_due("timeout")

    def _end_stubborn(self, now: float) -> None:
        """Conclude each run that has ignored its interruption for its grace period.

        The rule of timeouts is implemented here only. A run that is ended for its timeout counts as one attempt with
        that reason, whether an interrupt ended it or the end of its process. The run that kept the worker from ending
        it is charged: in an event loop, that may be a different run from the overdue one. The other runs that end with
        the process return to their topics uncharged. Code that holds the interpreter blocks this thread too; then the
        supervisor applies the same rule (`supervisor.timeouts`).
        """
        while self._told_to_end and self._told_to_end[0][0] <= now:
            _, run = self._told_to_end.popleft()
            if self._reservations.get(run.delivery.id) is not run or run.ended:
                continue
            culprit = self._executor.holder(run)
            error = run.interrupted
            if culprit is not None and culprit is not run:
                error = JobTimeout(
                    f"it held the event loop for more than {self._grace:g} s, and job {run.id} could not be stopped"
                )
            assert error is not None
            blamed = culprit or run
            self._reservations.drop(blamed)
            self._conclude_running(blamed, error, now)
            self.abandoned = True
            self._be_replaced(now)
            if culprit is not None:  # no other run of this worker can continue
                for ended in self._reservations.ended():  # the blocked loop cannot report its plain functions
                    self._conclude(ended)
                self._reservations.give_back_unstarted()
                self._reservations.give_up()
                self._stop_at = now

    def _conclude_running(self, run: Run, error: BaseException, now: float) -> None:
        """Conclude a run that continues until the process ends, and note in its history where it was."""
        if run.settlement is None:  # else it has ended just now
            error.__cause__ = JobInterrupted(self._executor.where(run))
            run.error, run.ended = error, now
        self._conclude(run)

    # -- the end, and a new beginning ------------------------------------------------------------

    def _wind_up(self, now: float) -> None:
        """Release jobs that have not started, and abandon running ones at the stop timeout or if no interrupt can end them."""
        self._reservations.give_back_unstarted()
        if self._reservations and now >= self._stop_at:
            self._reservations.give_up()
            self.abandoned = True
        elif self.replace and not self._reservations:
            self.abandoned = True
            self._stop_at = min(self._stop_at, now)
        elif self.replace and self._reservations.cannot_end():
            for run in self._reservations.end_all():
                assert run.interrupted is not None
                self._conclude_running(run, run.interrupted, now)
            self.abandoned = True
            self._stop_at = now

    def _go_on_as_another(self, error: OwnerLost) -> None:
        """Continue under a fresh owner id, since the lease ran out and the reservations went to other workers."""
        self._generation += 1
        old = self.owner
        self.owner = f"{old.partition('+')[0]}+{self._generation}"
        self._forget_everything()
        self._board.owner(self.owner)
        events.emit(events.OwnerReplaced(old, self.owner, len(self._executor.started())))
        boundary.log(logger, logging.DEBUG, "%s", error)
        self._backend.close()
        try:
            began = time.monotonic()
            self._backend.open(self.owner)
            self._renewed(began)
            self._tell_the_rest()
        except BackendError as unavailable:
            self._goes_without(unavailable)

    def _forget_everything(self) -> None:
        self._reservations.forget()
        self._settlements.clear()
        self._reserve_request = None
        self._may_have_work = True

    # -- sleep -----------------------------------------------------------------------------------

    def _sleep(self) -> None:
        """Sleep in the backend until there is work; during an outage, sleep here."""
        now = time.monotonic()
        until = min(self._next_beat, self._reservations.deadlines.next(), self._reservations.looks_at(now))
        timeout = min(LONGEST_SLEEP, until - now)
        if self._keeps_house:
            timeout = min(timeout, self._next_housekeep - now)
        if self._asks_for_cancels:
            timeout = min(timeout, self._next_call() - now)
        if self._told_to_end:
            timeout = min(timeout, self._told_to_end[0][0] - now)
        if self._run_queue.pending:
            timeout = min(timeout, AHEAD)
        if self._may_have_work and self._run_queue.pending:
            timeout = min(timeout, self._reservations.half_through())
        if self._stopping:
            timeout = min(timeout, self._stop_at - now, 0.0 if not self._reservations else LONGEST_SLEEP)
        if self._reservations and now < self._run_queue.looks_at:
            timeout = min(timeout, self._run_queue.looks_at - now)
        else:
            self._run_queue.wake_me()
        busy = self._run_queue.finished or self._settlements or self._wants_jobs(now)
        pause = self._outage.left(now)
        if pause > 0:
            time.sleep(min(pause, 0.05))  # no backend to sleep in; stops and finished jobs are checked in between
        elif not busy:
            # Wait even if no time is left to sleep. Where a round trip takes longer than the pause between heartbeats,
            # there never is any, and only this wait reports new jobs.
            self._ask(self._wait, max(timeout, 0.0))

    def _wait(self, timeout: float) -> None:
        """Sleep for `timeout` seconds, or until jobs have been reserved."""
        now = time.monotonic()
        if self._may_have_work or not self._can_take(now) or self._soon_free(now):
            self._backend.wait((), timeout)
        elif self._drain and not self._reservations:
            self._end_if_drained()
            if not self._stopping:
                self._reserve_next(min(timeout, 0.5))
                self._may_have_work = True  # or there are none left, which the next reserve will show
        elif self._reserve_next(timeout) and self._soon_free(time.monotonic()) and not self._settlements:
            # Let the executor begin at once; other work can wait until it has.
            self._backend.wait((), SETTLE_INTERVAL)

    def _soon_free(self, now: float) -> bool:
        """Return whether every slot has just got a job: most are short, and one that comes meanwhile suits another worker."""
        return now < self._run_queue.looks_at and self._reservations.full
