"""What this worker holds, and what it remembers of what it held when a connection broke.

The broker gives back everything that was unacknowledged on a connection that is gone. Whoever gets it cannot know
whether its worker has died; the worker itself, if it lives, does. So what comes back to the worker that still runs it is
taken for the same reservation, and what comes back to the one that has finished it meanwhile is settled, not run again.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable

from jobs_core.backends.base import Delivery, Outcome, Settlement

from .letters import SUSPECT, Letter

REMEMBERED = 60.0
"""How long a finished run is remembered that could not be acknowledged, seconds."""

DOUBTFUL = 2.0
"""Acknowledgements of so many seconds before a connection broke may not have arrived."""

FORGOTTEN_AT_ONCE = 4
"""Older ones are forgotten so many batches at a time: to free ten thousand letters takes a while."""

PARDONED = 3
"""Losses that are no sign of a job that kills its worker: it was not alone in the first two, and connections break."""

_Key = tuple[str, float, int, int]


class Holding:
    """Reservations by token. One thread at a time."""

    def __init__(self) -> None:
        self.held: dict[int, Letter] = {}
        self._tokens = 0
        self._ids: dict[str, int] = {}  # job id → token
        self._twins: dict[str, list[Letter]] = {}  # job id → further messages of a job that is held
        self._strays: dict[_Key, int] = {}  # held when the connection broke → token
        self._owed: OrderedDict[_Key, tuple[float, Settlement]] = OrderedDict()
        self._recent: deque[tuple[float, list[Letter]]] = deque()

    def hand_out(self, letters: Iterable[Letter]) -> list[Delivery]:
        """Reserve letters, but one at a time of each job: one that was published twice is not run twice at once."""
        deliveries = []
        for letter in letters:
            if letter.id in self._ids:
                self._twins.setdefault(letter.id, []).append(letter)
                continue
            self._tokens += 1
            letter.token = self._ids[letter.id] = self._tokens
            self.held[letter.token] = letter
            deliveries.append(delivery(letter))
        return deliveries

    def twins(self, letter: Letter) -> list[Letter]:
        """Further messages of a job that is held no more."""
        return self._twins.pop(letter.id, [])

    def all_twins(self) -> list[Letter]:
        """Further messages of jobs that are held, of all of them."""
        twins = [letter for letters in self._twins.values() for letter in letters]
        self._twins.clear()
        return twins

    def find(self, settlement: Settlement) -> Letter | None:
        """The letter that a settlement is for, if it is held under that token."""
        letter = self.held.get(settlement.token) if isinstance(settlement.token, int) else None
        return letter if letter is not None and letter.id == settlement.id else None

    def gone(self, letter: Letter) -> None:
        """A letter is settled."""
        self.held.pop(letter.token, None)
        if self._ids.get(letter.id) == letter.token:
            del self._ids[letter.id]
        self._strays.pop(_key(letter), None)

    def acknowledged(self, letters: list[Letter]) -> None:
        """Their acknowledgement is on its way."""
        now = time.monotonic()
        self._recent.append((now, letters))
        for _ in range(FORGOTTEN_AT_ONCE):
            if self._recent[0][0] < now - DOUBTFUL:
                self._recent.popleft()

    def owe(self, letter: Letter, settlement: Settlement) -> None:
        """It has ended, and could not be settled: the broker has given it back."""
        self.gone(letter)
        self._remember(letter, settlement)

    def _remember(self, letter: Letter, settlement: Settlement) -> None:
        now = time.monotonic()
        self._owed[_key(letter)] = now + REMEMBERED, settlement
        while self._owed and next(iter(self._owed.values()))[0] < now:
            self._owed.popitem(last=False)

    def connection_lost(self) -> None:
        """Everything held is given back by the broker; what was acknowledged last perhaps, too."""
        self._twins.clear()
        self._strays = {_key(letter): token for token, letter in self.held.items()}
        oldest = time.monotonic() - DOUBTFUL
        for at, letters in self._recent:
            if at >= oldest:
                for letter in letters:
                    self._remember(letter, Settlement(letter.id, letter.token, Outcome.DONE))
        self._recent.clear()

    def recognise(self, letter: Letter) -> bool:
        """Whether this is what we hold already; it is then the one that will be acknowledged."""
        token = self._strays.pop(_key(letter), None)
        if token is None or token not in self.held:
            return False
        letter.token = token
        self.held[token] = letter
        return True

    def owes(self, letter: Letter) -> bool:
        """Whether this has ended here before it came back."""
        return _key(letter) in self._owed

    def owed(self, letter: Letter) -> Settlement | None:
        """How this ended here before it came back."""
        found = self._owed.get(_key(letter))
        return found[1] if found and found[0] >= time.monotonic() else None

    def paid(self, letters: Iterable[Letter]) -> None:
        """They are settled: should one come back now, it is another loss."""
        for letter in letters:
            self._owed.pop(_key(letter), None)

    def forget(self) -> list[Letter]:
        """Hold nothing any more; returns what was held."""
        held, self.held = list(self.held.values()), {}
        self._ids.clear()
        self._twins.clear()
        self._strays.clear()
        self._owed.clear()
        self._recent.clear()
        return held


def delivery(letter: Letter) -> Delivery:
    """The letter as the core sees it."""
    return Delivery(
        letter.id,
        letter.topic,
        letter.body,
        letter.token,
        letter.attempt,
        max(0, letter.losses + 1 - SUSPECT),
        max(0, letter.losses - PARDONED),
        letter.deferrals,
        letter.pushed_at,
        time.time(),
    )


def _key(letter: Letter) -> _Key:
    return letter.id, letter.pushed_at, letter.attempt, letter.deferrals
