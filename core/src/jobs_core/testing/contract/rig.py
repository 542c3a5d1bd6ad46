"""The tools of contract cases: open and close backends, let time pass, push and run jobs."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from ...backends.auxstore import composed
from ...backends.base import (
    Answer,
    Backend,
    BackendFactory,
    BackendOptions,
    Delivery,
    JobRecord,
    Outcome,
    Outgoing,
    Retention,
    Settlement,
    State,
)
from ...errors import NotSupported
from ...ids import new_id, new_token
from ...message import UniqueKey
from ...plugins import Plugins
from ...urls import scheme

T = "contract.topic"
"""The topic of cases that need only one."""

ERROR = msgspec.json.encode({"type": "ValueError", "message": "no", "traceback": ""})
PATIENCE = float(os.environ.get("JOBS_CONTRACT_PATIENCE", "20"))
"""Longest time, in seconds, that a case waits for an expected event."""

LONGEST_TURN = 0.5
"""Seconds that one look of such a wait counts for at most."""


class ManualClock:
    """A broker's clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


class Rig:
    """One empty store, with helpers to use it. With a real clock, the lease is one second."""

    def __init__(self, url: str, clock: ManualClock | None, *, at_once: bool = False, results_url: str = "") -> None:
        self.url = url
        self.results_url = results_url
        self.clock = clock
        self.name = new_token(4)
        """A name that is unique to this case, because a store that is not new may remember the names of earlier cases."""
        self.lease = 30.0 if clock else 1.0
        plugins = Plugins.discover()
        self._factory = self._queue_factory(plugins)
        if results_url:
            self._results = plugins.choose("jobs_queue_backends", scheme(results_url), "results_url")
        self._opened: list[Backend] = []
        self._requests = itertools.count()
        self.features = self.unopened().features
        self.hand_out_time = 0.0 if at_once or self.has("strict_order") else 1.0  # seconds until a reserve finds all

    def _queue_factory(self, plugins: Plugins) -> BackendFactory:
        factory: BackendFactory = plugins.choose("jobs_queue_backends", scheme(self.url), "backend_url")
        return factory

    def has(self, *features: str) -> bool:
        """Return whether the backend under test lists all of these features."""
        return self.features.issuperset(features)

    def options(self, **changes: Any) -> BackendOptions:
        changes = {"lease": self.lease, "clock": self.clock, "base_dir": Path.cwd()} | changes
        return BackendOptions(**changes)

    def unopened(self, **options: Any) -> Backend:
        backend: Backend = self._factory(self.url, self.options(**options))
        return composed(backend, self._results(self.results_url, self.options(**options))) if self.results_url else backend

    def producer(self, **options: Any) -> Backend:
        """Return a connection without an owner, closed when the case ends."""
        return self.worker(None, **options)

    def worker(self, owner: str | None = "", **options: Any) -> Backend:
        """Return a connection under a new owner id, closed when the case ends."""
        backend = self.unopened(**options)
        backend.open(new_token() if owner == "" else owner)
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        """Close every connection made so far."""
        while self._opened:
            self._opened.pop().close()

    def lacks(self, backend: Backend, *features: str) -> bool:
        """Return whether a feature is missing; if so, check that calls which need it raise NotSupported with its name.

        They have to raise it before they change anything.
        """
        missing = [feature for feature in features if not self.has(feature)]
        calls: dict[str, Callable[[], object]] = {
            "lookup": lambda: backend.get("x"),
            "browse": lambda: backend.browse(T, State.READY, 1),
            "pause": lambda: backend.pause("some.other.topic"),
            "cancel": lambda: backend.cancel("x"),
            "results": lambda: backend.fetch_result("x", 0.0),
            "unique": lambda: backend.push([self.job(unique=UniqueKey("the-key"))], self.request()),
        }
        for feature in missing:
            if feature in calls:
                with pytest.raises(NotSupported, match=feature):
                    calls[feature]()
        return bool(missing)

    def request(self) -> str:
        return f"request-{next(self._requests)}-{new_token(4)}"

    # -- time ------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let the broker's time pass: move a manual clock, otherwise sleep."""
        if self.clock:
            self.clock.time += seconds
        else:
            time.sleep(seconds)  # the broker's own clock cannot be moved: the time itself is the event

    def live_through(self, seconds: float, *living: Backend) -> None:
        """Let time pass and renew the owners' leases meanwhile, because another process may run housekeeping on this store."""
        steps = int(2 * seconds / self.lease) + 1
        for _ in range(steps):
            self.advance(seconds / steps)
            for backend in living:
                backend.heartbeat()

    def until(self, condition: Callable[[], Any]) -> Any:
        """Let time pass until `condition` holds; fail after PATIENCE seconds. In a long turn, this machine stood still."""
        passed, at = 0.0, time.monotonic()
        while True:
            value = condition()
            if value:
                return value
            if passed > PATIENCE:
                pytest.fail(f"was not true within {PATIENCE:g} s: {condition}")
            self.advance(self.lease / 20)
            before, at = at, time.monotonic()
            passed += min(at - before, LONGEST_TURN)

    def expire(self, keeper: Backend, gone: Callable[[], bool], living: Sequence[Backend] = ()) -> None:
        """Run housekeeping, and renew the leases of living owners, until the lease of another owner has expired."""

        def step() -> bool:
            for backend in living:
                backend.heartbeat()
            keeper.housekeep(100)
            return gone()

        self.until(step)

    # -- jobs ------------------------------------------------------------------------------------

    def job(self, payload: bytes = b'{"some":"message"}', topic: str = T, **fields: Any) -> Outgoing:
        return Outgoing(new_id(), topic, payload, **fields)

    def push(self, backend: Backend, *jobs: Outgoing) -> list[str]:
        """Push jobs; return their ids."""
        backend.push(jobs, self.request())
        return [job.id for job in jobs]

    def push_many(self, backend: Backend, count: int, **fields: Any) -> list[str]:
        return self.push(backend, *[self.job(**fields) for _ in range(count)])

    def take(self, backend: Backend, limit: int = 100, topics: Sequence[str] = (T,)) -> list[Delivery]:
        """Reserve all jobs that can be reserved now, after a moment for backends that deliver with a delay."""
        deliveries = backend.reserve(topics, limit, self.request())
        deadline = time.monotonic() + self.hand_out_time
        while len(deliveries) < limit and time.monotonic() < deadline:
            backend.wait(topics, 0.05)
            deliveries += backend.reserve(topics, limit - len(deliveries), self.request())
        return deliveries

    def take_ids(self, backend: Backend, limit: int = 100, topics: Sequence[str] = (T,)) -> list[str]:
        return [delivery.id for delivery in self.take(backend, limit, topics)]

    def take_one(self, backend: Backend, topics: Sequence[str] = (T,)) -> Delivery:
        """Reserve the one job that must exist, waiting for it if it has not arrived yet."""
        found: list[Delivery] = self.until(lambda: backend.reserve(topics, 1, self.request()))
        return found[0]

    def settle(self, backend: Backend, delivery: Delivery, outcome: Outcome, **fields: Any) -> Answer:
        """Settle one delivery in a separate request."""
        return backend.settle([Settlement(delivery.id, delivery.token, outcome, **fields)], self.request())[0]

    def done(self, backend: Backend, *deliveries: Delivery) -> None:
        answers = backend.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], self.request())
        assert answers == [Answer.SETTLED] * len(deliveries)

    def drain(self, backend: Backend, topics: Sequence[str] = (T,)) -> list[str]:
        """Reserve and acknowledge all ready jobs; return ids in order of delivery. Callers wait for delayed jobs first."""
        seen: list[str] = []
        while True:
            deliveries = self.take(backend, 50, topics)
            if not deliveries:
                return seen
            self.done(backend, *deliveries)
            seen += [delivery.id for delivery in deliveries]

    def record(self, backend: Backend, job_id: str) -> JobRecord:
        found = backend.get(job_id)
        assert found is not None, f"{job_id} is unknown"
        return found


class Outage(NamedTuple):
    """A server that can be made unreachable, and reachable again; the fixture `outage` provides it."""

    url: str
    """The URL of an empty store while the server can be reached."""
    begin: Callable[[], object]
    """Reset all connections, and accept no new ones."""
    end: Callable[[], object]
    """Accept connections again."""


class RigCase:
    """The base of all groups of cases, with the fixtures."""

    takes_clock = False
    hands_out_at_once = False

    @pytest.fixture
    def small_url(self) -> str:
        """Return the URL of an empty store that holds fewer than 20,000 jobs of 1,000 bytes.

        Returns "" unless a subclass provides one.
        """
        return ""

    @pytest.fixture
    def shared_url(self, backend_url: str) -> str:
        """Return the URL of the same store without a prefix in it, which would override `BackendOptions.prefix`."""
        return backend_url

    @pytest.fixture
    def unreachable_url(self) -> str:
        """Return a URL of this backend at which no server answers; "" unless a subclass provides one."""
        return ""

    @pytest.fixture
    def outage(self) -> Outage | None:
        """Return an `Outage` of a server of this backend; None unless a subclass provides one."""
        return None

    @pytest.fixture
    def backend_url(self) -> str:
        """Return the URL of an empty store that nothing else uses; every subclass of the contract provides it."""
        raise pytest.UsageError(f"{type(self).__name__} has to define the fixture backend_url")

    @pytest.fixture
    def results_url(self) -> str:
        """Return the URL of a results store, as in `[results] url`; "" unless a subclass provides one."""
        return ""

    @pytest.fixture
    def rig(self, backend_url: str, results_url: str) -> Iterator[Rig]:
        clock = ManualClock() if self.takes_clock else None
        rig = Rig(backend_url, clock, at_once=self.hands_out_at_once, results_url=results_url)
        yield rig
        rig.close()


def retention(keep: float = 30 * 86400.0, most: int = 100_000) -> Callable[[str], Retention]:
    """Return limits on dead letters, the same for every topic."""
    return lambda topic: Retention(keep, most)
