"""Steps for the model of limits and fairness in tests/unit/test_memory_lines.py."""

import itertools
import random

from jobs_core.backends.limits import Limit

LIMITS = ("a", "a:1", "b", "r", "none")


def many_steps(seed, count=250):
    """Return steps of which most meet each other: few topics, keys and limits, and a topic that is fair most of the time."""
    rng = random.Random(seed)
    steps = [("rules", True, rng.choice([None, 2])), ("define", "a", Limit(2)), ("define", "r", Limit(None, 2.0, 2))]
    for _ in range(count):
        verbs = ["push", "reserve", "settle", "cancel", "close", "time", "define", "override", "rules"]
        (verb,) = rng.choices(verbs, [30, 22, 26, 3, 2, 6, 4, 3, 2])
        match verb:
            case "push":
                limits = rng.choice([(), (), *itertools.combinations(LIMITS, 1), ("a", "b"), ("a:1", "r"), ("a", "r")])
                facts = rng.choice(["", "k1", "k1", "k2", "k3", "line\nbreak", "%0A"]), limits, rng.choice([0, 0, 0, 1])
            case "reserve":
                facts = rng.randint(1, 4), rng.choice([None, None, 0, 1, 2])
            case "settle":
                facts = rng.randint(0, 9), rng.choice(["done", "release", "release", "retry"]), rng.random() < 0.5
            case "cancel":
                facts = (rng.randint(0, 9),)
            case "close":
                facts = rng.choice(LIMITS), rng.choice([1.0, 7.0])
            case "time":
                facts = (rng.choice([0.5, 2.0, 6.0]),)
            case "define":
                facts = rng.choice(["a", "b", "r"]), _definition(rng)
            case "override":
                facts = rng.choice(["a", "a:1", "b"]), rng.choice([None, _definition(rng)])
            case _:
                facts = rng.random() < 0.75, rng.choice([None, 1, 2])
        steps.append((verb, *facts))
    return steps


def _definition(rng):
    return Limit(rng.choice([None, 0, 1, 2, 3]), rng.choice([None, None, 2.0, 5.0]), rng.randint(1, 3))
