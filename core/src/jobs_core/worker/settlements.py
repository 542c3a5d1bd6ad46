"""The settlements on their way to the backend: a batch is sent again unchanged until it is answered."""

from __future__ import annotations

from collections.abc import Sequence

from .. import events
from ..backends.base import Answer, Backend, Outcome, Settlement
from ..failpoints import failpoint
from ..ids import new_token
from ..scoreboard.writer import NOWHERE, Scoreboard
from .report import tell_settled
from .run import Run


class Settlements:
    """The settlements that the courier has to send, in the order in which they came. Only the courier uses it."""

    def __init__(self, backend: Backend, board: Scoreboard = NOWHERE) -> None:
        self._backend = backend
        self._board = board
        self._waiting: list[tuple[Settlement, Run | None]] = []
        self._sending: tuple[str, list[tuple[Settlement, Run | None]]] | None = None
        self._unstarted: set[str] = set()  # acknowledged before they run, and not yet answered
        self.acknowledged: list[Run] = []  # answered: only this worker will start them

    def __bool__(self) -> bool:
        """Return whether there is something to send."""
        return bool(self._waiting or self._sending)

    def add(self, ending: Settlement, run: Run | None = None) -> None:
        """Add a settlement to the next batch; if its run is given, a lost reservation is reported."""
        self._waiting.append((ending, run))

    def acknowledge(self, run: Run) -> None:
        """Acknowledge a job before it runs. If the backend answers that it was still reserved, it moves to `acknowledged`."""
        self._unstarted.add(run.delivery.id)
        self.add(Settlement(run.delivery.id, run.delivery.token, Outcome.DONE), run)

    @property
    def acknowledging(self) -> int:
        """Return how many jobs are acknowledged and not yet started."""
        return len(self._unstarted) + len(self.acknowledged)

    def give_back(self, run: Run, *, after: float = 0.0) -> None:
        """Return a job that has not started to its topic: at once, or after `after` seconds."""
        outcome = Outcome.DEFER if after else Outcome.RELEASE
        self.add(Settlement(run.delivery.id, run.delivery.token, outcome, after=after), run)

    def send(self) -> None:
        """Send all settlements; first, unchanged, a batch whose reply was lost. Raises the errors of the backend."""
        while self:
            if self._sending is None:
                self._sending = new_token(), self._waiting
                self._waiting = []
            request, batch = self._sending
            failpoint("settle.before")
            self._push_followups([ending for ending, _ in batch], request)
            answers = self._backend.settle([ending for ending, _ in batch], request)
            failpoint("settle.after")
            self._sending = None
            self._board.settled(batch)
            if events.tells_all():
                tell_settled(batch, answers)
            if self._unstarted:
                self._sort_out(answers, batch)
            if Answer.STALE in answers:
                for answer, (_, run) in zip(answers, batch, strict=True):
                    if answer is Answer.STALE and run is not None:
                        tell_stale(run)

    def _sort_out(self, answers: Sequence[Answer], batch: Sequence[tuple[Settlement, Run | None]]) -> None:
        """Find the jobs that were acknowledged early; another worker runs those that it has reserved meanwhile."""
        for answer, (ending, run) in zip(answers, batch, strict=True):
            if ending.id in self._unstarted and run is not None and ending.outcome is Outcome.DONE:
                self._unstarted.discard(ending.id)
                if answer is not Answer.STALE:
                    self.acknowledged.append(run)

    def _push_followups(self, endings: Sequence[Settlement], request: str) -> None:
        """Push follow-ups before the acknowledgement, where the backend cannot commit both together."""
        if "atomic_followups" in self._backend.features:
            return
        followups = [message for ending in endings for message in ending.followups]
        if followups:
            self._backend.push(followups, request)

    def clear(self) -> None:
        """Forget everything: the owner is lost, and its reservations belong to other workers now."""
        self._board.settled(self._waiting)
        if self._sending:
            self._board.settled(self._sending[1])
        self._waiting.clear()
        self._sending = None
        self._unstarted.clear()


def tell_stale(run: Run) -> None:
    """Report that a run has ended whose reservation was lost."""
    events.emit(events.SettledStale(run.delivery.id, run.job.name, run.delivery.topic, run.delivery.attempt + 1))
