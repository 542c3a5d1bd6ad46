"""Redis compared with the memory model, step by step, on a clock given to both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from jobs_core.backends.base import BackendOptions, Counts
from jobs_core.backends.memory import MemoryBackend
from jobs_core.testing.contract import machine
from jobs_core.testing.contract.rig import ManualClock, Rig
from jobs_redis.backend import RedisBackend
from jobs_redis.url import parse

pytestmark = pytest.mark.timeout(300)  # tens of thousands of round trips, slow on a busy machine

TICK = 4
"""Microseconds by which every call moves the time: on a server's own clock, no two scripts begin in the same one."""

STRIDE = 1 / 32
"""Seconds by which every step of the clock is longer than requested, so that ticks never decide what is due."""


class _Clock(ManualClock):
    def __init__(self) -> None:
        self._time = 1_800_000_000.0
        self._ticks = 0

    @property
    def time(self) -> float:  # type: ignore[override]
        return self._time

    @time.setter
    def time(self, value: float) -> None:
        self._time, self._ticks = value + STRIDE, 0

    def __call__(self) -> float:
        """Return the time, later with every call."""
        self._ticks += TICK
        return self._time + self._ticks * 1e-6


def _without_ticks(counted: dict[str, Counts]) -> dict[str, Counts]:
    def age(exact: float | None) -> float | None:
        return None if exact is None else round(exact / STRIDE) * STRIDE

    return {topic: Counts(c.ready, c.scheduled, c.reserved, c.dead, age(c.oldest_age)) for topic, c in counted.items()}


class _Model(MemoryBackend):
    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        return _without_ticks(super().counts(topics))


class _Redis(RedisBackend):
    def __init__(self, url: str, options: BackendOptions) -> None:
        super().__init__(parse(url), options)

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        return _without_ticks(super().counts(topics))


class _Rig(Rig):
    def options(self, **changes: Any) -> BackendOptions:
        """Remember requests forever: Redis forgets them by its own clock, the model by the rig's."""
        return super().options(**{"dedup_window": 1e8} | changes)


class TestModel(machine.Machine):
    @pytest.fixture
    def backend_url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def rig(self, backend_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
        rig = _Rig(backend_url, _Clock())
        rig._factory = _Redis
        monkeypatch.setattr(machine, "MemoryBackend", _Model)
        yield rig
        rig.close()
