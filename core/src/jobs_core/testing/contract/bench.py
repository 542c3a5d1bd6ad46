"""Figures that can be compared between backends: the cost of calls, and the time from a push to a worker's wake-up."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Any

from ...backends.base import Backend, BackendOptions, Delivery, Outcome, Outgoing, Settlement
from ...backends.flows import After, Member, Part
from ...ids import new_id, new_token
from ...plugins import Plugins
from ...urls import scheme
from .bench_steps import measure_steps
from .stores import fresh

TOPIC = "contract.bench"
PAYLOAD = (
    b'{"v":1,"id":"01920000-0000-7000-8000-000000000000","job":"shop.send_email","topic":"email","args":["a@b.c","hello"]}'
)
JOBS = 20_000
ROUNDS = 3


def measure(url: str, *, large: bool = False) -> list[dict[str, Any]]:
    """Return the figures as dicts with the keys `what`, `figure` and `unit`; each is the median of three rounds.

    With `large`, the longest single calls follow that stores with large flows, many limited jobs and many keys take.
    """
    factory = Plugins.discover().choose("jobs_queue_backends", scheme(url), "URL")
    fresh(url)
    options = BackendOptions(base_dir=Path.cwd())
    producer: Backend = factory(url, options)
    workers: list[Backend] = []
    producer.open(None)

    def connected(owner: str = "") -> Backend:
        workers.append(factory(url, options))
        workers[-1].open(owner or new_token())
        return workers[-1]

    worker = connected()
    try:
        rows = []
        for batch in (1, 10, 100, 500):
            count = JOBS if batch > 1 else 1000
            pushed = [_push(producer, count, batch) for _ in range(1)]
            drained = [_drain(worker, batch)]
            for _ in range(ROUNDS - 1):
                pushed.append(_push(producer, count, batch))
                drained.append(_drain(worker, batch))
            rows.append(_row(f"push, {batch} at a time", count / statistics.median(pushed)))
            rows.append(_row(f"reserve and settle, {batch} at a time", count / statistics.median(drained)))
        delays = sorted(_wake_ups(producer, worker, 200))
        rows.append({"what": "push to waiting worker, median", "figure": round(delays[100] * 1e3, 2), "unit": "ms"})
        rows.append({"what": "push to waiting worker, 99 of 100", "figure": round(delays[197] * 1e3, 2), "unit": "ms"})
        if "flows" in producer.features:
            rows += _flows(producer, worker)
        return rows + (measure_steps(producer, connected) if large else [])
    finally:
        for each in workers:
            each.close()
        producer.close()


def _row(what: str, rate: float) -> dict[str, Any]:
    return {"what": what, "figure": f"{rate:,.0f}", "unit": "jobs/s"}


def _push(backend: Backend, count: int, batch: int) -> float:
    jobs = [Outgoing(new_id(), TOPIC, PAYLOAD) for _ in range(count)]
    begin = time.perf_counter()
    for start in range(0, count, batch):
        backend.push(jobs[start : start + batch], new_token())
    return time.perf_counter() - begin


def _drain(backend: Backend, batch: int) -> float:
    begin = time.perf_counter()
    while True:
        deliveries = backend.reserve([TOPIC], batch, new_token())
        if not deliveries and not backend.wait([TOPIC], 0.05):
            return time.perf_counter() - begin - 0.05
        backend.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())


FLOW = 10_000
"""Members of the flows that are measured."""


def _flows(producer: Backend, worker: Backend) -> list[dict[str, Any]]:
    """Measure a fan-in: a stage of FLOW members, and one that is after it; and one member with FLOW dependents."""
    rows = []
    for what, fan_in in (("fan-in", True), ("fan-out", False)):
        flow, hub = new_id(), new_id()
        ids = [new_id() for _ in range(FLOW)]
        place = Member(flow, "s") if fan_in else Member(flow, "", (After(hub),))
        jobs = [Outgoing(job_id, TOPIC, PAYLOAD, member=place) for job_id in ids]
        last = Outgoing(hub, TOPIC, PAYLOAD, member=Member(flow, "", (After("s", "stage"),) if fan_in else ()))
        jobs = [*jobs, last] if fan_in else [last, *jobs]
        begin = time.perf_counter()
        for number, start in enumerate(range(0, len(jobs), 1000)):
            part = Part(flow, number, last=start + 1000 >= len(jobs))
            producer.push_part(part, jobs[start : start + 1000], new_token())
        pushed = time.perf_counter() - begin
        ended = 0
        begin = time.perf_counter()
        while ended < len(jobs):
            deliveries = worker.reserve([TOPIC], 100, new_token())
            worker.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())
            ended += len(deliveries)
        rows.append(_row(f"{what} of {FLOW:,}, push in parts of 1,000", len(jobs) / pushed))
        rows.append(_row(f"{what} of {FLOW:,}, reserve and settle, 100 at a time", len(jobs) / (time.perf_counter() - begin)))
    return rows


def _wake_ups(producer: Backend, worker: Backend, count: int) -> list[float]:
    delays: list[float] = []
    waiting = threading.Event()
    done = threading.Event()

    def listen() -> None:
        for _ in range(count):
            waiting.set()
            deliveries: list[Delivery] = []
            while not deliveries:
                worker.wait([TOPIC], 5.0)
                deliveries = worker.reserve([TOPIC], 1, new_token())
            delays.append(time.perf_counter() - pushed[0])
            worker.settle([Settlement(d.id, d.token, Outcome.DONE) for d in deliveries], new_token())
            done.set()

    pushed = [0.0]
    thread = threading.Thread(target=listen)
    thread.start()
    for _ in range(count):
        waiting.wait()
        waiting.clear()
        time.sleep(0.005)  # the worker has to be inside its wait, which cannot be observed from outside
        pushed[0] = time.perf_counter()
        producer.push([Outgoing(new_id(), TOPIC, PAYLOAD)], new_token())
        done.wait()
        done.clear()
    thread.join()
    return delays
