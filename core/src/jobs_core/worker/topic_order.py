"""The order in which one reservation looks at the topics of its pool: strict, or by weight."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence


def topic_order(topics: Sequence[str] | Mapping[str, int]) -> Callable[[], list[str]]:
    """Return a function that returns the order for the next reservation.

    With weights, each reservation draws a new order: a topic comes first with the probability of its share of the
    weights, and each next place is drawn in the same way among the rest. So each topic gets its share while all have
    jobs, and the share of an empty topic goes to the others. (Weighted sampling without replacement after Efraimidis
    and Spirakis, Information Processing Letters 97, 2006.)
    """
    if not isinstance(topics, Mapping):
        strict = list(topics)
        return lambda: strict
    weights = dict(topics)
    rank = random.random
    return lambda: sorted(weights, key=lambda topic: -(rank() ** (1 / weights[topic])))
