"""Real workers inject values, and end those that they keep."""

from __future__ import annotations

import pytest

from ..support.project import Project

TASKS = """
import asyncio, os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from jobs_core import Injected, injected, job, provides

LEDGER = os.open(Path(__file__).parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(*what):
    os.write(LEDGER, (" ".join(map(str, what)) + "\\n").encode())

class Engine: ...
class Session: ...
class Client: ...

@provides(scope="worker")
def engine() -> Iterator[Engine]:
    record("engine begins")
    yield Engine()
    record("engine ends")

@provides
def session(engine: Injected[Engine]) -> Iterator[Session]:
    try:
        yield Session()
    except BaseException as error:
        record("session", type(error).__name__)
        raise
    record("session ends")

@provides(scope="worker")
async def client() -> AsyncIterator[Client]:
    task = asyncio.current_task()
    record("client begins")
    yield Client()
    record("client ends", asyncio.current_task() is task)

@job
def plain(*, session: Injected[Session] = injected):
    record("plain", type(session).__name__)

@job(timeout=0.3, retries=0)
def slow(*, session: Injected[Session] = injected):
    import time
    while True:
        time.sleep(0.01)

@job
async def asynchronous(*, session: Injected[Session] = injected, client: Injected[Client] = injected):
    await asyncio.sleep(0.01)
    record("async", type(session).__name__, type(client).__name__)
"""


@pytest.mark.parametrize("mode", ["sync", "threads", "async"])
def test_each_run_gets_its_values_and_the_workers_end_with_it(tmp_path, mode):
    project = Project(tmp_path / "project", TASKS)
    for name in ("plain", "asynchronous", "asynchronous", "plain"):
        project.push(name)
    done = project.run("worker", "--mode", mode, "--concurrency", "2", "--drain")
    assert done.returncode == 0, done.stderr
    ledger = project.ledger()
    assert project.times("plain Session") == project.times("async Session Client") == 2, done.stderr
    assert project.times("session ends") == 4
    assert project.times("engine begins") == project.times("engine ends") == 1
    assert ledger[-1].startswith(("engine ends", "client ends"))
    clients = 1 if mode == "async" else 2  # where jobs share no event loop, each run has its own
    assert project.times("client begins") == project.times("client ends True") == clients
    assert project.dead() == []
    project.close()


def test_a_timeout_reaches_the_provider_of_the_run(tmp_path):
    project = Project(tmp_path / "project", TASKS)
    project.push("slow")
    done = project.run("worker", "--drain")
    assert project.times("session JobTimeout") == 1, done.stderr
    assert [record.reason for record in project.dead()] == ["timeout"]
    project.close()


def test_check_and_workers_name_the_provider_that_is_missing(tmp_path):
    project = Project(tmp_path / "project", TASKS.replace("@provides\ndef session", "def session"))
    for command in (("check",), ("worker", "--drain")):
        done = project.run(*command)
        assert done.returncode != 0
        assert "tasks.plain: parameter 'session': no provider returns tasks.Session" in done.stdout + done.stderr
    project.close()
