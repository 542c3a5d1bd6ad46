"""Flows as metrics: bounded labels, and neither pools nor alerts count waiting members."""

import time

from jobs_core.backends.base import Counts
from jobs_core.backends.flows import FlowStatus
from jobs_core.scoreboard.state import Backlog, Board, TopicState, Totals
from jobs_core.supervisor.housekeeper.flows import members_by_state
from jobs_core.supervisor.http.metrics import exposition

FLOWS = [
    FlowStatus("a", "failed", total=6, waiting=1, active=2, done=1, dead=1, cancelled=1),
    FlowStatus("b", "running", total=4, waiting=3, active=1),
    FlowStatus("c", "open", total=5, waiting=5),
    FlowStatus("d", "done", total=9, done=9),
    FlowStatus("e", "cancelled", total=9, cancelled=9),
]


def text(**facts):
    backlog = Backlog(at=time.time(), pid=1, topics={"t": TopicState(ready=1, members=7)}, **facts)
    return exposition(Board(supervisor=None, backlog=backlog, totals=Totals(), workers=[]), lease=30, openmetrics=True)


def test_members_of_flows_that_have_not_ended_are_a_metric():
    shown = text(flows=members_by_state(FLOWS))
    for state, number in {"waiting": 9, "active": 3, "done": 1, "dead": 1, "cancelled": 1}.items():
        assert f'jobs_flow_jobs{{state="{state}"}} {number}' in shown
    assert shown.count("jobs_flow_jobs{") == 5


def test_a_backend_without_flows_has_no_such_metric():
    assert "jobs_flow_jobs" not in text()


def test_waiting_members_are_no_backlog():
    assert TopicState(ready=1, members=7).waiting == 1
    assert Counts(waiting=7).ready == 0
