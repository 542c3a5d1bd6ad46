"""Carry jobs from the outbox in a database of the application to the backend. One carrier works at a time, on any machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from msgspec.structs import replace

from ... import events
from ...app import App
from ...backends.base import Backend, Outgoing
from ...backends.flows import Part
from ...backends.outbox import MOST_LOADED, FlowPart, Load, Outbox, OutboxState
from ...boundary import text_of
from ...errors import BackendError, BackendUnavailable, FlowLost
from ...failpoints import failpoint
from ...worker.outage import Outage

logger = logging.getLogger("jobs.outbox")

LOOK = 1.0
"""Longest sleep, in seconds: a commit that has just missed the carrier's falling asleep is noticed then."""

TAKE_OVER = 2.0
"""Seconds after which a carrier that another one keeps from working tries again."""

OPEN_FOR = 7 * 86400.0
"""Seconds for which the backend keeps the parts of a flow without the next one, at least: carrying may be cut off in between,
and what the backend drops then can never be carried."""

LINED_AT_ONCE = 250
"""Most jobs with limits or keys in one push. A backend that splits a larger one may refuse a later part of it: then the jobs
before that part would be pushed again, one by one."""

POINTS = (
    "carry.taken",  # a load is marked as taken
    "carry.part",  # the backend has a part of a flow
    "carry.advanced",  # and the outbox has it no more
    "carry.one",  # the backend has one job, or refuses it, of a load that it has refused as a whole
    "carry.pushed",  # the backend has the whole load
    "carry.finished",  # and the outbox has it no more
)
"""The fail points between two steps, at each of which a carrier may die without loss or repetition."""

STATE_INTERVAL = 5.0
"""Seconds between two counts of the jobs in the outbox."""


class Carrier:
    """Carries until `stop`. `run` belongs to one thread, `stop` may be called by any."""

    def __init__(self, app: App, told: Callable[[OutboxState], None]) -> None:
        self._app = app
        self._outbox = app.new_outbox()
        self._queue: Backend = app.new_backend()
        self._told = told
        self._outage = Outage(of_outbox=True)
        self._stopping = self._open = False
        self._next_state = 0.0

    def stop(self) -> None:
        self._stopping = True
        self._outbox.interrupt()

    def run(self) -> None:
        """Carry until `stop`; log outages of the database and of the queue, and continue after them."""
        while not self._stopping:
            try:
                pause = self.turn()
                self._outage.over()
            except BackendError as error:
                self._outage.began(error)
                pause = self._outage.pause()
            except Exception:  # a bug, ours or a plugin's: the jobs behind it must not wait for ever
                logger.exception("the carrier of the outbox failed, and goes on with new connections in %g s", TAKE_OVER)
                self._close()
                self._outbox, self._queue = self._app.new_outbox(), self._app.new_backend()
                pause = TAKE_OVER
            if pause > 0 and not self._stopping:
                time.sleep(min(pause, TAKE_OVER))
        self._close()

    def turn(self) -> float:
        """Carry one load, or sleep until there is one; return the seconds until the next turn."""
        self._connect()
        if time.monotonic() >= self._next_state:
            self._told(self._outbox.state())
            self._next_state = time.monotonic() + STATE_INTERVAL
        if not self._outbox.lead():
            return TAKE_OVER
        if self._carry() is None:
            self._outbox.wait(LOOK)
        return 0.0

    def carry_all(self) -> int | None:
        """Carry until nothing is due; return how many jobs that were, or None if another carrier works. Raises BackendError."""
        try:
            self._connect()
            if not self._outbox.lead():
                return None
            carried = 0
            while (some := self._carry()) is not None:
                carried += some
            return carried
        finally:
            self._close()

    def _connect(self) -> None:
        if not self._open:
            self._outbox.open()
            self._queue.open(None)
            self._open = True

    def _close(self) -> None:
        self._outbox.close()
        self._queue.close()
        self._open = False

    def _carry(self) -> int | None:
        """Carry one load; return how many jobs it had, and None if there was none."""
        load = self._outbox.take(MOST_LOADED)
        if load is None:
            return None
        failpoint("carry.taken")
        pushing = _Pushing(self._queue, self._outbox, load)
        pushing.push()
        failpoint("carry.pushed")
        self._outbox.finish(load, pushing.refused)
        failpoint("carry.finished")
        return pushing.jobs


class _Pushing:
    """Pushes one load: runs of jobs together, and flows part by part. Raises BackendUnavailable."""

    def __init__(self, queue: Backend, outbox: Outbox, load: Load) -> None:
        self._queue = queue
        self._outbox = outbox
        self._load = load
        self.jobs = 0
        self.refused: dict[str, str] = {}  # by id, with the reason

    def push(self) -> None:
        for item_id, why in self._load.unreadable.items():
            self._refuse(item_id, why)
        place = 0
        for is_flow, group in groupby(self._load.items, lambda item: isinstance(item, FlowPart)):
            items = list(group)
            if is_flow:
                for n, item in enumerate(items, place):
                    self._push_flow(item, f"{self._load.request}/{n}")  # type: ignore[arg-type]  # groupby has told
            else:
                size = LINED_AT_ONCE if any(job.limits or job.key for job in items) else len(items)  # type: ignore[union-attr]
                for first in range(0, len(items), size):
                    self._push_jobs(items[first : first + size], place + first)  # type: ignore[arg-type]
            place += len(items)

    def _push_jobs(self, messages: Sequence[Outgoing], place: int) -> None:
        """Push jobs that follow one another in the load, the first at this place."""
        request = self._load.request
        self.jobs += len(messages)
        whole = request if len(messages) == len(self._load.items) else f"{request}/{place}-{place + len(messages)}"
        try:
            self._note(self._queue.push(messages, whole))
        except BackendUnavailable:
            raise
        except BackendError as error:
            if len(messages) == 1:
                self._refuse(messages[0].id, text_of(error))
                return
        else:
            return
        for n, message in enumerate(messages, place):  # one of them was refused, and nothing stored
            try:
                self._note(self._queue.push([message], f"{request}/{n}"))
            except BackendUnavailable:
                raise
            except BackendError as error:
                self._refuse(message.id, text_of(error))
            failpoint("carry.one")

    def _push_flow(self, flow: FlowPart, request: str) -> None:
        """Push what is left of a flow, unless the backend refuses a part of it; then the rest waits."""
        while True:
            part, messages = flow.part, flow.messages
            self.jobs += len(messages)
            try:
                refused = self._queue.push_part(
                    part if part.last else replace(part, open_for=max(part.open_for, OPEN_FOR)),
                    messages,
                    f"{request}/{part.number}",
                )
            except BackendUnavailable:
                raise
            except BackendError as error:
                if not isinstance(error, FlowLost) or not self._was_cancelled(part):
                    self._refuse(part.flow, text_of(error))
                return
            if refused:
                self._refuse(part.flow, _held(messages, refused))
                return
            failpoint("carry.part")
            if part.last:
                return
            try:
                flow = self._outbox.advance(self._load, part)
            except BackendUnavailable:
                raise
            except BackendError as error:
                self._refuse(part.flow, text_of(error))
                return
            failpoint("carry.advanced")

    def _was_cancelled(self, part: Part) -> bool:
        """Return whether a flow of which the backend has some parts was cancelled there: then the others are dropped, too."""
        found = self._queue.flow(part.flow)
        if found is None or found.state != "cancelled":
            return False
        logger.info("the rest of flow %s was dropped from the outbox, because the flow was cancelled", part.flow)
        return True

    def _refuse(self, item_id: str, reason: str) -> None:
        events.emit(events.OutboxRefused(item_id, reason))
        self.refused[item_id] = reason

    def _note(self, conflicts: Mapping[str, str] | None) -> None:
        for job_id, holder in (conflicts or {}).items():
            if job_id != holder:
                logger.info("job %s of the outbox was not added: %s holds its unique key", job_id, holder)


def _held(messages: Sequence[Outgoing], refused: Mapping[str, str]) -> str:
    """Say which member of a flow was refused, and why."""
    member = next(message for message in messages if message.id in refused)
    holder, label = refused[member.id], member.member.label if member.member is not None else ""
    if holder == member.id:
        return f"its member {label} {member.id} has the id of another job"
    key = f" {member.unique.key!r}" if member.unique is not None else ""
    return f"job {holder} holds the unique key{key} of its member {label} {member.id}"


class CarrierThread:
    """A carrier on a thread of the housekeeper, with connections of its own: neither waits for the other."""

    def __init__(self, app: App) -> None:
        self.state: OutboxState | None = None
        self._carrier = Carrier(app, self._tell)
        self._thread = threading.Thread(target=self._carrier.run, name="jobs-outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the load that is under way end; it is not lost if it does not."""
        self._carrier.stop()
        self._thread.join(5.0)

    def _tell(self, state: OutboxState) -> None:
        self.state = state
