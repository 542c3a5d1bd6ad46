"""The settlements on their way to the backend: a batch is sent again unchanged until it is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from .. import events
from ..backends.base import Answer, Backend, Outcome, Outgoing, Settlement
from ..errors import BackendError
from ..failpoints import failpoint
from ..ids import new_token
from ..payloads.discarding import Discarder
from ..runs.notebook import Notebook
from ..runs.run import Ending, Run
from ..scoreboard.writer import NOWHERE, Scoreboard

NOTEBOOK = Notebook(lambda: None)
"""The notebook of settlements whose runs tell nothing."""


class Settlements:
    """The settlements that the courier has to send, in the order in which they came. Only the courier uses it."""

    def __init__(
        self,
        backend: Backend,
        board: Scoreboard = NOWHERE,
        discarder: Discarder | None = None,
        notebook: Notebook = NOTEBOOK,
    ) -> None:
        self.unsent: list[Ending] = []  # not sent yet, or sent and not answered
        self.acknowledged: list[Run] = []  # early, as the backend has confirmed: only this worker can run them
        self.late: list[Outgoing] = []  # follow-ups of jobs that were acknowledged before they ran
        self._backend = backend
        self._discarder = discarder
        self._notebook = notebook
        self._board = board
        self._sent: tuple[str, int] | None = None  # unanswered request, and the number of its settlements
        self._pushed: tuple[str, int] | None = None  # the same for late follow-ups
        self._unanswered: set[str] = set()  # ids of jobs whose early acknowledgement is not answered

    def acknowledge(self, runs: Iterable[Run]) -> None:
        """Acknowledge jobs before they run. `send` moves those that the backend confirms to `acknowledged`."""
        for run in runs:
            self._unanswered.add(run.delivery.id)
            self.unsent.append((Settlement(run.delivery.id, run.delivery.token, Outcome.DONE), run))

    @property
    def waiting(self) -> bool:
        """Return whether there is something to send."""
        return bool(self.unsent or self.late)

    @property
    def acknowledging(self) -> int:
        """Return how many jobs are acknowledged and not yet started."""
        return len(self._unanswered) + len(self.acknowledged)

    def send(self) -> None:
        """Send all settlements; a batch whose reply was lost goes first, unchanged. Raises the errors of the backend."""
        while self.late:
            self._push_late()
        while self.unsent:
            if self._sent is None:
                if self._notebook.runs:
                    self.unsent = self._notebook.with_notes(self.unsent)
                self._sent = new_token(), len(self.unsent)
            request, count = self._sent
            batch = self.unsent[:count]
            settlements = [settlement for settlement, _ in batch]
            failpoint("settle.before")
            push_followups(self._backend, settlements, request)
            began = time.monotonic()
            answers = self._backend.settle(settlements, request)
            self._board.note_call("settle", time.monotonic() - began)
            failpoint("settle.after")
            del self.unsent[:count]
            self._sent = None
            self._board.settled(batch)
            if self._discarder is not None:
                self.discard_blobs(
                    [
                        (settlement, run)
                        for (settlement, run), answer in zip(batch, answers, strict=True)
                        if answer is not Answer.STALE and run is not None and run.policy.acks == "late"
                    ]
                )
            if events.tells_all():
                _log_answers(batch, answers)
            if self._unanswered:
                self._note_acknowledged(answers, batch)
            if Answer.STALE in answers:
                for answer, (_, run) in zip(answers, batch, strict=True):
                    if answer is Answer.STALE and run is not None:
                        log_stale(run)

    @property
    def begun(self) -> bool:
        """Return whether a batch was sent and is not answered."""
        return self._sent is not None

    def begin(self) -> bool:
        """Send all settlements without waiting for the answer, for which `end` waits; return False if that is impossible.

        Raises nothing: after an error, `end` sends the batch again.
        """
        if self._sent or self.late or self._unanswered:
            return False
        if self._notebook.runs:
            self.unsent = self._notebook.with_notes(self.unsent)
        self._sent = new_token(), len(self.unsent)
        failpoint("settle.before")
        try:
            return self._backend.begin_settle([settlement for settlement, _ in self.unsent], self._sent[0])
        except BackendError:
            return True

    def end(self) -> None:
        """Take the answer to the batch that was sent, or send it again, but none after it. Raises the errors of the backend."""
        count = self._sent[1] if self._sent else 0
        later = self.unsent[count:]
        del self.unsent[count:]
        try:
            self.send()
        finally:
            self.unsent += later

    def discard_blobs(self, ended: Sequence[Ending]) -> None:
        """Have the arguments of finished jobs deleted from the payload store; dead letters keep theirs."""
        if self._discarder is not None:
            over = (Outcome.DONE, Outcome.CANCELLED)
            names = [run.blob for settlement, run in ended if run is not None and run.blob and settlement.outcome in over]
            if names:
                try:
                    self._backend.confirm()
                except BackendError:  # another worker may run these jobs again; it then deletes the blobs
                    return
                self._discarder.discard(names)

    def _note_acknowledged(self, answers: Sequence[Answer], batch: Sequence[Ending]) -> None:
        """Note which early acknowledgements were accepted; the others are stale, and another worker runs their jobs."""
        for answer, (settlement, run) in zip(answers, batch, strict=True):
            if settlement.id in self._unanswered and run is not None and settlement.outcome is Outcome.DONE:
                self._unanswered.discard(settlement.id)
                if answer is not Answer.STALE:
                    self.acknowledged.append(run)

    def _push_late(self) -> None:
        if self._pushed is None:
            self._pushed = new_token(), len(self.late)
        request, count = self._pushed
        began = time.monotonic()
        self._backend.push(self.late[:count], request)
        self._board.note_call("push", time.monotonic() - began)
        del self.late[:count]
        self._pushed = None

    def clear(self) -> None:
        """Forget everything: the owner is lost, and its reservations belong to other workers now."""
        self._board.settled(self.unsent)
        self.unsent.clear()
        self._sent = None
        self._unanswered.clear()


def push_followups(backend: Backend, settlements: Sequence[Settlement], request: str) -> None:
    """Push follow-ups before the acknowledgement, if the backend cannot commit both together."""
    if "atomic_followups" in backend.features:
        return
    followups = [message for settlement in settlements for message in settlement.followups]
    if followups:
        backend.push(followups, request)


def _log_answers(batch: Sequence[Ending], answers: Sequence[Answer]) -> None:
    """Log the backend's answer to each settlement, at level debug."""
    for (settlement, run), answer in zip(batch, answers, strict=True):
        events.emit(events.JobSettled(settlement.id, run.job.name if run else "", settlement.outcome.value, answer.value))


def log_stale(run: Run) -> None:
    """Log the end of a run whose reservation was lost."""
    events.emit(events.SettledStale(*run.about))
