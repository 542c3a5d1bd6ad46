"""The contract on RabbitMQ with results in SQLite beside it, without order, waiting and concurrency, in which the store
beside it has no part; and with Redis and PostgreSQL, cases that the store is for.

The whole contract with all stores, and on classic queues, is in whole_contract.py, `make contract-rabbitmq`.
"""

import json

import psycopg
import pytest
from tests.support.project import Project, until

from jobs_core.backends.base import State
from jobs_core.testing.contract.checkpoints import Checkpoints
from jobs_core.testing.contract.crashes import Crashes
from jobs_core.testing.contract.documents import DocumentCases
from jobs_core.testing.contract.leases import Leases
from jobs_core.testing.contract.leaving import Leaving
from jobs_core.testing.contract.machine import Machine
from jobs_core.testing.contract.operators import Operators
from jobs_core.testing.contract.pushing import Pushing
from jobs_core.testing.contract.settling import Settling
from jobs_core.testing.contract.statistics import StatisticsCases
from jobs_core.testing.contract.trouble import Trouble
from jobs_core.testing.contract.uniqueness import Uniqueness

from .helpers import OnRabbitMQ


class TestSqliteBeside(
    OnRabbitMQ, Pushing, Settling, Checkpoints, Uniqueness, Leases, Leaving, Operators, Crashes, Trouble, Machine,
    DocumentCases, StatisticsCases,
):  # fmt: skip
    waits_for_minutes = False  # SQLite's own contract tries it by a movable clock

    test_a_kind_has_a_bounded_number_of_documents = None  # 10,000 writes to tables that TestSqlite has filled

    @pytest.fixture
    def results_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"


class TestRedisBeside(OnRabbitMQ, Operators, Checkpoints, Uniqueness, DocumentCases):
    test_a_kind_has_a_bounded_number_of_documents = None  # 10,000 writes to keys that TestRedis has filled

    @pytest.fixture
    def results_url(self, redis_url):
        return redis_url


class TestPostgresBeside(OnRabbitMQ, Uniqueness):
    @pytest.fixture
    def results_url(self, postgres_url):
        return postgres_url


def test_results_status_and_cancelling_of_jobs_on_rabbitmq_come_from_a_schema_of_postgresql(
    tmp_path, rabbitmq_url, results_postgres
):
    project = Project(tmp_path / "project")
    project.configure(f'[results]\nurl = "{results_postgres.url}"', backend=f'backend = "{rabbitmq_url}"')
    app = project.app()
    added, cancelled = project.push("add", 3, 4, store_result=True), project.push("note", "never")
    assert app.cancel(cancelled) is State.CANCELLED
    worker = project.worker()
    until(lambda: app.status(added) is State.DONE)
    assert json.loads(app.find(added).result) == {"value": 7}
    assert worker.stop() == 0
    assert project.ledger() == []
    assert app.status(cancelled) is State.CANCELLED
    with psycopg.connect(results_postgres.url) as connection:
        schemas = b"SELECT count(*) FROM pg_namespace WHERE nspname = 'jobs_results'"
        assert connection.execute(schemas).fetchone() == (1,)
    project.close()
