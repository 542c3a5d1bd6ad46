"""Faults of a PostgreSQL server, of its connections and of the workers, while jobs run.

The same rows with 100,000 jobs each are `make torture`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psycopg
import pytest

from jobs_core.testing.services.postgres import PostgresServer

from ..support.supervised import Supervised
from ..torture import postgres as rows
from ..torture import postgres_started as started
from ..torture.stage import endure

pytestmark = pytest.mark.timeout(300)  # thousands of jobs through faults: slow on a busy machine

JOBS = 5000
HOUR = 3600


def test_nothing_is_lost_by_whatever_happens_to_server_connections_and_workers(tmp_path):
    endure(rows.everything_in_turn, tmp_path, JOBS)


def test_nothing_is_lost_by_what_operators_and_clocks_do_to_a_server(tmp_path):
    endure(started.by_hand, tmp_path, JOBS)


@pytest.mark.skipif(os.geteuid() != 0, reason=started.ROOT_ALONE)
def test_nothing_is_lost_or_stored_twice_when_the_disk_of_the_log_is_full(tmp_path):
    endure(started.log_on_a_full_disk, tmp_path, JOBS // 2)


def test_a_failover_to_a_synchronous_standby_loses_nothing_and_check_reports_an_old_primary_that_returns(tmp_path):
    with started.failover(tmp_path, JOBS) as (stage, trouble):
        tally = stage.run(trouble, JOBS)
        assert (tally.attempted, tally.lost, tally.unexpected) == (JOBS, 0, 0), f"{tally}\n{stage.workers[0].output}"
        assert "accept writes" not in stage.project.here("check", code=None)
        stage.old_primary.start()
        assert "both accept writes: one is an old primary that has returned" in stage.project.here("check", code=None)


def test_a_jump_of_the_servers_clock_expires_no_live_lease_and_dead_workers_are_found(project):
    with started.readable_clock() as clock, PostgresServer(environment=clock.environment) as server:
        project.configure('lease = "2s"', backend=f'backend = "{server.url}"')
        workers = [project.worker() for _ in range(2)]
        for jump in (HOUR, 0):
            names = [f"one-{jump}", f"two-{jump}"]
            project.push_many([("nap", (4.0, name), {}) for name in names])
            project.until(lambda names=names: all(starts_of(project, name) for name in names))
            clock.move(jump)
            project.until_noted(*[f"end {name}" for name in names])
            assert [len(starts_of(project, name)) for name in names] == [1, 1]
        project.push("nap", 2.0, "again")
        (pid,) = project.until(lambda: starts_of(project, "again"))
        (victim,) = (worker for worker in workers if worker.pid == pid)
        victim.kill()
        project.until(lambda: len(starts_of(project, "again")) == 2)
        project.until_noted("end again")


def starts_of(project, name):
    """Return the processes that have started a job of this name."""
    return [int(line.split()[2]) for line in project.ledger() if line.startswith(f"start {name} ")]


def cpu_seconds(supervisor):
    fields = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in (supervisor.pid, *supervisor.children())
    ]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def test_dropped_or_emptied_tables_are_reported_without_a_spin_and_jobs_run_once_there_are_tables_again(project):
    with PostgresServer() as server, psycopg.connect(server.url, autocommit=True) as operator:
        project.configure("pools.default.workers = 2", backend=f'backend = "{server.url}"')
        supervisor = Supervised(project)
        operator.execute("SET deadlock_timeout = '60s'")  # of two sessions that wait for each other, a worker's gives way
        operator.execute("DROP SCHEMA jobs CASCADE")
        supervisor.process.until_said(
            "the tables of jobs are missing: run `jobsctl setup`", times=3
        )  # two workers, a housekeeper
        used = cpu_seconds(supervisor)
        time.sleep(2.0)  # in which a process that spins uses the CPU
        assert cpu_seconds(supervisor) - used < 1.0
        assert "the backend is set up" in project.here("setup")
        project.push("note", "after the drop")
        project.until_noted("note after the drop")
        tables = operator.execute("SELECT string_agg('jobs.' || tablename, ', ') FROM pg_tables WHERE schemaname = 'jobs'")
        operator.execute(f"TRUNCATE {tables.fetchone()[0]}".encode())
        supervisor.process.until_said("were emptied, by hand or by another program: the jobs in them are lost")
        project.push("note", "after the truncation")
        project.until_noted("note after the truncation")
        assert supervisor.stop() == 0


def test_nothing_is_lost_by_what_happens_to_a_proxy_that_pools_transactions(tmp_path):
    endure(rows.bouncer_restarted, tmp_path, JOBS)


def test_a_supervisor_with_its_defaults_runs_and_stops_gracefully(project):
    with PostgresServer() as server:
        project.configure(backend=f'backend = "{server.url}"')
        supervisor = Supervised(project)
        project.push_many([("note", (str(n),), {}) for n in range(2000)])
        project.until(lambda: len(project.ledger()) >= 500)
        assert supervisor.stop() == 0
        left = project.app().operate(lambda backend: backend.counts(["default"]))["default"]
        assert (left.reserved, left.dead) == (0, 0)
        assert left.ready + len(set(project.ledger())) == 2000
