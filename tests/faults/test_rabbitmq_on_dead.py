"""`on_dead` of jobs that no worker survives: the follow-up is enqueued, although no run of the job ended."""

import pytest

from ..support.project import TASKS
from ..support.supervised import Supervised

MORE = """
import signal

@job(on_dead="tasks.told", retries=0)
def deadly(text: str):
    record("deadly", text)
    os.kill(os.getpid(), signal.SIGKILL)

@job(on_dead="tasks.told", retries=0)
def failing(text: str):
    raise ValueError(text)

@job
def told(id: str, reason: str, args: list):
    record("told", id, *args, reason)
"""


@pytest.mark.parametrize("backend", ["sqlite", "rabbitmq"])
def test_the_end_of_a_job_that_kills_its_workers_is_followed_up_once(project, request, backend):
    url = "sqlite:///queue.db" if backend == "sqlite" else request.getfixturevalue("rabbitmq_url")
    (project.root / "tasks.py").write_text(TASKS + MORE)
    project.configure("max_redeliveries = 1\n[pools.default]\nworkers = 1", backend=f'backend = "{url}"')
    supervised = Supervised(project)
    job_id = project.push("deadly", "x")
    project.until(lambda: [line for line in project.ledger() if line.startswith(f"told {job_id} x ")])
    project.push("note", "after")
    project.until_noted("note after")
    project.until_empty()
    assert sum(line.startswith("told") for line in project.ledger()) == 1
    assert project.times("deadly x") <= (3 if backend == "sqlite" else 4)  # the broker counts one death later
    assert [letter.id for letter in project.dead()] == [job_id]
    supervised.stop()


@pytest.mark.parametrize("place", ["push.after_commit", "settle.before_commit", "settle.after_commit"])
def test_a_worker_that_dies_between_the_push_of_the_follow_up_and_the_settlement_loses_neither(project, rabbitmq_url, place):
    """RabbitMQ cannot do both in one step: the follow-up may come twice, but is never lost."""
    (project.root / "tasks.py").write_text(TASKS + MORE)
    project.configure(backend=f'backend = "{rabbitmq_url}"')
    job_id = project.push("failing", "x")
    died = project.run("worker", "--drain", JOBS_FAILPOINT=f"{place}=kill")
    assert died.returncode != 0
    project.until(lambda: project.run("worker", "--drain").returncode == 0 and project.dead())
    assert [letter.id for letter in project.dead()] == [job_id]
    assert 1 <= sum(line.startswith(f"told {job_id} x") for line in project.ledger()) <= 2
