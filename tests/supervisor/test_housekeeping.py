"""Schedule and alerts of `jobsctl start`: real processes, a real clock, a real receiver."""

from __future__ import annotations

from collections import Counter

import pytest

from ..support.project import TASKS, Project
from ..support.receiver import Receiver
from ..support.supervised import Supervised

TICKING = (
    TASKS
    + """
@job
def tick():
    record("tick", f"{current_job().headers['tick']:.0f}")
"""
)

EVERY_SECOND = """
[schedule.often]
job = "tasks.tick"
every = 1
"""


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def test_two_machines_run_each_tick_once(project: Project):
    (project.root / "tasks.py").write_text(TICKING)
    project.configure(EVERY_SECOND)
    one = Supervised(project)
    other = project.start("start", JOBS_RUN_DIR=".jobs-other")
    other.until_said(" ready: ")
    project.until(lambda: len(project.ledger()) >= 6)
    assert other.stop() == 0
    assert one.stop() == 0
    assert max(Counter(project.ledger()).values()) == 1


def test_the_schedule_continues_after_its_supervisor_was_killed(project: Project):
    (project.root / "tasks.py").write_text(TICKING)
    project.configure(EVERY_SECOND)
    supervised = Supervised(project)
    project.until(lambda: len(project.ledger()) >= 2)
    supervised.kill()
    again = Supervised(project)
    seen = len(project.ledger())
    project.until(lambda: len(project.ledger()) >= seen + 2)
    again.stop()
    assert max(Counter(project.ledger()).values()) == 1


def test_a_wrong_schedule_or_alert_channel_stops_the_start_and_names_itself(project: Project):
    project.configure('[schedule.bad]\njob = "tasks.noet"\nevery = 60')
    done = project.run("start")
    assert done.returncode != 0
    assert (
        "schedule.bad: job: no job named 'tasks.noet' is registered here; the nearest names are tasks.note"
        in done.stdout + done.stderr
    )
    project.configure('[alerts.channels]\nslack = { url = "ftp://x/" }')
    done = project.run("start")
    assert done.returncode != 0
    assert "alerts.channels.slack: url: expected an address" in done.stdout + done.stderr


def test_a_backlog_and_its_end_are_reported(project: Project, receiver: Receiver):
    project.configure(
        f'[topics.nobodys]\nserve = false\nalert_above = 5\n[alerts]\nafter = "1s"\n'
        f'[alerts.channels]\nwebhook = {{ url = "{receiver.url}" }}'
    )
    supervised = Supervised(project, no_proxy="*")
    project.push_many([("note", ("x",), {"topic": "nobodys"}) for _ in range(6)])
    told = receiver.until(1)[0]
    assert (told["kind"], told["topic"], told["ready"], told["alert_above"]) == ("backlog", "nobodys", 6, 5)
    assert told["seconds"] >= 1
    supervised.process.until_said("topic nobodys has been behind for ")
    project.run("purge", "nobodys", "--yes")
    over = receiver.until(2)[1]
    assert (over["kind"], over["topic"], over["ready"]) == ("over", "nobodys", 0)
    supervised.stop()
    assert len(receiver.bodies) == 2


def test_a_channel_that_hangs_holds_up_neither_housekeeping_nor_the_stop(project: Project, receiver: Receiver):
    receiver.hang.clear()
    project.configure(
        f"[topics.nobodys]\nalert_above = 5\n[alerts]\nafter = 0\nrepeat = 0\n"
        f'[alerts.channels]\nwebhook = {{ url = "{receiver.url}" }}\n{EVERY_SECOND}'
    )
    (project.root / "tasks.py").write_text(TICKING)
    supervised = Supervised(project, no_proxy="*")
    project.push_many([("note", ("x",), {"topic": "nobodys"}) for _ in range(6)])
    receiver.until(1)
    seen = len(project.ledger())
    project.until(lambda: len(project.ledger()) >= seen + 3)
    assert len(receiver.bodies) == 1
    assert supervised.stop() == 0
