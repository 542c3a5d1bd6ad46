"""Order the requests of a group, and batch those that are executed together.

One SQL statement for many requests costs little more than for one. So all pushes of a group are executed first, then its
settlements, then its reserves. A client that waits for each answer cannot notice the order. For clients that do not wait,
the settlements and reserves of one owner, and the pushes of one connection, keep the order in which they arrived. Each
request of another kind is executed alone, after all earlier and before all later requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from .. import protocol as p
from .decoding import Asked

_PUSHES, _SETTLES, _RESERVES = range(3)
_STAGES = {p.PUSH.name: _PUSHES, p.PUT.name: _PUSHES, p.SETTLE.name: _SETTLES, p.RESERVE.name: _RESERVES}


def batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Yield the requests in batches that are executed together, in the order of execution."""
    stages: tuple[list[Asked], ...] = ([], [], [])
    reached: dict[bytes | str, int] = {}  # client → the latest stage of its requests in `stages`
    for one in asked:
        stage = _STAGES.get(one.verb.name)
        if stage is None:
            yield from _lists(stages)
            reached.clear()
            yield [one]
            continue
        who = one.sender if stage == _PUSHES else one.request.owner
        if reached.get(who, -1) >= max(stage, 1):
            yield from _lists(stages)
            reached.clear()
        reached[who] = stage
        stages[stage].append(one)
    yield from _lists(stages)


def _lists(stages: tuple[list[Asked], ...]) -> Iterator[list[Asked]]:
    """Yield one batch per stage and configuration of clients, but each settlement that is not plain in a batch of its own."""
    for stage in stages:
        for plain, those in itertools.groupby(stage, lambda one: one.peer.terms if one.plain else None):
            if plain is None:
                yield from ([one] for one in those)
            else:
                yield list(those)
        stage.clear()
