"""Redis beside the memory model, step by step, on a clock that both are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from jobs_core.backends.base import BackendOptions, Counts
from jobs_core.testing.contract.machine import Machine
from jobs_core.testing.contract.rig import ManualClock, Rig
from jobs_redis.backend import RedisBackend
from jobs_redis.records import micro
from jobs_redis.url import parse

STEP = 10
"""Microseconds by which the clock moves with every script: on the server's own none of two begins in the same one."""


class _Ticking(RedisBackend):
    """A backend on the rig's clock, which otherwise stands still."""

    moments: dict[float, int] = {}  # noqa: RUF012 - shared by all connections, as a server's clock is

    def __init__(self, url: str, options: BackendOptions) -> None:
        super().__init__(parse(url), options)
        clock = options.clock
        assert clock is not None

        def now() -> int:
            moment = clock()
            if moment not in self.moments:
                self.moments.clear()
            self.moments[moment] = self.moments.get(moment, 0) + STEP
            return micro(moment) + self.moments[moment]

        self._store.now = now  # type: ignore[method-assign]

    def counts(self, topics: Sequence[str]) -> dict[str, Counts]:
        """Ages without the ticks."""
        return {
            topic: Counts(
                c.ready, c.scheduled, c.reserved, c.dead, None if c.oldest_age is None else float(round(c.oldest_age))
            )
            for topic, c in super().counts(topics).items()
        }


class TestModel(Machine):
    @pytest.fixture
    def backend_url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def rig(self, backend_url: str) -> Iterator[Rig]:
        rig = Rig(backend_url, ManualClock())
        rig._factory = _Ticking
        yield rig
        rig.close()
