"""Faults of a PostgreSQL server, of its connections and of the workers, while jobs run.

The same rows with 100,000 jobs each are `make torture`.
"""

from __future__ import annotations

import pytest

from jobs_core.testing.services.postgres import PostgresServer

from ..support.supervised import Supervised
from ..torture import postgres as rows
from ..torture.stage import endure

pytestmark = pytest.mark.timeout(300)  # thousands of jobs through faults: slow on a busy machine

JOBS = 5000


def test_nothing_is_lost_by_whatever_happens_to_server_connections_and_workers(tmp_path):
    endure(rows.everything_in_turn, tmp_path, JOBS)


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
