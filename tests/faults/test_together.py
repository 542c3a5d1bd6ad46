"""Limits and flows on two supervised machines while workers, housekeepers, supervisors and brokers are killed.

The same rows with 100,000 jobs each are `make torture`.
"""

from __future__ import annotations

import pytest

from jobs_core.backends.flows import FlowStatus
from jobs_core.backends.sqlite.backend import SqliteBackend
from jobs_postgres.backend import PostgresBackend
from jobs_redis.backend import RedisBackend
from jobs_zeromq.backend import ZeromqBackend

from ..torture import flows, limits, postgres, redis, sqlite, zeromq
from ..torture.stage import endure
from ..torture.supervised import Run, unexplained

SET_UPS = {
    "sqlite": (sqlite.supervised, SqliteBackend),
    "redis": (redis.supervised, RedisBackend),
    "zeromq": (zeromq.supervised, ZeromqBackend),
    "postgres": (postgres.supervised, PostgresBackend),
}


def on(feature: str) -> pytest.MarkDecorator:
    """Return the parameters of a test that runs on each backend with a feature."""
    return pytest.mark.parametrize(
        "set_up", [pytest.param(set_up, id=name) for name, (set_up, backend) in SET_UPS.items() if feature in backend.features]
    )


@on("limits")
def test_no_limit_is_exceeded_and_no_slot_is_lost_whatever_is_killed(tmp_path, set_up):
    endure(limits.short_row(set_up), tmp_path, 3000)


@on("flows")
def test_no_member_is_lost_or_early_and_each_flow_ends_once_whatever_is_killed(tmp_path, set_up):
    endure(flows.short_row(set_up), tmp_path, 2000)


# -- the checks themselves -------------------------------------------------------------------------


def run_of(job_id: str, pid: int, start: float) -> Run:
    return Run(["start", job_id, f"token-{start}", f"{pid}", f"{start}", "0"], None, {})


@pytest.mark.parametrize(
    ("runs", "broker_deaths", "unexplained_jobs"),
    [
        ([run_of("a", 1, 1), run_of("b", 2, 2)], [], 0),
        ([run_of("a", 1, 1), run_of("a", 2, 2)], [], 0),  # 1 has died
        ([run_of("a", 1, 1), run_of("a", 2, 2), run_of("b", 1, 3)], [], 1),
        ([run_of("a", 1, 1), run_of("a", 1, 2)], [], 1),
        ([run_of("a", 1, 1), run_of("a", 1, 2)], [(1.4, 1.6)], 0),
        ([run_of("a", 1, 1), run_of("a", 1, 2)], [(2.4, 2.6)], 1),
        ([run_of("a", 1, 9), run_of("a", 1, 9.2)], [(5, 9.1)], 0),
        ([run_of("a", 1, 9), run_of("a", 1, 9.2)], [(5, 7)], 1),
    ],
    ids=[
        "once", "after a death", "of a worker that lives", "of the same worker", "broker died", "broker died later",
        "while the broker was killed", "long after the broker died",
    ],
)  # fmt: skip
def test_the_check_sees_jobs_that_ran_again_without_a_cause(runs, broker_deaths, unexplained_jobs):
    assert len([*unexplained(runs, broker_deaths)]) == unexplained_jobs


def ran(job_id: str, start: float, end: float | None, *facts: str, reserved: float = 0.0) -> Run:
    who = [job_id, f"token-{start}", "4711"]
    ended = None if end is None else ["end", *who, str(end)]
    return Run(["start", *who, str(start), str(reserved or start), *facts], ended, {})


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([ran("a", 1, 2, "one:0"), ran("b", 2, 3, "one:0")], []),
        ([ran("a", 1, 3, "one:0"), ran("b", 2, 4, "one:0")], ["one:0: 2 at once"]),
        ([ran(f"{n}", n, n + 1, "rate:0", reserved=0.1 * n) for n in range(1, 9)], []),
        (
            [ran(f"{n}", n, n + 1, "rate:0", reserved=1.0) for n in range(1, 8)],
            ["rate:0: a job was reserved 0.4000 s too early"],
        ),
    ],
    ids=["in turn", "two at once", "at its rate", "twice the burst and one"],
)
def test_the_check_of_limits_sees_what_exceeds_them(runs, said):
    assert [*limits.exceeded(runs)] == said


def flow_of(**changes: list[Run]) -> dict[str, list[Run]]:
    """Return the runs of a flow that keeps every promise, with changes."""
    times = {"first": 1, "one": 2, "two": 2, "adder": 2, "shaky": 2, "x": 3, "y": 3, "join": 4, "last": 5, "finale": 6}
    return {job_id: [ran(job_id, at, at + 0.5)] for job_id, at in times.items()} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"adder": [ran("adder", 1.8, None), ran("adder", 2, 2.5)]}, ""),
        ({"join": [ran("join", 2.1, 2.5)]}, "join started before one"),
        ({"y": [ran("y", 3, 5)]}, "join started before y"),
        ({"one": [ran("one", 2, 2.5), ran("one", 4.5, 4.8)]}, "one started again after join"),
        ({"last": []}, "never ran to the end"),
        ({"last": [ran("last", 5, None)]}, "never ran to the end"),
        ({"finale": [ran("finale", 5.2, 5.4)]}, "finale started before last"),
        ({"finale": [ran("finale", 6, 6.5, reserved=8.0)]}, "ended before its finale"),
    ],
    ids=["kept", "killed once", "too early", "before an addition", "twice", "lost", "cut off", "early finale", "early end"],
)
def test_the_check_of_flows_sees_what_breaks_them(changes, said):
    members = ["first", "one", "two", "adder", "shaky", "join", "last", "finale"]
    status = FlowStatus("f", "done", total=10, done=10, ended_at=7.0)
    runs = {job_id: those for job_id, those in flow_of(**changes).items() if those}
    problems = [*flows._problems(members, {"adder": ["x", "y"]}, runs, status)]
    assert bool(problems) == bool(said)
    assert said in " ".join(problems)
