"""The producing side of a process: one connection, shared by all its threads.

Concurrent pushes are combined (group commit, as databases do). A thread that finds nobody sending leads: it sends at once.
Others meanwhile lay their messages down and sleep; when the leader has its answer, the first of them leads, and sends what
all of them have laid down as one push. A thread that is alone meets one lock and nothing else. A fork leaves parent and
child with a connection each.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .errors import BackendUnavailable
from .failpoints import failpoint
from .ids import new_id

if TYPE_CHECKING:
    from .backends.base import Backend, Outgoing

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
MOST_COMBINED = 1000
"""Messages of several callers that go into one push; one caller's own are never parted."""


class _Batch:
    """One caller's messages, and what became of them."""

    __slots__ = ("bell", "conflicts", "deadline", "done", "error", "leads", "messages")

    def __init__(self, messages: Sequence[Outgoing], deadline: float) -> None:
        self.messages = messages
        self.deadline = deadline
        self.done = False
        self.leads = False  # it is its caller's turn to send
        self.conflicts: Mapping[str, str] = {}
        self.error: Exception | None = None
        self.bell = threading.Lock()  # held until there is news: the cheapest way to wake one thread
        self.bell.acquire()

    def end(self, conflicts: Mapping[str, str], error: Exception | None = None) -> None:
        """Tell the caller, who sleeps unless it leads."""
        self.conflicts, self.error, self.done = conflicts, error, True
        if not self.leads:
            self.bell.release()

    def outcome(self) -> Mapping[str, str]:
        if self.error:
            raise self.error
        return self.conflicts


class Producer:
    """Pushes through one backend connection that is opened when first needed. Any thread may call `push`."""

    def __init__(self, make_backend: Callable[[], Backend]) -> None:
        self._make_backend = make_backend
        self._backend: Backend | None = None
        self._guard = threading.Lock()  # of the two below; nobody waits while holding it
        self._led = False
        self._waiting: deque[_Batch] = deque()

    def push(self, messages: Sequence[Outgoing], timeout: float) -> Mapping[str, str]:
        """Store messages durably, together with what other threads push meanwhile; return conflicts by id.

        Tries for `timeout` seconds, then raises BackendUnavailable: the messages may have arrived all the
        same, if the broker went away after it had them.
        """
        begin, leads = time.monotonic(), False
        try:
            with self._guard:
                if not self._led:
                    self._led = leads = True
                else:
                    batch = _Batch(messages, begin + timeout)
                    self._waiting.append(batch)
            if not leads:
                return self._wait(batch)
            request = new_id()
            try:
                return self._send(messages, request)
            except BackendUnavailable as error:
                batch = _Batch(messages, begin + timeout)
                batch.leads = True
                self._persist([batch], request, error)
                return batch.outcome()
        finally:
            if leads:
                self._hand_over()

    def close(self) -> None:
        """Disconnect, once nobody is sending; the next push connects again."""
        turn = _Batch((), float("inf"))
        try:
            with self._guard:
                if not self._led:
                    self._led = turn.leads = True
                else:
                    self._waiting.append(turn)
            if not turn.leads:
                turn.bell.acquire()
            backend, self._backend = self._backend, None
            if backend:
                backend.close()
        finally:
            if self._leave(turn):
                self._hand_over()

    # -- whose turn it is ------------------------------------------------------------------------

    def _wait(self, batch: _Batch) -> Mapping[str, str]:
        """Sleep until somebody has sent the batch, or it is its caller's turn to."""
        try:
            batch.bell.acquire(timeout=max(0.0, batch.deadline - time.monotonic()))
            if batch.leads:
                self._send_together(self._laid_down())
        finally:
            if self._leave(batch):
                self._hand_over()
        if not batch.done:
            raise _gave_up(BackendUnavailable("another thread's push is still waiting for the backend"))
        return batch.outcome()

    def _laid_down(self) -> list[_Batch]:
        """What is to be sent together; the first is our own. One that has nothing to send wants its own turn."""
        waiting, size = self._waiting, 0
        batches: list[_Batch] = []
        with self._guard:
            while waiting and (not batches or 0 < len(waiting[0].messages) <= MOST_COMBINED - size):
                batches.append(waiting.popleft())
                size += len(batches[-1].messages)
        return batches

    def _leave(self, batch: _Batch) -> bool:
        """Wait no longer, if nobody has taken the batch by now; whether it is our turn, to be handed over."""
        if not batch.done:
            with self._guard:
                if batch in self._waiting:
                    self._waiting.remove(batch)
        return batch.leads

    def _hand_over(self) -> None:
        """End our turn: it is that of the first who waits."""
        with self._guard:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].bell.release()
            else:
                self._led = False

    # -- sending ---------------------------------------------------------------------------------

    def _send(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        backend = self._backend or self._connected()
        failpoint("push.before")
        conflicts = backend.push(messages, request)
        failpoint("push.after")
        return conflicts

    def _connected(self) -> Backend:
        backend = self._make_backend()
        backend.open(None)
        self._backend = backend
        return backend

    def _send_together(self, batches: list[_Batch]) -> None:
        """Send the batches of several callers as one push, and tell each what became of its own."""
        request = new_id()
        try:
            conflicts = self._send(_messages(batches), request)
        except BackendUnavailable as error:
            self._persist(batches, request, error)
        except Exception as error:
            self._send_apart(batches, request, error)
        except BaseException:  # meant for our caller alone, while the others' messages are in our hands
            self._send_once_more(batches[1:], request)
            raise
        else:
            for batch in batches:
                batch.end(conflicts)

    def _persist(self, batches: list[_Batch], request: str, error: BackendUnavailable) -> None:
        """Send again, under the same request id, until it is answered or everybody's time is over."""
        pauses = 0
        while True:
            now = time.monotonic()
            for batch in batches:
                if batch.deadline <= now:
                    batch.end({}, _gave_up(error))
            batches = [batch for batch in batches if not batch.done]
            if not batches:
                return
            ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**pauses)
            pauses += 1
            time.sleep(max(0.0, min(random.uniform(0, ceiling), max(batch.deadline for batch in batches) - now)))
            try:
                conflicts = self._send(_messages(batches), request)
            except BackendUnavailable as again:
                error = again
            except Exception as refusal:
                self._send_apart(batches, request, refusal)
                return
            except BaseException:
                self._send_once_more([batch for batch in batches if not batch.leads], request)
                raise
            else:
                for batch in batches:
                    batch.end(conflicts)
                return

    def _send_apart(self, batches: list[_Batch], request: str, error: Exception) -> None:
        """A push was refused as a whole: find out whose messages are the reason; the others' are innocent.

        A backend with `dedup` remembers a request's answer, so each batch has its own; one without it that
        remembers which messages it has (and need not send again) knows them by the request they came with.
        """
        if len(batches) == 1 or self._backend is None:
            for batch in batches:
                batch.end({}, error)
            return
        parted = "dedup" in self._backend.features
        for n, batch in enumerate(batches):
            own = f"{request}/{n}" if parted else request
            try:
                batch.end(self._send(batch.messages, own))
            except BackendUnavailable as unavailable:
                self._persist([batch], own, unavailable)
            except Exception as refusal:
                batch.end({}, refusal)
            except BaseException:
                self._send_once_more([other for other in batches[n:] if not other.leads], request)
                raise

    def _send_once_more(self, batches: list[_Batch], request: str) -> None:
        """Before we give up our turn in an exception: the others' messages, if only with one try."""
        error: Exception = BackendUnavailable("the thread that was sending was interrupted")
        try:
            conflicts = self._send(_messages(batches), request) if batches else {}
        except Exception as failed:
            error = failed
        else:
            for batch in batches:
                batch.end(conflicts)
        finally:
            for batch in batches:
                if not batch.done:
                    batch.end({}, _gave_up(error))


def _messages(batches: Sequence[_Batch]) -> list[Outgoing]:
    return [message for batch in batches for message in batch.messages]


def _gave_up(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(f"gave up after enqueue_timeout; the job may or may not have been enqueued: {error}")
