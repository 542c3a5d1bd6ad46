"""Deaths of real workers and supervisors: which jobs run again at once, which are charged, and which never wait."""

from __future__ import annotations

import os
import signal
import time

from jobs_core.testing.services import freeze

from ..support.project import TASKS, Project
from ..support.supervised import Supervised, kill

MORE = """
@job(acks="early")
def once(text: str):
    record("once", text, os.getpid())
    while not Path("go on").exists():
        time.sleep(0.01)

@job
async def wait(text: str):
    record("start", text, os.getpid())
    while not Path("go on").exists():
        await asyncio.sleep(0.02)
    record("end", text)
"""


def supervised(project: Project, toml: str) -> Supervised:
    (project.root / "tasks.py").write_text(TASKS + MORE)
    project.configure(toml)
    return Supervised(project)


def record(project: Project, job_id: str):
    return project.app().operate(lambda backend: backend.get(job_id))


def test_after_a_first_crash_all_jobs_rerun_at_once_and_after_a_second_no_other_job_waits(project: Project):
    jobs = 200
    watched = supervised(project, '[pools.default]\nmode = "async"\nconcurrency = 210')
    project.push_many([("wait", (f"w{number}",), {}) for number in range(jobs)])

    def started() -> int:
        return sum(line.startswith("start w") for line in project.ledger())

    project.until(lambda: started() == jobs)
    kill(watched.worker_of("w0"))
    project.until(lambda: started() == 2 * jobs)
    kill(watched.worker_of("w0"))
    project.until(lambda: started() > 2 * jobs)
    for number in range(10):
        project.push("note", f"n{number}")
        project.until_noted(f"note n{number}")
    together = -(-210 // 16)
    project.until(lambda: started() == 2 * jobs + together)
    (project.root / "go on").touch()
    project.until_empty()
    assert started() == 3 * jobs
    assert not project.dead()
    assert watched.stop() == 0


def test_an_early_acknowledged_job_never_reruns_and_a_killed_supervisor_counts_no_crash(project: Project):
    toml = '[pools.default]\nmode = "threads"\nconcurrency = 8'
    watched = supervised(project, toml)
    long = project.push("nap", 600, "long")
    project.push_many([("once", (f"e{number}",), {}) for number in range(4)])

    def of(start: str) -> list[str]:
        return [line for line in project.ledger() if line.startswith(start)]

    project.until(lambda: len(of("once")) == 4 and of("start long"))
    kill(watched.worker_of("long"))
    project.until(lambda: len(of("start long")) == 2)
    for runs in (3, 4):
        project.until(lambda: record(project, long).owner)
        watched.kill()
        watched = Supervised(project)
        project.until(lambda runs=runs: len(of("start long")) == runs)
    seen = record(project, long)
    assert (seen.attempt, seen.redeliveries, seen.crashes) == (0, 1, 0), "its worker died of its own once"
    counts = project.app().operate(lambda backend: backend.counts(["default"]))["default"]
    assert (counts.ready, counts.scheduled, counts.reserved, counts.dead) == (0, 0, 1, 0)
    assert len(of("once")) == 4
    watched.process.signal(signal.SIGQUIT)
    watched.process.wait()


def test_a_machine_that_was_suspended_continues_with_the_same_workers(project: Project):
    watched = supervised(project, 'lease = "2s"\n[pools.default]\nmode = "async"\nconcurrency = 10')
    project.push_many([("wait", (f"w{number}",), {}) for number in range(10)])
    project.until(lambda: sum(line.startswith("start w") for line in project.ledger()) == 10)
    workers = watched.pids()
    everybody = [watched.pid, *watched.children()]
    keeper = watched.until(lambda board: board.backlog and board.supervisor.housekeeper_pid)
    for pid in everybody:
        freeze(pid)
    frozen_at = watched.board().backlog.at
    # Nothing can be waited for while no process runs: long enough for the lease to expire, and for the supervisor to call
    # the workers silent.
    silent = 2.5
    time.sleep(silent)
    for pid in [keeper, watched.pid, *everybody]:  # the supervisor before its workers: it sees them silent
        os.kill(pid, signal.SIGCONT)
    watched.until(lambda board: board.backlog.at > frozen_at + silent + 2.0)
    assert watched.pids() == workers
    (project.root / "go on").touch()
    project.until_empty()
    assert sum(line.startswith("start w") for line in project.ledger()) == 10
    assert watched.stop() == 0
