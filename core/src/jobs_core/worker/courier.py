"""The courier: the one thread of a worker that talks to the backend.

It reserves jobs for the executor, settles what the executor finished, renews the lease, interrupts what runs
too long, gives back what waits too long, and sleeps in the backend's `wait` the rest of the time. An outage
stops none of this: what was asked of the backend is asked again under the same request id.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from .. import events
from ..backends.base import Answer, Backend, Delivery, Outcome, Settlement
from ..errors import BackendError, BackendUnavailable, JobCancelled, OwnerLost
from ..failpoints import failpoint
from ..ids import new_token
from ..scoreboard.layout import Phase
from ..scoreboard.writer import NOWHERE, Scoreboard
from .deadlines import Deadlines
from .executors.base import Executor, overdue
from .handover import SETTLE_INTERVAL, Handover
from .intake import Intake
from .outage import Outage
from .prefetch import AHEAD, LARGEST_BATCH, Prefetch
from .quarantine import HOLD_AFTER, Quarantine
from .report import report
from .retry import settlement
from .run import Run

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

DUE_SHARE = 0.9
"""Share of `max_jobs` after which a successor is asked for, so that it serves before the last job has run."""

_NEVER = float("inf")


class Courier:
    """See the module. All methods belong to its own thread but `start`, `wake`, `stop`, `join`, `quiet`, `serve`."""

    def __init__(
        self,
        backend: Backend,
        owner: str,
        topics: list[str],
        executor: Executor,
        intake: Intake,
        *,
        lease: float,
        stop_timeout: float,
        keeps_house: bool,
        drain: bool = False,
        max_jobs: int = 0,
        quiet: bool = False,
        board: Scoreboard = NOWHERE,
        on_open: Callable[[], None] = lambda: None,
        on_due: Callable[[], None] = lambda: None,
        on_abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self.owner = owner
        self.done = self.failed = 0
        self.failure: BaseException | None = None
        self.replace = False  # the worker is to be replaced: a job cannot be interrupted
        self.abandoned = False  # jobs still run that were given back: the process has to end at once
        self._backend = backend
        self._topics = topics
        self._executor = executor
        self._handover: Handover = executor.handover
        self._intake = intake
        self._lease = lease
        self._stop_timeout = stop_timeout
        self._keeps_house = keeps_house
        self._drain = drain
        self._left = max_jobs or sys.maxsize  # jobs that may still be taken
        self._due_at = max_jobs - max(1, int(max_jobs * DUE_SHARE)) if max_jobs else -1  # asks for a successor at so few left
        self._board = board
        self._on_open = on_open
        self._on_due = on_due
        self._on_abandon = on_abandon
        self._in_hand: dict[str, Run] = {}
        self._quarantine = Quarantine(executor.concurrency)
        self._suspects_run = False  # only suspects run: nothing else is reserved beside them
        self._one_by_one = False  # the last reserve found a suspect that was run alone: the next asks for no more than one
        self._early: deque[Run] = deque()  # acknowledged before they run: wait here for a free slot
        self._unsettled: list[tuple[Settlement, Run | None]] = []
        self._sending: tuple[str, list[tuple[Settlement, Run | None]]] | None = None
        self._reserve_request: tuple[str, int] | None = None
        self._prefetch = Prefetch(executor.concurrency)
        self._deadlines = Deadlines()
        self._outage = Outage(lease)
        self._may_have_work = True
        self._quiet = quiet  # takes nothing new
        self._quiet_until = 0.0
        self._next_beat = self._next_housekeep = 0.0
        self._stopping = self._told_stopping = False
        self._stop_at = _NEVER
        self._generation = 0
        self._thread = threading.Thread(target=self._main, name="jobs-courier")

    # -- from other threads and signal handlers --------------------------------------------------

    def start(self) -> None:
        """Open the backend and begin, on a thread of its own; when it ends, the executor is stopped."""
        self._thread.start()

    def wake(self) -> None:
        """Have it look at what is new."""
        self._backend.interrupt()

    def stop(self, timeout: float | None = None) -> None:
        """Take no more jobs, finish those that run, give back those running still after `timeout` seconds."""
        self._stop_at = time.monotonic() + (self._stop_timeout if timeout is None else timeout)
        self._stopping = True
        self.wake()

    def quiet(self) -> None:
        """Take no more jobs, but go on with those in hand, until `serve` or `stop`."""
        self._quiet = True
        self.wake()

    def serve(self) -> None:
        """Take jobs again, or begin to."""
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
        except BackendError as error:  # on opening: nothing that trying again would mend
            self.failure = error
        except BaseException as error:
            logger.exception("the courier failed; the worker ends")
            self.failure = error
        finally:
            self._executor.stop()
            self._backend.close()
            if self.abandoned:
                self._on_abandon()

    def _open(self) -> None:
        """Connect, for as long as it takes; what is not an outage is raised."""
        while not self._stopping:
            try:
                self._backend.open(self.owner)
                self._outage.over()
                return
            except BackendUnavailable as error:
                self._outage.began(error)
                time.sleep(self._outage.pause())

    def _finished(self) -> bool:
        if self._unsettled or self._sending:
            return self.abandoned and time.monotonic() > self._stop_at + 1.0
        return self._stopping and not self._in_hand

    def _turn(self) -> None:
        now = time.monotonic()
        self._collect()
        self._board.beat(self.done, self.failed, len(self._in_hand))
        if self._stopping:
            if not self._told_stopping:
                self._told_stopping = True
                self._board.phase(Phase.STOPPING)
                events.emit(events.WorkerStopping(self.owner, len(self._executor.started())))
            self._wind_up(now)
        self._interrupt_overdue(now)
        self._give_back(now)
        if self._outage.may_try(now) and self._ask(self._talk, now):
            self._outage.over()
        self._sleep()

    def _ask(self, what: Callable[[float], None], value: float) -> bool:
        """Do something with the backend; False if it failed, and what follows is seen to."""
        try:
            what(value)
            return True
        except OwnerLost as error:
            self._go_on_as_another(error)
        except BackendError as error:
            self._outage.began(error)
        return False

    def _talk(self, now: float) -> None:
        """Everything this turn has to say to the backend."""
        if self._unsettled or self._sending:
            self._settle()
        keep_house = self._keeps_house and now >= self._next_housekeep
        # Not woken twice for what can be done at once; and an outage is over when something was answered, not before.
        if self._outage.lasts or now >= self._next_beat - (self._lease / 12 if keep_house else 0.0):
            self._beat(now)
        if keep_house:
            kept = self._backend.housekeep(HOUSEKEEP_LIMIT)
            # From its end: where a round trip is slow, there has to be time left to wait for work.
            self._next_housekeep = now if kept.more else time.monotonic() + min(3.0, self._lease / 10)
        self._start_waiting()
        if self._wants_jobs(now):
            self._reserve(now)

    # -- finished runs ---------------------------------------------------------------------------

    def _collect(self) -> None:
        """Turn finished runs into settlements."""
        finished = self._handover.collect()
        if not finished:
            return
        for run in finished:
            if self._in_hand.get(run.delivery.id) is not run:
                self._board.note(run, "stale")
                self._tell_stale(run)
                continue
            del self._in_hand[run.delivery.id]
            self._conclude(run)
        self._board.publish()
        self._suspects_run = self._suspects_run and bool(self._in_hand)
        self._prefetch.learn(finished)

    def _conclude(self, run: Run) -> None:
        ending = settlement(run)
        self._board.note(run, OUTCOME_NAMES[ending.outcome])
        if run.error is None:
            self.done += 1
        else:
            self.failed += 1
            report(run, ending)
        if run.policy.acks == "late":
            self._unsettled.append((ending, run))

    def _settle(self) -> None:
        """Send settlements; a batch whose reply was lost is sent again as it was, before any other."""
        while self._sending or self._unsettled:
            if self._sending is None:
                self._sending = new_token(), self._unsettled
                self._unsettled = []
            request, batch = self._sending
            failpoint("settle.before")
            self._push_followups(batch)
            answers = self._backend.settle([ending for ending, _ in batch], request)
            failpoint("settle.after")
            self._sending = None
            for answer, (_, run) in zip(answers, batch, strict=True):
                if answer is Answer.STALE and run is not None:
                    self._tell_stale(run)
        self._quiet_until = time.monotonic() + SETTLE_INTERVAL
        self._handover.be_quiet(self._quiet_until)

    def _push_followups(self, batch: list[tuple[Settlement, Run | None]]) -> None:
        """Where the backend cannot commit follow-ups with the acknowledgement, push them before it."""
        if "atomic_followups" in self._backend.features:
            return
        followups = [message for ending, _ in batch for message in ending.followups]
        if followups:
            assert self._sending is not None
            self._backend.push(followups, self._sending[0])

    def _tell_stale(self, run: Run) -> None:
        events.emit(events.SettledStale(run.delivery.id, run.job.name, run.delivery.topic, run.delivery.attempt + 1))

    # -- reserving -------------------------------------------------------------------------------

    def _room(self) -> int:
        """How many more jobs may be reserved."""
        most = 1 if self._one_by_one else LARGEST_BATCH  # or hundreds would be reserved to be given back, for each of hundreds
        return min(self._prefetch.target() - len(self._in_hand), most, self._left)

    def _wants_jobs(self, now: float) -> bool:
        if self._reserve_request:
            return True
        if not self._may_have_work or not self._can_take(now):
            return False
        return not self._handover.pending or self._room() >= min(self._prefetch.target(), LARGEST_BATCH, self._left) // 2

    def _can_take(self, now: float) -> bool:
        """Whether one more job could be taken."""
        if self._stopping or self._quiet or self._quarantine or self._early or self._suspects_run:
            return False
        return self._room() > 0 and not self._stuck(now)

    def _stuck(self, now: float) -> bool:
        """Whether every slot has been busy with the same job for longer than we hold jobs for."""
        running = self._executor.started()
        return len(running) >= self._executor.concurrency and all(now - run.started > AHEAD for run in running)

    def _reserve(self, now: float) -> None:
        if self._reserve_request is None:
            self._reserve_request = new_token(), self._room()
        request, limit = self._reserve_request
        failpoint("reserve.before")
        deliveries = self._backend.reserve(self._topics, limit, request)
        failpoint("reserve.after")
        self._take_in(deliveries, limit, now)
        if not deliveries and self._drain and not self._in_hand:
            self._end_if_drained()

    def _reserve_next(self, timeout: float) -> bool:
        """Sleep until something could be reserved; whether it was. What it took in an outage is asked for again afterwards."""
        request, limit = self._reserve_request = new_token(), self._room()
        failpoint("reserve.before")
        deliveries = self._backend.reserve_next(self._topics, limit, request, timeout)
        failpoint("reserve.after")
        if deliveries:
            self._take_in(deliveries, limit, time.monotonic())
        self._reserve_request = None
        return bool(deliveries)

    def _take_in(self, deliveries: list[Delivery], limit: int, now: float) -> None:
        """Start what a reserve has taken, or settle what cannot run."""
        self._reserve_request = None
        self._one_by_one = False
        self._may_have_work = len(deliveries) >= limit or (self._drain and bool(deliveries))
        self._next_beat = now + self._lease / 6
        ready: list[Run] = []
        for delivery in deliveries:
            run = self._intake.accept(delivery)
            if isinstance(run, Settlement):
                self._unsettled.append((run, None))
                if run.outcome is not Outcome.DEFER:
                    self._board.note_unrun(delivery.topic, OUTCOME_NAMES[run.outcome])
                continue
            if self._quarantine.concerns(run):
                self._quarantine.add(run)
            elif run.policy.acks == "early":
                self._early.append(run)
            else:
                ready.append(run)
        self._hand_over(ready, now)
        self._start_waiting()
        self._use_up(len(deliveries))
        self._board.publish()

    def _use_up(self, jobs: int) -> None:
        """Count what was taken against `max_jobs`, and ask for a successor in time."""
        self._left -= jobs
        if self._left <= self._due_at:
            self._due_at = -1
            self._on_due()

    def _hand_over(self, runs: list[Run], now: float) -> None:
        if not runs:
            return
        for run in runs:
            self._in_hand[run.delivery.id] = run
            if run.timeout:
                self._deadlines.add(run, now)
        self._quiet_until = now + SETTLE_INTERVAL
        self._handover.be_quiet(self._quiet_until)
        self._executor.submit(runs)

    def _start_waiting(self) -> None:
        """Start suspects and early acknowledged jobs whose turn has come."""
        now = time.monotonic()
        if self._quarantine and not self._stopping:
            group = self._quarantine.admit(len(self._in_hand))
            if len(group) == 1:
                self._one_by_one = True
                self._release(self._quarantine.take_back())
                self._settle()
            self._suspects_run = bool(group) or self._suspects_run
            self._hand_over(group, now)
        free = self._executor.concurrency - len(self._in_hand)
        if self._early and free > 0 and not self._stopping:
            batch = [self._early.popleft() for _ in range(min(free, len(self._early)))]
            self._unsettled += [(Settlement(run.delivery.id, run.delivery.token, Outcome.DONE), None) for run in batch]
            self._settle()
            self._hand_over(batch, now)

    def _end_if_drained(self) -> None:
        counts = self._backend.counts(self._topics).values()
        if not any(count.ready or count.scheduled or count.reserved for count in counts):
            self._stopping = True
            self._stop_at = time.monotonic() + self._stop_timeout

    # -- giving back -----------------------------------------------------------------------------

    def _give_back(self, now: float) -> None:
        """Return what waits behind jobs that turned out long: an idle worker may run it (promise 6)."""
        if self._handover.pending and self._stuck(now):
            self._release(self._handover.take_back())
        if (self._quarantine or self._early) and self._in_hand and self._stuck(now):
            self._release(self._early)
            self._early.clear()
        if self._quarantine and self._in_hand:
            self._put_off_suspects()

    def _release(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._left += 1
            self._in_hand.pop(run.delivery.id, None)
            self._unsettled.append((Settlement(run.delivery.id, run.delivery.token, Outcome.RELEASE), run))

    def _put_off_suspects(self) -> None:
        """Leave suspects to a worker that is idle; one that nobody took for a while gets this one to run dry."""
        if self._suspects_run:
            return
        for run in self._quarantine.take_back():
            if run.delivery.deferrals >= HOLD_AFTER:
                self._quarantine.add(run)
            else:
                self._unsettled.append((Settlement(run.delivery.id, run.delivery.token, Outcome.DEFER, after=0.5), run))

    # -- lease, deadlines, cancels ---------------------------------------------------------------

    def _beat(self, now: float) -> None:
        failpoint("heartbeat.before")
        heartbeat = self._backend.heartbeat()
        failpoint("heartbeat.after")
        self._next_beat = now + self._lease / 6
        for job_id in heartbeat.lost:
            run = self._in_hand.pop(job_id, None)
            if run is not None and not run.started:
                self._forget(run)
        for job_id in heartbeat.cancelled:
            self._cancel(job_id)

    def _cancel(self, job_id: str) -> None:
        run = self._in_hand.get(job_id)
        if run is None or run.interrupted is not None:
            return
        if self._forget(run):
            run.error = JobCancelled("cancelled before it started")
            del self._in_hand[job_id]
            self._conclude(run)
        else:
            self._executor.interrupt(run, JobCancelled("cancelled while it ran"))

    def _forget(self, run: Run) -> bool:
        """Take a run out of the pending ones; False if an executor has it."""
        try:
            self._handover.pending.remove(run)
        except ValueError:
            return False
        return True

    def _interrupt_overdue(self, now: float) -> None:
        for run in self._deadlines.due(now):
            if self._in_hand.get(run.delivery.id) is not run:
                continue
            delivery, attempt = run.delivery, run.delivery.attempt + 1
            events.emit(events.JobOverdue(delivery.id, run.job.name, delivery.topic, attempt, run.timeout or 0.0))
            if not self._executor.can_interrupt(run):
                self.replace = self._stopping = True
                self._stop_at = min(self._stop_at, now + 86400.0 * 365)
            self._executor.interrupt(run, overdue(run))

    # -- the end, and a new beginning ------------------------------------------------------------

    def _wind_up(self, now: float) -> None:
        """Stopping: give back what has not started; at the end of patience, or behind a job that cannot be
        interrupted, give up what still runs."""
        self._release(self._handover.take_back())
        self._release(self._early)
        self._release(self._quarantine.take_back())
        self._early.clear()
        left = list(self._in_hand.values())
        if left and now >= self._stop_at:
            self._release(left)
            self.abandoned = True
        elif left and self.replace and all(run.interrupted is not None for run in left):
            for run in left:
                run.error, run.ended = run.interrupted, now
                del self._in_hand[run.delivery.id]
                self._conclude(run)
            self.abandoned = True
            self._stop_at = now

    def _go_on_as_another(self, error: OwnerLost) -> None:
        """Our lease ran out: what we held went to others. Go on under a fresh owner id."""
        self._generation += 1
        old = self.owner
        self.owner = f"{old.partition('+')[0]}+{self._generation}"
        self._forget_everything()
        self._board.owner(self.owner)
        events.emit(events.OwnerReplaced(old, self.owner, len(self._executor.started())))
        logger.debug("%s", error)
        self._backend.close()
        try:
            self._backend.open(self.owner)
        except BackendError as unavailable:
            self._outage.began(unavailable)

    def _forget_everything(self) -> None:
        self._handover.take_back()
        self._quarantine.take_back()
        self._early.clear()
        self._suspects_run = False
        self._unsettled.clear()
        self._sending = self._reserve_request = None
        self._in_hand.clear()
        self._may_have_work = True

    # -- sleep -----------------------------------------------------------------------------------

    def _sleep(self) -> None:
        """Sleep in the backend until something is to do; without one, doze."""
        now = time.monotonic()
        timeout = min(LONGEST_SLEEP, self._next_beat - now, self._deadlines.next() - now)
        if self._keeps_house:
            timeout = min(timeout, self._next_housekeep - now)
        if self._handover.pending or self._quarantine or self._early:
            timeout = min(timeout, AHEAD)
        if self._may_have_work and self._handover.pending:
            timeout = min(timeout, max(0.001, self._prefetch.lasts(len(self._handover.pending)) / 2))
        if self._stopping:
            timeout = min(timeout, self._stop_at - now, 0.0 if not self._in_hand else LONGEST_SLEEP)
        if self._in_hand and now < self._quiet_until:
            timeout = min(timeout, self._quiet_until - now)
        else:
            self._handover.wake_me()
        busy = self._handover.finished or self._unsettled or self._wants_jobs(now)
        pause = self._outage.left(now)
        if pause > 0:
            time.sleep(min(pause, 0.05))  # nothing to sleep in; stops and finished jobs are looked at between
        elif not busy:
            # Also without time to sleep: where a round trip outlasts the pause between beats, there never is any, and
            # it is a wait that tells of new jobs.
            self._ask(self._wait, max(timeout, 0.0))

    def _wait(self, timeout: float) -> None:
        """Sleep for so long, or until new jobs have been reserved."""
        now = time.monotonic()
        if self._may_have_work or not self._can_take(now) or self._soon_free(now):
            self._backend.wait((), timeout)
        elif self._drain and not self._in_hand:
            self._reserve_next(min(timeout, 0.5))
            self._may_have_work = True  # or there is nothing left, which a reserve will tell
        elif self._reserve_next(timeout) and self._soon_free(time.monotonic()) and not self._unsettled:
            # Out of the executor's way at once: what else there is to do can wait until it has begun.
            self._backend.wait((), SETTLE_INTERVAL)

    def _soon_free(self, now: float) -> bool:
        """Whether every slot has just been given a job: most are short, and one that comes meanwhile is another worker's."""
        return now < self._quiet_until and len(self._in_hand) >= self._executor.concurrency
