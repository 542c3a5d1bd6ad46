"""Pages of jobs are parts of one list, whichever way they are read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs_core.backends.base import BackendOptions, Outcome, Outgoing, Settlement, State
from jobs_core.backends.limits import Limit
from jobs_core.ids import new_token
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse

T = "t"
START = 1_800_000_000.0


@pytest.fixture
def clock() -> list[float]:
    return [START]


@pytest.fixture
def backend(redis_url: str, clock: list[float]) -> Iterator[RedisBackend]:
    made = RedisBackend(parse(redis_url), BackendOptions(clock=lambda: clock[0]))
    made.open(new_token())
    yield made
    made.close()


def push(backend: RedisBackend, *names: str, delay: float = 0.0, limits: tuple[str, ...] = ()) -> None:
    backend.push([Outgoing(name, T, b"{}", delay=delay, limits=limits) for name in names], new_token())


def listed(backend: RedisBackend, state: State) -> list[str]:
    """Return the ids of the jobs in a state, after comparing pages of every size and place with the whole list."""
    whole = [record.id for record in backend.browse(T, state, 100)]
    for offset in range(len(whole) + 2):
        for limit in range(1, len(whole) + 2):
            page = [record.id for record in backend.browse(T, state, limit, offset)]
            assert page == whole[offset : offset + limit], (state, limit, offset)
    return whole


@pytest.mark.parametrize("lined", [False, True], ids=["plain", "with-lines"])
def test_pages_of_ready_jobs_end_with_those_that_are_due(backend, clock, lined):
    push(backend, "a", "b", "c")
    if lined:
        backend.define_limits({"open": Limit(concurrency=5)}, {})
        clock[0] += 0.001
        push(backend, "d", limits=("open",))
    push(backend, "x", delay=5.0)
    push(backend, "y", "z", delay=4.0)
    assert listed(backend, State.SCHEDULED) == ["y", "z", "x"]
    clock[0] += 10.0
    assert listed(backend, State.READY) == ["a", "b", "c", *(["d"] if lined else []), "y", "z", "x"]
    assert listed(backend, State.SCHEDULED) == []


def test_pages_of_dead_letters_begin_with_the_newest(backend, clock):
    push(backend, "a", "b", "c", "d")
    for delivery in backend.reserve([T], 4, new_token()):
        clock[0] += 1.0
        backend.settle([Settlement(delivery.id, delivery.token, Outcome.DEAD, reason="test")], new_token())
    assert listed(backend, State.DEAD) == ["d", "c", "b", "a"]
