"""The order in which the requests of a group are executed, and which of them together.

One statement for many requests costs little more than for one. So the pushes of a group come first, all together, then its
settlements, then its reserves; a client whose request is not answered yet cannot notice. A client that sends requests
without waiting for answers can: the settlements and reserves of one owner, and the pushes of one connection, keep the order
in which they arrived. So do all other requests, which are executed alone, after earlier ones and before later ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from .. import protocol as p
from .decoding import Asked

_PUSHES, _SETTLES, _RESERVES = range(3)
_STAGES = {p.PUSH.name: _PUSHES, p.PUT.name: _PUSHES, p.SETTLE.name: _SETTLES, p.RESERVE.name: _RESERVES}


def batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Return requests in the order in which they are executed, in lists that are executed at once."""
    stages: tuple[list[Asked], ...] = ([], [], [])
    reached: dict[bytes | str, int] = {}  # client: the stage of its requests among these
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
    """Return a list for each stage and for each configuration of clients; settlements that are not plain stand alone."""
    for stage in stages:
        for plain, those in itertools.groupby(stage, lambda one: one.peer.terms if one.plain else None):
            if plain is None:
                yield from ([one] for one in those)
            else:
                yield list(those)
        stage.clear()
