"""Workers that stop with many jobs reserved: released jobs are as if they had never been reserved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from ...backends.base import Backend, Delivery, Outcome, Settlement
from ...ids import new_token
from .rig import Rig, RigCase, T

BATCH = 100
WORKERS = 3


class Leaving(RigCase):
    """A graceful stop runs no job twice, and counts no attempt, redelivery or crash (promise 3), however short the jobs."""

    @pytest.mark.parametrize("way", ["release and close", "close", "close and open"])
    def test_what_a_worker_of_short_jobs_gives_back_is_as_new(self, rig: Rig, way: str) -> None:
        worker = rig.worker()
        ids = rig.push_many(rig.producer(), 8 * BATCH)
        ran = _run(rig, worker, 3)
        held = rig.take(worker, BATCH)
        if way == "release and close":
            _release(rig, worker, held)
        worker.close()
        if way == "close and open":
            worker.open(new_token())
        else:
            worker = rig.worker()
        _everything_ran_once(ids, ran, _rest(rig, worker, len(ids) - len(ran)))

    def test_workers_that_leave_at_once_and_others_that_come_run_every_job_once(self, rig: Rig) -> None:
        ids = rig.push_many(rig.producer(), 12 * BATCH)
        ran: list[Delivery] = []
        for _ in range(3):
            with ThreadPoolExecutor(WORKERS) as pool:
                for part in pool.map(lambda worker: _serve(rig, worker), [rig.worker() for _ in range(WORKERS)]):
                    ran += part
        _everything_ran_once(ids, ran, _rest(rig, rig.worker(), len(ids) - len(ran)))

    def test_a_worker_that_knows_its_last_job_leaves_the_others_alone(self, rig: Rig) -> None:
        leaving, other = rig.worker(), rig.worker()
        leaving.expect(2 * BATCH)
        ids = rig.push_many(rig.producer(), 6 * BATCH)
        ran = _run(rig, leaving, 1)
        held = rig.take(leaving, BATCH)
        rest = _rest(rig, other, len(ids) - len(ran) - len(held))
        rig.done(leaving, *held)
        leaving.close()
        _everything_ran_once(ids, [*ran, *held], rest)


def _run(rig: Rig, worker: Backend, batches: int) -> list[Delivery]:
    """Reserve and settle jobs without running anything, as fast as possible."""
    ran: list[Delivery] = []
    for _ in range(batches):
        deliveries = rig.take(worker, BATCH)
        if deliveries:
            rig.done(worker, *deliveries)
            ran += deliveries
    return ran


def _serve(rig: Rig, worker: Backend) -> list[Delivery]:
    """Act as a short-lived worker: settle some batches, and release the last one."""
    ran = _run(rig, worker, 1)
    _release(rig, worker, rig.take(worker, BATCH))
    worker.close()
    return ran


def _release(rig: Rig, worker: Backend, deliveries: Sequence[Delivery]) -> None:
    worker.settle([Settlement(d.id, d.token, Outcome.RELEASE) for d in deliveries], rig.request())


def _rest(rig: Rig, worker: Backend, count: int) -> list[Delivery]:
    """Run the given number of jobs, which have to arrive, and any that arrive beyond them."""
    ran: list[Delivery] = []

    def complete() -> bool:
        worker.wait([T], 0.05)
        worker.heartbeat()
        ran.extend(_run(rig, worker, 1))
        return len(ran) >= count

    rig.until(complete)
    return ran + _run(rig, worker, 1)


def _everything_ran_once(ids: Sequence[str], before: Sequence[Delivery], after: Sequence[Delivery]) -> None:
    deliveries = [*before, *after]
    assert Counter(delivery.id for delivery in deliveries) == Counter(ids)
    assert {(d.attempt, d.redeliveries, d.crashes, d.deferrals) for d in deliveries} == {(0, 0, 0, 0)}
