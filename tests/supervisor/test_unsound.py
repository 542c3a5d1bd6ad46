"""Jobs that leave their process unfit for work: they are charged, and their pools continue."""

from __future__ import annotations

import pytest

from jobs_core.scoreboard.layout import Phase

from ..support.project import TASKS, Project
from ..support.supervised import Supervised

SPOILS = """
import resource

HOW = {
    "its descriptors": lambda: os.closerange(3, 4096),
    "the size of its files": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
}

@job(retries=0)
def spoil(what: str):
    HOW[what]()

@job(retries=0)
async def aspoil(what: str):
    HOW[what]()
"""
LOSES = """
@job
def lose():
    from jobs_core.backends.sqlite import connection
    from jobs_core.errors import BackendUnavailable
    def nothing(*_):
        raise BackendUnavailable("nothing works here any more")
    record("lose")
    connection.Connection.begin = nothing
"""
POOLS = """
lease = 3
max_redeliveries = 1
[pools.sync]
topics = ["sync"]
[pools.threads]
topics = ["threads"]
mode = "threads"
[pools.async]
topics = ["async"]
mode = "async"
"""


@pytest.mark.parametrize("what", ["its descriptors", "the size of its files"])
def test_a_job_that_spoils_its_process_is_charged_and_its_pool_serves_on(project: Project, what: str):
    (project.root / "tasks.py").write_text(TASKS + SPOILS)
    project.configure(POOLS)
    watched = Supervised(project)
    pools = "sync", "threads", "async"
    for pool in pools:
        project.push("aspoil" if pool == "async" else "spoil", what, topic=pool)
    for pool in pools:
        (dead,) = project.until(lambda pool=pool: project.dead(pool))
        assert dead.reason == "crashed"
        project.push("note", pool, topic=pool)
    project.until_noted(*(f"note {pool}" for pool in pools))
    assert watched.stop() == 0


def test_a_worker_that_alone_reaches_no_backend_is_shown_and_replaced_before_its_jobs_run_elsewhere(project: Project):
    """Not everything that a job can do to its process is foreseen: here it breaks what the backend uses."""
    (project.root / "tasks.py").write_text(TASKS + LOSES)
    project.configure("lease = 3\nmax_redeliveries = 1")
    watched = Supervised(project)
    project.push("lose")
    watched.until(lambda board: any(view.header.phase == Phase.OFFLINE for view in board.workers))
    watched.process.until_said("it has not reached the backend, although others have")
    (dead,) = project.until(project.dead)
    assert (dead.reason, project.times("lose")) == ("crashed", 1)
    project.push("note")
    project.until_noted("note x")
    assert watched.stop() == 0
