"""What of a group is done together, and in which order.

One statement for many requests costs little more than for one. So the pushes of a group come first, all together, then
its settlements, then its reserves; whoever has not been answered cannot tell. Who asks without waiting for answers can:
what one owner settles and reserves, and what one connection pushes, keeps the order in which it came in. So does all
else, which is done alone, after what came before it and before what came after.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from .. import protocol as p
from .reading import Asked

_PUSHES, _SETTLES, _RESERVES = range(3)
_STAGES = {p.PUSH.name: _PUSHES, p.PUT.name: _PUSHES, p.SETTLE.name: _SETTLES, p.RESERVE.name: _RESERVES}


def steps(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Requests in the order in which they are done, and in lists of what is done at once."""
    stages: tuple[list[Asked], ...] = ([], [], [])
    reached: dict[bytes | str, int] = {}  # who: the stage of what it has among these
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
    """A list for each stage and for each configuration of clients; settlements that are more than plain stand alone."""
    for stage in stages:
        for plain, those in itertools.groupby(stage, lambda one: one.peer.terms if one.plain else None):
            if plain is None:
                yield from ([one] for one in those)
            else:
                yield list(those)
        stage.clear()
