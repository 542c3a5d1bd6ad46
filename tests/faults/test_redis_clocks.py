"""Wrong or jumping wall clocks: a producer's and a worker's are harmless, the server's costs no worker its lease."""

from __future__ import annotations

from collections import Counter

import pytest

from jobs_core.testing.services.redis import RedisServer

from ..support.clock import Clock

HOUR = 3600
LEASE = 2.0


def configured(project, server):
    project.configure(f'lease = "{LEASE:g}s"', backend=f'backend = "redis://127.0.0.1:{server.port}"')
    return project


def starts(project):
    return Counter(line.split()[1] for line in project.ledger() if line.startswith("start"))


@pytest.mark.parametrize("error", [HOUR, -HOUR])
def test_a_wrong_clock_of_producer_and_worker_harms_nothing(project, tmp_path, error):
    clock = Clock(tmp_path, error)
    with RedisServer(tmp_path / "redis") as server:
        configured(project, server)
        worker = project.worker(**clock.environment)
        # Neither has expired, and the first is not due yet, by any clock that counts.
        for text, delay in (("at once", 0.0), ("later", 1.0)):
            enqueue = f"import tasks; tasks.note.using(expires=60, delay={delay}).enqueue({text!r})"
            project.start_python("-c", enqueue, **clock.environment)
        project.until_noted("note at once", "note later")
        project.push("nap", 2 * LEASE, "across")
        project.until(lambda: starts(project)["across"])
        clock.move(-error)  # while a job runs
        project.push("note", "after")
        project.until_noted("end across", "note after")
        project.until_empty()
        assert project.dead() == []
        assert starts(project) == {"across": 1}
        assert "as well" not in worker.output
        assert worker.stop() == 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_of_the_servers_clock_expires_no_live_lease_and_dead_workers_are_found(project, tmp_path, jump):
    clock = Clock(tmp_path)
    with RedisServer(tmp_path / "redis", environment=clock.environment) as server:
        configured(project, server)
        workers = [project.worker() for _ in range(2)]
        project.push("note", "in half an hour", delay=HOUR / 2)
        for text in ("one", "two"):
            project.push("nap", 2 * LEASE, text)
        project.until(lambda: len(starts(project)) == 2)
        clock.move(jump)
        project.until_noted("end one", "end two")
        assert starts(project) == {"one": 1, "two": 1}
        assert not any("another worker is running" in worker.output or "continuing as" in worker.output for worker in workers)
        project.push("note", "after")
        project.until_noted("note after")
        # The server's clock decides what is due.
        assert ("note in half an hour" in project.ledger()) == (jump > 0)
        project.push("nap", LEASE, "again")
        project.until(lambda: starts(project)["again"])
        pid = next(line for line in project.ledger() if line.startswith("start again")).split()[2]
        (victim,) = (worker for worker in workers if str(worker.pid) == pid)
        victim.kill()
        project.until(lambda: starts(project)["again"] == 2)
        project.until_noted("end again")
