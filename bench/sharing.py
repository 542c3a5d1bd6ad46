"""The limit of what threads gain by sharing round trips: a producer without all of its duties."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable


class _Turn:
    """One thread's message, which another may have sent together with its own."""

    __slots__ = ("following", "sent", "wake")

    def __init__(self) -> None:
        self.sent = False
        self.following: _Turn | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class Sharing:
    """Threads queue messages and sleep; one of them makes a round trip for all.

    They wake one another in a chain, as those of `jobs_core.producer` do. Nothing is checked, encoded, timed or answered,
    and no thread may be interrupted.
    """

    def __init__(self, round_trip: Callable[[int], object]) -> None:
        self._round_trip = round_trip
        self._guard = threading.Lock()
        self._led = False
        self._waiting: deque[_Turn] = deque()

    def push(self) -> None:
        with self._guard:
            if self._led:
                turn = _Turn()
                self._waiting.append(turn)
            else:
                self._led, turn = True, None
        if turn is None:
            self._round_trip(1)
            self._pass_turn()
            return
        turn.wake.acquire()
        if not turn.sent:
            self._send(turn)
        if turn.following:
            turn.following.wake.release()
        else:
            self._pass_turn()

    def _send(self, turn: _Turn) -> None:
        with self._guard:
            turns = [*self._waiting]
            self._waiting.clear()
        self._round_trip(len(turns))
        for one, other in itertools.pairwise(turns):
            one.following, other.sent = other, True

    def _pass_turn(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting[0].wake.release()
            else:
                self._led = False
