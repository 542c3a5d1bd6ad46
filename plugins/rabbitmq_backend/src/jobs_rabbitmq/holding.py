"""The messages that this worker holds, and those that it held when a connection broke.

The broker makes all messages ready again that were unacknowledged on a broken connection. Another worker cannot know
whether the first one has died; the first one itself, if it is alive, can. So a message that comes back to the worker that
still runs it continues its reservation, and one that comes back to the worker that has meanwhile finished it is settled,
not run again.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable

from jobs_core.backends.base import Delivery, Outcome, Settlement

from .letters import SUSPECT, Letter

REMEMBERED = 60.0
"""Seconds for which a finished run is remembered that could not be acknowledged."""

DOUBTFUL = 2.0
"""Seconds before a broken connection's end in which acknowledgements may have been lost."""

FORGOTTEN_AT_ONCE = 4
"""Batches of older ones that are forgotten at a time: freeing ten thousand letters takes a while."""

PARDONED = 3
"""Losses that do not indicate a job that kills its worker: it was not alone in the first two, and connections break."""

_Key = tuple[str, float, int, int]


class Holding:
    """Reservations by token. One thread at a time."""

    def __init__(self) -> None:
        self.held: dict[int, Letter] = {}
        self._tokens = 0
        self._ids: dict[str, int] = {}  # job id → token
        self._twins: dict[str, list[Letter]] = {}  # job id → further messages of a held job
        self._strays: dict[_Key, int] = {}  # held when the connection broke → token
        self._owed: OrderedDict[_Key, tuple[float, Settlement]] = OrderedDict()
        self._recent: deque[tuple[float, list[Letter]]] = deque()

    def hand_out(self, letters: Iterable[Letter]) -> list[Delivery]:
        """Reserve letters, but only one at a time of each job: a job that was published twice does not run twice at once."""
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
        """Return further messages of a job that is no longer held."""
        return self._twins.pop(letter.id, [])

    def all_twins(self) -> list[Letter]:
        """Return all further messages of held jobs."""
        twins = [letter for letters in self._twins.values() for letter in letters]
        self._twins.clear()
        return twins

    def find(self, settlement: Settlement) -> Letter | None:
        """Return the letter of a settlement, if it is held under that token."""
        letter = self.held.get(settlement.token) if isinstance(settlement.token, int) else None
        return letter if letter is not None and letter.id == settlement.id else None

    def gone(self, letter: Letter) -> None:
        """Forget a settled letter."""
        self.held.pop(letter.token, None)
        if self._ids.get(letter.id) == letter.token:
            del self._ids[letter.id]
        self._strays.pop(_key(letter), None)

    def acknowledged(self, letters: list[Letter]) -> None:
        """Record that their acknowledgement is in transit."""
        now = time.monotonic()
        self._recent.append((now, letters))
        for _ in range(FORGOTTEN_AT_ONCE):
            if self._recent[0][0] < now - DOUBTFUL:
                self._recent.popleft()

    def owe(self, letter: Letter, settlement: Settlement) -> None:
        """Record the outcome of a job that could not be settled, because the broker has taken it back."""
        self.gone(letter)
        self._remember(letter, settlement)

    def _remember(self, letter: Letter, settlement: Settlement) -> None:
        now = time.monotonic()
        self._owed[_key(letter)] = now + REMEMBERED, settlement
        while self._owed and next(iter(self._owed.values()))[0] < now:
            self._owed.popitem(last=False)

    def connection_lost(self) -> None:
        """Record that the broker has taken back all held messages; perhaps also those acknowledged last."""
        self._twins.clear()
        self._strays = {_key(letter): token for token, letter in self.held.items()}
        oldest = time.monotonic() - DOUBTFUL
        for at, letters in self._recent:
            if at >= oldest:
                for letter in letters:
                    self._remember(letter, Settlement(letter.id, letter.token, Outcome.DONE))
        self._recent.clear()

    def recognise(self, letter: Letter) -> bool:
        """Return whether we already hold this job; this message is then the one that will be acknowledged."""
        token = self._strays.pop(_key(letter), None)
        if token is None or token not in self.held:
            return False
        letter.token = token
        self.held[token] = letter
        return True

    def owes(self, letter: Letter) -> bool:
        """Return whether this job has ended here before it came back."""
        return _key(letter) in self._owed

    def owed(self, letter: Letter) -> Settlement | None:
        """Return the outcome of a job that ended here before it came back."""
        found = self._owed.get(_key(letter))
        return found[1] if found and found[0] >= time.monotonic() else None

    def paid(self, letters: Iterable[Letter]) -> None:
        """Record that they are settled: if one comes back now, that is another loss."""
        for letter in letters:
            self._owed.pop(_key(letter), None)

    def forget(self) -> list[Letter]:
        """Hold no messages any more; return those that were held."""
        held, self.held = list(self.held.values()), {}
        self._ids.clear()
        self._twins.clear()
        self._strays.clear()
        self._owed.clear()
        self._recent.clear()
        return held


def delivery(letter: Letter) -> Delivery:
    """Return the letter as the core's delivery."""
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
