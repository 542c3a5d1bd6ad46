"""Carry jobs from the outbox in a database of the application to the backend. One carrier works at a time, on any machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ... import events
from ...app import App
from ...backends.base import Backend
from ...backends.outbox import MOST_LOADED, Load, OutboxState
from ...boundary import text_of
from ...errors import BackendError, BackendUnavailable
from ...failpoints import failpoint
from ...worker.outage import Outage

logger = logging.getLogger("jobs.outbox")

LOOK = 1.0
"""Longest sleep, in seconds: a commit that has just missed the carrier's falling asleep is noticed then."""

TAKE_OVER = 2.0
"""Seconds after which a carrier that another one keeps from working tries again."""

STATE_INTERVAL = 5.0
"""Seconds between two counts of the jobs in the outbox."""


class Carrier:
    """Carries until `stop`. `run` belongs to one thread, `stop` may be called by any."""

    def __init__(self, app: App, told: Callable[[OutboxState], None]) -> None:
        self._outbox = app.new_outbox()
        self._queue: Backend = app.new_backend()
        self._told = told
        self._outage = Outage()
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
        if not self._carry():
            self._outbox.wait(LOOK)
        return 0.0

    def carry_all(self) -> int | None:
        """Carry until nothing is due; return how many jobs that were, or None if another carrier works. Raises BackendError."""
        try:
            self._connect()
            if not self._outbox.lead():
                return None
            carried = 0
            while some := self._carry():
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

    def _carry(self) -> int:
        """Carry one load; return how many jobs it has."""
        load = self._outbox.take(MOST_LOADED)
        if load is None:
            return 0
        failpoint("carry.taken")
        refused = self._push(load)
        failpoint("carry.pushed")
        self._outbox.finish(load.request, refused)
        failpoint("carry.finished")
        return len(load.messages)

    def _push(self, load: Load) -> dict[str, str]:
        """Push a load; return the jobs that the queue refuses, by id with the reason. Raises BackendUnavailable."""
        try:
            self._note(self._queue.push(load.messages, load.request))
        except BackendUnavailable:
            raise
        except BackendError as error:
            if len(load.messages) == 1:
                return self._refusal(load.messages[0].id, error)
        else:
            return {}
        refused: dict[str, str] = {}
        for n, message in enumerate(load.messages):  # one of them was refused, and nothing stored
            try:
                self._note(self._queue.push([message], f"{load.request}/{n}"))
            except BackendUnavailable:
                raise
            except BackendError as error:
                refused |= self._refusal(message.id, error)
        return refused

    def _refusal(self, job_id: str, error: BackendError) -> dict[str, str]:
        reason = text_of(error)
        events.emit(events.OutboxRefused(job_id, reason))
        return {job_id: reason}

    def _note(self, conflicts: object) -> None:
        for job_id, holder in dict(conflicts or {}).items():  # type: ignore[call-overload]
            if job_id != holder:
                logger.info("job %s of the outbox was not added: %s holds its unique key", job_id, holder)


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
