"""What a connection has pushed, on its way to the counts of the store; sql/counts.sql has the other half."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from jobs_core.backend_kit import Tally
from jobs_core.backends.base import Outgoing


class Counting:
    """The jobs that one connection has pushed one by one, and that are not counted yet. One thread at a time.

    The server counts what it is sent in batches, with unique keys or with chosen ids.
    """

    __slots__ = ("_tally",)

    def __init__(self) -> None:
        self._tally = Tally()

    @property
    def kept(self) -> Mapping[str, int]:
        """The jobs by topic that the store has not counted."""
        return self._tally.kept

    def due(self, messages: Sequence[Outgoing]) -> Mapping[str, int]:
        """Return the jobs by topic to count with the push of these messages; none with most pushes of one job."""
        tally, topic = self._tally, _topic(messages)
        if topic is None:
            return dict(tally.kept) if messages else {}
        if tally.left > 1 and time.monotonic() < tally.until:
            return {}
        return {**tally.kept, topic: tally.kept.get(topic, 0) + 1}

    def pushed(self, messages: Sequence[Outgoing], counted: Mapping[str, int]) -> None:
        """Note that these messages were pushed, and with them counted what was due.

        Only now: if the answer is lost, the same request comes again, and counts once.
        """
        tally, topic = self._tally, _topic(messages)
        if topic is not None:
            tally.kept[topic] = tally.kept.get(topic, 0) + 1
            tally.left -= 1
        if counted:
            tally.added(time.monotonic())


def _topic(messages: Sequence[Outgoing]) -> str | None:
    """Return the topic of a single message that nothing can refuse; None for others, which the server counts."""
    if len(messages) != 1 or messages[0].unique or messages[0].chosen:
        return None
    return messages[0].topic
