"""`jobsctl check` reports each risk in a server's settings, with its fix."""

from __future__ import annotations

import psycopg
import pytest

from jobs_core.testing.services.postgres import PostgresServer
from jobs_postgres.advice import advice
from jobs_postgres.connection import ServerConnection
from jobs_postgres.url import parse


@pytest.fixture(scope="module")
def own_server():
    """A server whose settings the tests may change."""
    with PostgresServer() as server:
        yield server


def advised(server, url=None):
    """Return the advice for this server, as if it were reached by this URL."""
    connection = ServerConnection(parse(server.url, "jobs"))
    connection.connect()
    try:
        return advice(parse(url or server.url, "jobs"), connection)
    finally:
        connection.disconnect()


def set_(server, name, value):
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE jobs SET {name} = '{value}'" if value else f"ALTER ROLE jobs RESET {name}")


def test_a_durable_server_on_loopback_needs_no_advice(own_server):
    assert advised(own_server) == []


def test_commits_that_are_not_waited_for_are_reported(own_server):
    set_(own_server, "synchronous_commit", "off")
    (line,) = advised(own_server)
    assert "the jobs of the last second" in line
    set_(own_server, "synchronous_commit", "")


def test_a_remote_server_needs_a_certificate_and_a_user_of_its_own(own_server):
    certificate, user = advised(own_server, "postgresql://jobs@db.example/shop")
    assert "sslmode=verify-full" in certificate
    assert "superuser" in user
    (user,) = advised(own_server, "postgresql://jobs@db.example/shop?sslmode=verify-full")
    assert "superuser" in user


def test_a_lock_that_stops_jobs_is_reported_with_its_holder(own_server):
    connection = ServerConnection(parse(own_server.url, "jobs"))
    connection.connect()
    connection.setup()
    connection.disconnect()
    with psycopg.connect(own_server.url, application_name="report") as other:
        other.execute("LOCK TABLE jobs.ready IN EXCLUSIVE MODE")
        (line,) = advised(own_server)
    assert "table ready is locked (ExclusiveLock)" in line
    assert "program report, user jobs" in line
    assert advised(own_server) == []


def test_a_server_that_forgets_is_reported():
    with PostgresServer("-c", "fsync=off", "-c", "autovacuum=off") as server:
        fsync, vacuum = advised(server)
    assert "fsync = on" in fsync
    assert "autovacuum = on" in vacuum
