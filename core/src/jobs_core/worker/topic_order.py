"""The order in which one reservation looks at the topics of its pool: strict, or by weight."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence


def topic_order(topics: Sequence[str] | Mapping[str, int]) -> Callable[[], list[str]]:
    """Return a function that returns the order for the next reservation.

    With weights, each reservation draws an order anew: a topic comes first with the probability of its share of the
    weights, and each of the others likewise among those that are left. So every topic gets a share while all have jobs,
    and the others get what one without jobs leaves. (Weighted sampling without replacement after Efraimidis and
    Spirakis, Information Processing Letters 97, 2006.)
    """
    if not isinstance(topics, Mapping):
        strict = list(topics)
        return lambda: strict
    weights = dict(topics)
    rank = random.random
    return lambda: sorted(weights, key=lambda topic: -(rank() ** (1 / weights[topic])))
