"""Processes that die at every boundary of push, reserve, heartbeat and settle."""

from __future__ import annotations

import pytest

from ...failpoints import parse
from .concurrency import start_child
from .rig import PATIENCE, Rig, RigCase

BOUNDARIES = [
    f"{operation}.{moment}"
    for operation in ("push", "reserve", "heartbeat", "settle")
    for moment in ("before_commit", "after_commit")
]


class Crashes(RigCase):
    """A dead process loses no job, and causes no settled job to run again."""

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_a_process_killed_at_a_boundary_loses_nothing(self, rig: Rig, boundary: str) -> None:
        if not rig.has("multiprocess"):
            return  # the store is in memory, so it would be lost with the process
        producer, survivor = rig.producer(), rig.worker()
        (waiting,) = rig.push_many(producer, 1, priority=9)
        operation, _, moment = boundary.partition(".")
        second = rig.results_url and operation in ("push", "settle")  # the results store is the first to reach it
        child = start_child(rig, "victim", "the-victim", failpoint=f"{boundary}={'kill@2' if second else 'kill'}")
        output, _ = child.communicate(timeout=3 * PATIENCE)
        assert child.returncode == -9, f"the backend does not pass the fail point {boundary}: {output}"
        assert output.split()[-1] == operation
        survivor.release_owner("the-victim", {waiting}, b"")
        settled = boundary == "settle.after_commit"
        pushed = operation != "push" or moment == "after_commit"
        expected = set() if settled else {waiting}
        seen: set[str] = set()

        def complete() -> bool:
            seen.update(rig.drain(survivor))
            survivor.heartbeat()
            survivor.housekeep(100)
            return expected <= {job_id for job_id in seen if job_id == waiting}

        rig.until(complete)
        assert (waiting in seen) == (not settled)
        assert len(seen - {waiting}) == int(pushed)

    def test_fail_points_cost_nothing_when_unset(self) -> None:
        assert parse("").__name__ == "_none"
