"""The producing side of a process: one connection, shared by all its threads, which take turns at it (turns.py).

After a fork, parent and child have a connection each. A push ends within its timeout, whatever the server does: every wait
respects its deadline, see `deadline`. A leader whose deadline has passed leaves the messages of other threads to the first
of these threads, which sends them again under the same request id.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .deadline import deadline as of_thread
from .errors import BackendUnavailable
from .failpoints import failpoint
from .ids import new_id
from .pauses import doubled
from .turns import Batch, Turns
from .uninterrupted import uninterrupted

if TYPE_CHECKING:
    from .backends.base import Backend, Outgoing
    from .backends.flows import Part

T = TypeVar("T")

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
SHORTEST_TRY = 0.25
"""Shortest time limit of a single push, in seconds, even if less time is left: less would break a working connection."""


class Producer(Turns):
    """A backend connection for pushes, opened when it is first needed. Any thread may call `push`."""

    def __init__(self, make_backend: Callable[[], Backend]) -> None:
        super().__init__()
        self._make_backend = make_backend
        self._backend: Backend | None = None
        self.away = False  # True if the backend did not answer the last push
        self.timed: Callable[[float], None] | None = None  # told how long each push took that was answered, in seconds

    @uninterrupted
    def push(self, messages: Sequence[Outgoing], timeout: float) -> Mapping[str, str]:
        """Store messages durably, together with those that other threads push meanwhile; return conflicts by id.

        Tries for `timeout` seconds, then raises BackendUnavailable. If the broker failed after receiving the messages, they
        may be stored all the same; the error says so, unless nothing was ever sent.
        """
        before, now, leads = of_thread.at, time.monotonic(), False
        deadline = now + timeout
        if before < deadline:
            deadline = before
        try:
            with self._guard:
                if not self._led:
                    self._led = leads = True
                else:
                    batch = Batch(messages, deadline)
                    self._waiting.append(batch)
            if not leads:
                return self._wait(batch)
            request = new_id()
            try:
                if deadline < now + SHORTEST_TRY:
                    return self._send_late(messages, request, deadline)
                of_thread.at = deadline
                return self._send(messages, request)
            except BackendUnavailable as error:
                batch = Batch(messages, deadline)
                batch.leads = True
                self._persist([batch], request, error, deadline)
                return batch.outcome()
        finally:
            of_thread.at = before
            if leads:
                with self._guard:
                    self._hand_over()

    @uninterrupted
    def push_part(self, part: Part, messages: Sequence[Outgoing], timeout: float) -> Mapping[str, str]:
        """Store a part of a flow durably; return conflicts by id.

        Tries for `timeout` seconds under one request id, then raises BackendUnavailable. Other threads wait for their turn.
        """
        before = of_thread.at
        deadline, request = min(before, time.monotonic() + timeout), new_id()
        sent, pauses = False, 0
        try:
            with self._turn(max(0.0, deadline - time.monotonic())) as came:
                if not came:
                    raise _gave_up(BackendUnavailable("another thread's push is still waiting for the backend"), False)
                while True:
                    of_thread.at = max(deadline, time.monotonic() + SHORTEST_TRY)
                    try:
                        backend = self._backend or self._connected()
                        failpoint("push.before")
                        began = time.monotonic()
                        conflicts = backend.push_part(part, messages, request)
                        if self.timed is not None:
                            self.timed(time.monotonic() - began)
                        failpoint("push.after")
                        self.away = False
                        return conflicts
                    except BackendUnavailable as error:
                        self.away, sent = True, sent or not error.nothing_sent
                        if time.monotonic() >= deadline:
                            raise _gave_up(error, sent) from None
                    ceiling = doubled(FIRST_PAUSE, pauses, LONGEST_PAUSE)
                    pauses += 1
                    time.sleep(max(0.0, min(random.uniform(0, ceiling), deadline - time.monotonic())))
        finally:
            of_thread.at = before

    def in_turn(self, function: Callable[[], T], asked_at: float, timeout: float) -> T:
        """Call a function that enqueues, after it has waited since `asked_at` for a free thread.

        During an outage, that wait counts against `timeout`. While the backend answers, it does not: the thread was busy with
        other calls.
        """
        if not self.away:
            return function()
        if time.monotonic() >= asked_at + timeout:
            raise _gave_up(BackendUnavailable("other calls are still waiting for the backend"), False)
        before, of_thread.at = of_thread.at, asked_at + timeout
        try:
            return function()
        finally:
            of_thread.at = before

    @property
    def connected(self) -> bool:
        """Return whether there is a connection now."""
        return self._backend is not None

    @uninterrupted
    def open(self, timeout: float, topics: Sequence[str] = ()) -> None:
        """Connect unless connected, and prepare for pushes to `topics`; raise BackendUnavailable after `timeout` seconds."""
        before = of_thread.at
        of_thread.at = min(before, time.monotonic() + timeout)
        try:
            with self._turn(timeout) as came:
                if came and self._backend is None:
                    self._connected().prepare(topics)
        finally:
            of_thread.at = before

    @uninterrupted
    def close(self) -> None:
        """Disconnect, once no thread is sending; the next push connects again."""
        with self._turn():
            backend, self._backend = self._backend, None
            if backend:
                backend.close()

    @contextmanager
    def _turn(self, timeout: float = -1) -> Iterator[bool]:
        """Wait for a turn, with nothing to send; yield False if it has not come within `timeout` seconds."""
        turn = Batch((), float("inf"))
        try:
            with self._guard:
                if not self._led:
                    self._led = turn.leads = True
                else:
                    self._waiting.append(turn)
            yield turn.leads or turn.bell.acquire(timeout=timeout)
        finally:
            self._leave(turn)

    def _wait(self, batch: Batch) -> Mapping[str, str]:
        """Sleep until another thread has sent the batch, or its caller becomes the leader and sends it."""
        try:
            batch.bell.acquire(timeout=max(0.0, batch.deadline - time.monotonic()))
            if batch.leads or batch.links:
                self._look_for_crowd(batch)
            if batch.leads and time.monotonic() < batch.deadline:
                self._send_together(self._laid_down())
        finally:
            withdrawn = self._leave(batch)
        if not batch.done:
            self.away = True
            raise _gave_up(
                BackendUnavailable("another thread's push is still waiting for the backend"), batch.sent or not withdrawn
            )
        return batch.outcome()

    # -- sending ---------------------------------------------------------------------------------

    def _send(self, messages: Sequence[Outgoing], request: str) -> Mapping[str, str]:
        backend = self._backend or self._connected()
        failpoint("push.before")
        if self.timed is None:
            conflicts = backend.push(messages, request)
        else:
            began = time.monotonic()
            conflicts = backend.push(messages, request)
            self.timed(time.monotonic() - began)
        failpoint("push.after")
        self.away = False
        return conflicts

    def _send_late(self, messages: Sequence[Outgoing], request: str, deadline: float) -> Mapping[str, str]:
        """Send with at least SHORTEST_TRY seconds of time; `push` restores the thread's deadline."""
        of_thread.at = max(deadline, time.monotonic() + SHORTEST_TRY)
        return self._send(messages, request)

    def _connected(self) -> Backend:
        backend = self._make_backend()
        try:
            backend.open(None)
        except BackendUnavailable as error:
            error.nothing_sent = True
            raise
        self._backend = backend
        return backend

    def _send_together(self, batches: list[Batch]) -> None:
        """Send the batches of several callers as one push, and give each caller the outcome of its own."""
        request, deadline = batches[0].request or new_id(), batches[0].deadline
        if len(batches) > 1 and not batches[0].request and _repeat(batches):
            self._send_apart(batches, request, None, deadline)
            return
        try:
            conflicts = self._send_late(_messages(batches), request, deadline)
        except BackendUnavailable as error:
            self._persist(batches, request, error, deadline)
        except Exception as error:
            self._send_apart(batches, request, error, deadline)
        except BaseException:  # an interrupt of this thread; the other threads' messages are still to be sent
            self._send_once_more(batches[1:], request, deadline)
            raise
        else:
            for batch in batches:
                batch.conflicts, batch.done = conflicts, True

    def _persist(self, batches: list[Batch], request: str, error: BackendUnavailable, deadline: float) -> None:
        """Send again, under the same request id, until the backend answers or our `deadline` has passed."""
        pauses, self.away = 0, True
        while True:
            now = time.monotonic()
            for batch in batches:
                batch.sent = batch.sent or not error.nothing_sent
                if batch.deadline <= now:
                    self._end(batch, {}, _gave_up(error, batch.sent))
            batches = [batch for batch in batches if not batch.done]
            if not batches:
                return
            if deadline <= now:
                self._hand_on(batches, request)
                return
            ceiling = doubled(FIRST_PAUSE, pauses, LONGEST_PAUSE)
            pauses += 1
            time.sleep(max(0.0, min(random.uniform(0, ceiling), deadline - now)))
            try:
                conflicts = self._send_late(_messages(batches), request, deadline)
            except BackendUnavailable as again:
                error = again
            except Exception as refusal:
                self._send_apart(batches, request, refusal, deadline)
                return
            except BaseException:
                self._send_once_more([batch for batch in batches if not batch.leads], request, deadline)
                raise
            else:
                for batch in batches:
                    self._end(batch, conflicts)
                return

    def _send_apart(self, batches: list[Batch], request: str, error: Exception | None, deadline: float) -> None:
        """Send batches separately: after a refused push, so that only the callers of refused messages get the error.

        Without an `error`: two callers chose the same id, and each has to learn whether the job is its own.

        A backend with `dedup` remembers the answer to a request, so each batch needs its own request id. A backend without
        it may remember which messages have arrived, by the id of their first request: there, keep that id.
        """
        if error is not None and (len(batches) == 1 or self._backend is None):
            for batch in batches:
                self._end(batch, {}, error)
            return
        parted = error is None or self._backend is None or "dedup" in self._backend.features
        for n, batch in enumerate(batches):
            own = f"{request}/{n}" if parted else request
            batch.sent = True
            if deadline <= time.monotonic() and not batch.leads:
                self._hand_on([batch], own)
                continue
            try:
                self._end(batch, self._send_late(batch.messages, own, deadline))
            except BackendUnavailable as unavailable:
                self._persist([batch], own, unavailable, deadline)
            except Exception as refusal:
                self._end(batch, {}, refusal)
            except BaseException:
                self._send_once_more([other for other in batches[n:] if not other.leads], request, deadline)
                raise

    def _send_once_more(self, batches: list[Batch], request: str, deadline: float) -> None:
        """Try once to send the other threads' messages, before an exception ends our turn."""
        error: Exception = BackendUnavailable("the thread that was sending was interrupted")
        try:
            conflicts = self._send_late(_messages(batches), request, deadline) if batches else {}
        except Exception as failed:
            error = failed
        else:
            for batch in batches:
                self._end(batch, conflicts)
        finally:
            for batch in batches:
                if not batch.done:
                    self._end(batch, {}, _gave_up(error, True))


def _messages(batches: Sequence[Batch]) -> list[Outgoing]:
    return [message for batch in batches for message in batch.messages]


def _repeat(batches: Sequence[Batch]) -> bool:
    """Return whether an id that a caller chose occurs more than once."""
    chosen = [message.id for batch in batches for message in batch.messages if message.chosen]
    return len(set(chosen)) < len(chosen)


def _gave_up(error: Exception, sent: bool) -> BackendUnavailable:
    outcome = "may or may not have been" if sent else "was not"
    told = BackendUnavailable(f"gave up after enqueue_timeout; the job {outcome} enqueued: {error}")
    told.nothing_sent = not sent
    return told
