"""A job that returns at once instead of doing its work is seen in the log, in the metrics and by people."""

from __future__ import annotations

from jobs_core.supervisor.http.metrics import exposition

from ..support.project import Project
from ..support.receiver import Receiver
from ..support.supervised import Supervised

TASKS = """
import time
from jobs_core import job

@job(min_time="1s")
def hollow():
    pass

@job(min_time="10ms")
def honest():
    time.sleep(0.02)

@job(min_time="1s", retries=0)
def failing():
    raise ValueError
"""


def test_runs_that_end_too_soon_are_reported_in_log_metrics_and_alerts(tmp_path):
    receiver = Receiver()
    project = Project(tmp_path / "project", TASKS)
    project.configure(f'[alerts.channels]\nwebhook = {{ url = "{receiver.url}" }}')
    for name in ("hollow", "hollow", "honest", "failing"):
        project.push(name)
    supervised = Supervised(project, no_proxy="*")
    line = supervised.process.until_said("sooner than its min_time of 1s, so it may not have done its work")
    assert "tasks.hollow" in line
    project.until_empty()
    alert = receiver.until(1)[0]
    assert (alert["kind"], alert["job"], alert["topic"], alert["min_time"]) == ("too_fast", "tasks.hollow", "default", 1.0)
    assert alert["title"] == "jobs: tasks.hollow finishes suspiciously fast"
    wanted = {"tasks.hollow": 2, "tasks.honest": 0, "tasks.failing": 0}
    supervised.until(lambda board: {row.job: row.too_fast for row in board.figures()} == wanted)  # which workers publish later
    said = exposition(supervised.board(), lease=30.0, openmetrics=True)
    assert 'jobs_too_fast_total{topic="default",job="tasks.hollow"} 2' in said
    supervised.stop()
    assert len(receiver.bodies) == 1
    receiver.close()
    project.close()
