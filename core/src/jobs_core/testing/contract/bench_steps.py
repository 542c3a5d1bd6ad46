"""The longest single call beside 100,000 limited jobs, 100,000 keys or large flows, and what plain jobs pay for them.

A row per kind of call: its longest, in milliseconds. Of backends that work in the calling thread, it is the CPU time of that
thread, so that a busy machine does not count; of others, the time that passes. The garbage collector of this process is off.
JOBS_BENCH_SIZE=0.1 makes everything ten times smaller.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from ...backends.base import Backend, Delivery, Outcome, Outgoing, Settlement, State
from ...backends.flows import After, Member, Part
from ...backends.limits import Limit, Lines
from ...ids import new_id, new_token

SIZE = float(os.environ.get("JOBS_BENCH_SIZE", "1"))
LIMITED = KEYS = int(100_000 * SIZE)
MILLION = int(1_000_000 * SIZE)
FAN = int(10_000 * SIZE)
BATCH = 100
PLAIN = 5_000
ROUNDS = 7
PAYLOAD = b'{"v":1,"id":"01920000-0000-7000-8000-000000000000","job":"shop.send_email","args":["a@b.c","hello"]}'
TOPIC, BESIDE = "contract.bench.steps", "contract.bench.beside"


def measure_steps(producer: Backend, opened: Callable[[str], Backend]) -> list[dict[str, Any]]:
    """Return rows as `measure` does; `opened` returns a connection of a worker with this owner id."""
    bench = _Bench(producer, opened)
    with _no_collector():
        if {"limits", "fairness"} <= producer.features:
            bench.limited()
            bench.keys()
        if "flows" in producer.features:
            bench.fan(fan_in=True)
            bench.fan(fan_in=False)
            bench.large_flow()
    return bench.rows


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Bench:
    def __init__(self, producer: Backend, opened: Callable[[str], Backend]) -> None:
        self.producer, self.opened, self.worker = producer, opened, opened(new_token())
        self.rows: list[dict[str, Any]] = []
        self._clock = time.thread_time if producer.name in ("memory", "sqlite") else time.perf_counter
        self._longest: dict[str, float] = {}
        self._beside = 0.0

    # -- steps -------------------------------------------------------------------------------------

    def _step(self, what: str, call: Callable[..., Any], *args: Any) -> Any:
        begin = self._clock()
        answer = call(*args)
        took = self._clock() - begin
        self._longest[what] = max(took, self._longest.get(what, 0.0))
        return answer

    def _end(self, what: str) -> None:
        """Add the rows of a scenario, and empty the store."""
        for call, took in self._longest.items():
            self.rows.append({"what": f"{what}: longest {call}", "figure": round(took * 1e3, 1), "unit": "ms"})
        for state in (State.READY, State.DEAD):
            self.producer.purge(TOPIC, state)
        self._keep_house()
        self._longest = {}
        more = (self._beside / self._plain() - 1) * 100
        self.rows.append({"what": f"{what}: plain jobs beside them", "figure": f"{more:+.1f}", "unit": "% time"})

    def _measure_plain(self) -> None:
        self._beside = self._plain()

    def _plain(self) -> float:
        """Return the seconds that plain jobs of another topic take from push to settlement, the best of some rounds."""
        rounds = []
        for _ in range(ROUNDS):
            jobs = [Outgoing(new_id(), BESIDE, PAYLOAD) for _ in range(PLAIN)]
            begin = self._clock()
            for start in range(0, PLAIN, BATCH):
                self.producer.push(jobs[start : start + BATCH], new_token())
            while deliveries := self.worker.reserve([BESIDE], BATCH, new_token()):
                self.worker.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())
            rounds.append(self._clock() - begin)
        return min(rounds)

    def _push(self, count: int, job: Callable[[int], Outgoing], batch: int = 1000) -> None:
        for start in range(0, count, batch):
            jobs = [job(n) for n in range(start, min(start + batch, count))]
            self._step(f"push of {batch:,}", self.producer.push, jobs, new_token())

    def _reserve(self, count: int = BATCH) -> list[Delivery]:
        taken: list[Delivery] = self._step(f"reserve of {count:,}", self.worker.reserve, [TOPIC], count, new_token())
        return taken

    def _settle(self, taken: Sequence[Delivery]) -> None:
        settlements = [Settlement(d.id, d.token, Outcome.DONE) for d in taken]
        self._step("settle of 100", self.worker.settle, settlements, new_token())

    def _keep_house(self) -> None:
        while self._step("housekeep", self.worker.housekeep, 1000).more:
            pass

    def _change(self, limit: str, *concurrencies: int) -> None:
        """Override a limit, and serve jobs after each change."""
        for concurrency in concurrencies:
            self._step("override", self.producer.override_limit, limit, Limit(concurrency=concurrency))
            for _ in range(5):
                self._settle(self._reserve())
            self._keep_house()

    def _lose_owner(self) -> None:
        """Reserve many jobs, and release their owner, as a housekeeper does."""
        owner = new_token()
        lost = self.opened(owner)
        held = lost.reserve([TOPIC], 1000, new_token())
        self._step(f"release_owner with {len(held):,}", self.producer.release_owner, owner, [d.id for d in held[:1]], b"")
        lost.close()

    # -- scenarios ---------------------------------------------------------------------------------

    def limited(self) -> None:
        """LIMITED jobs behind a full limit, in one line and each in its own."""
        for what, value in ((f"{LIMITED:,} jobs behind a full limit", ""), (f"{LIMITED:,} limits of a job each", ":{}")):
            self.producer.override_limit("bench", Limit(concurrency=1))
            held = value.format("held")
            self._push(1, lambda n, limit=f"bench{held}": Outgoing(new_id(), TOPIC, PAYLOAD, limits=(limit,)), 1)  # type: ignore[misc]
            self._reserve(1)
            if value:
                self.producer.override_limit("bench", Limit(concurrency=0))
            self._push(LIMITED, lambda n, v=value: Outgoing(new_id(), TOPIC, PAYLOAD, limits=(f"bench{v.format(n)}",)))  # type: ignore[misc]
            for _ in range(10):
                self._reserve()
            self._change("bench", 10, 0, 2000)
            self._lose_owner()
            self._change("bench", 0, 1)
            self._measure_plain()
            self._step("limits", self.producer.limits, 100)
            self._end(what)
        self.producer.override_limit("bench", None)

    def keys(self) -> None:
        """KEYS keys of a fair topic, of which one has MILLION jobs."""
        self.producer.define_limits({}, {TOPIC: Lines(fair=True)})
        self._push(MILLION, lambda n: Outgoing(new_id(), TOPIC, PAYLOAD, key="large"))
        self._push(KEYS, lambda n: Outgoing(new_id(), TOPIC, PAYLOAD, key=f"key-{n}"))
        for _ in range(20):
            self._settle(self._reserve())
        for rules in (Lines(fair=True, max_per_key=1), Lines(), Lines(fair=True)):
            self._step("define_limits", self.producer.define_limits, {}, {TOPIC: rules})
            for _ in range(5):
                self._settle(self._reserve())
        self._lose_owner()
        self._measure_plain()
        self._end(f"{KEYS:,} keys, one with {MILLION:,} jobs")
        self.producer.define_limits({}, {TOPIC: Lines()})

    def _push_flow(self, flow: str, jobs: Iterator[Outgoing], count: int) -> None:
        for number, start in enumerate(range(0, count, 1000)):
            part = list(islice(jobs, 1000))
            last = start + 1000 >= count
            self._step("push_part of 1,000", self.producer.push_part, Part(flow, number, last), part, new_token())

    def fan(self, *, fan_in: bool) -> None:
        """A stage of FAN members and one that is after it, or one member with FAN dependents."""
        flow, hub = new_id(), new_id()
        place = Member(flow, "s") if fan_in else Member(flow, "", (After(hub),))
        jobs = [Outgoing(new_id(), TOPIC, PAYLOAD, member=place) for _ in range(FAN)]
        one = Outgoing(hub, TOPIC, PAYLOAD, member=Member(flow, "", (After("s", "stage"),) if fan_in else ()))
        self._push_flow(flow, iter([*jobs, one] if fan_in else [one, *jobs]), FAN + 1)
        self._measure_plain()
        ended = 0
        while ended <= FAN:
            taken = self._reserve()
            self._settle(taken)
            ended += len(taken)
        self._end(f"{'fan-in' if fan_in else 'fan-out'} of {FAN:,}")

    def large_flow(self) -> None:
        """A flow of MILLION members that is served for a while, and cancelled."""
        flow = new_id()
        jobs = (Outgoing(new_id(), TOPIC, PAYLOAD, member=Member(flow, f"s{n % 100}")) for n in range(MILLION))
        self._push_flow(flow, jobs, MILLION)
        for _ in range(50):
            self._settle(self._reserve())
        self._lose_owner()
        self._keep_house()  # until all members are ready: whoever reserves or settles does a part of it
        self._measure_plain()
        self._step("flow", self.producer.flow, flow)
        self._step("cancel_flow", self.producer.cancel_flow, flow)
        self._keep_house()
        self._end(f"flow of {MILLION:,}")


__all__ = ["measure_steps"]
