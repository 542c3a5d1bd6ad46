"""The scenarios that measure ours alone, by the part that they measure, and the goals of their figures."""

from __future__ import annotations

from . import one_worker, rabbitmq, redis, supervisor, zeromq

PARTS = {"core": one_worker, "supervisor": supervisor, "redis": redis, "zeromq": zeromq, "rabbitmq": rabbitmq}
SCENARIOS = {name: scenario for part in PARTS.values() for name, scenario in part.SCENARIOS.items()}
PART_OF = {name: part for part, module in PARTS.items() for name in module.SCENARIOS}
Goal = tuple[str, float]
"""A sign and a bound: the figure is at most or at least this."""
GOALS: dict[str, Goal] = {what: goal for part in PARTS.values() for what, goal in part.GOALS.items()}


def met(goal: Goal, value: float) -> bool:
    sign, bound = goal
    return value <= bound if sign == "≤" else value >= bound
