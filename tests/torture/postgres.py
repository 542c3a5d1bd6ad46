"""The rows for PostgreSQL: faults of its server, of single connections, and of the network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from jobs_core.testing.services.pgbouncer import PgBouncer
from jobs_core.testing.services.postgres import PostgresServer

from ..support.proxy import Proxy
from . import flows, limits
from .stage import LEASE, Row, SetUp, Stage
from .supervised import Supervision
from .troubles import flap, freeze_worker, in_turn, kill_busy_workers, kill_worker, lose_packets, lose_reply_to, slow_down

SILENCE = 12.0
"""Seconds: longer than any statement may take, and than three leases."""

AT_ONCE_IN_A_WORKER = 5000


class PostgresStage(Stage):
    """A private server, reached through a proxy."""

    server: PostgresServer


Trouble = Callable[[PostgresStage], None]


@contextlib.contextmanager
def _server(directory: Path, trouble: Trouble, options: tuple[str, ...] = ()) -> Iterator[tuple[Stage, Trouble]]:
    with PostgresServer(*options) as server, Proxy(server.port) as proxy:
        stage = PostgresStage(directory / "project", f"postgresql://jobs@127.0.0.1:{proxy.port}/postgres")
        stage.server, stage.proxy = server, proxy
        _execute(stage, "CREATE ROLE keeper SUPERUSER LOGIN")
        with stage:
            yield stage, trouble


def _row(act: Trouble, *options: str, times: int = 1) -> Row:
    """Return a row with an act as its fault, done this many times while jobs arrive."""
    return lambda directory, count: _server(directory, in_turn(*[act] * times), options)


@contextlib.contextmanager
def many_at_once_killed(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Kill workers with thousands of async jobs under way, which last until there are as many on a busy machine, too."""
    some = min(AT_ONCE_IN_A_WORKER, count // 4)
    options = ("--mode", "async", "--concurrency", str(AT_ONCE_IN_A_WORKER))
    with (
        PostgresServer() as server,
        Stage(directory / "project", server.url, options=options, job="awork", seconds=max(1.0, some / 500)) as stage,
    ):
        yield stage, kill_busy_workers(some)


@contextlib.contextmanager
def bouncer_restarted(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Kill the pgbouncer between jobs and the server, which pools transactions, while statements are under way."""
    with PostgresServer() as server, PgBouncer(server, connections=4) as bouncer:

        def kill_and_start(stage: Stage) -> None:
            bouncer.kill()
            bouncer.start()

        with PostgresStage(directory / "project", f"{bouncer.url}?pooling=transaction") as stage:
            stage.server = server
            yield stage, in_turn(kill_and_start, kill_worker, kill_and_start, crash_server, kill_and_start)


# -- the server ------------------------------------------------------------------------------------


def crash_server(stage: PostgresStage) -> None:
    """End all of the server's processes at once; it recovers from its log."""
    stage.server.crash()
    stage.server.start()


def kill_postmaster(stage: PostgresStage) -> None:
    """Kill the first process alone: its children notice, and end."""
    stage.server.kill()
    stage.server.start()


def restart_server(stage: PostgresStage) -> None:
    stage.server.stop()
    stage.server.start()


def long_outage(stage: PostgresStage) -> None:
    """Refuse all connections for ten leases."""
    stage.server.crash()
    time.sleep(10 * LEASE)  # the outage itself
    stage.server.start()


def freeze_server(stage: PostgresStage) -> None:
    """Stop all processes of the server for ten leases, with its connections open."""
    with stage.server.frozen():
        time.sleep(10 * LEASE)  # the silence itself


def _execute(stage: PostgresStage, statement: str) -> None:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(stage.server.url, autocommit=True) as connection:
        connection.execute(statement.encode())


def end_connections(stage: PostgresStage) -> None:
    """End every connection of jobs, as an administrator does."""
    _execute(stage, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobs'")


def kill_one_process(stage: PostgresStage) -> None:
    """Kill the process of one connection: the server then ends all others, and recovers."""
    stage.server.kill_one()


def time_out_statements(stage: PostgresStage) -> None:
    """Let every statement of new connections time out after a millisecond, for two leases."""
    _execute(stage, "ALTER DATABASE postgres SET statement_timeout = '1ms'")
    end_connections(stage)
    time.sleep(2 * LEASE)  # the fault itself
    _execute(stage, "ALTER DATABASE postgres RESET statement_timeout")
    end_connections(stage)


def use_up_connections(stage: PostgresStage) -> None:
    """Leave no connection for jobs, for two leases."""
    _execute_as(stage, "ALTER DATABASE postgres CONNECTION LIMIT 0")
    _execute_as(stage, "ALTER ROLE jobs NOSUPERUSER")
    _execute_as(stage, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobs'")
    time.sleep(2 * LEASE)  # the fault itself
    _execute_as(stage, "ALTER ROLE jobs SUPERUSER")
    _execute_as(stage, "ALTER DATABASE postgres CONNECTION LIMIT -1")


def _execute_as(stage: PostgresStage, statement: str) -> None:
    """Execute a statement as another superuser, in another database."""
    with psycopg.connect(stage.server.url_of("keeper", "template1"), autocommit=True) as connection:
        connection.execute(statement.encode())


def lose_reply(stage: PostgresStage) -> None:
    """Lose the reply to a prepared statement."""
    lose_reply_to(b"_pg3_")(stage)


@contextlib.contextmanager
def supervised(kind: type[Supervision], directory: Path, toml: str) -> Iterator[Supervision]:
    """Yield machines that share a server."""
    with PostgresServer() as server:

        def kill_and_start() -> None:
            server.crash()
            server.start()

        with kind(directory / "machines", server.url, toml=toml, kill_broker=kill_and_start) as stage:
            yield stage


ROWS: dict[str, Row] = {
    "workers killed": _row(kill_worker, times=8),
    "workers killed, each with 5,000 jobs": many_at_once_killed,
    "worker frozen for two leases": _row(freeze_worker(2 * LEASE)),
    "server crashed": _row(crash_server, times=5),
    "postmaster killed": _row(kill_postmaster, times=5),
    "a connection's process killed": _row(kill_one_process, times=5),
    "server restarted": _row(restart_server, times=3),
    "outage of ten leases": _row(long_outage),
    "server frozen for ten leases": _row(freeze_server),
    "connections ended": _row(end_connections, times=10),
    "statements timed out": _row(time_out_statements),
    "no connections left": _row(use_up_connections),
    "pgbouncer killed": bouncer_restarted,
    "connections flapping": _row(flap),
    "replies lost": _row(lose_reply, times=20),
    "packets lost in silence": _row(lose_packets(SILENCE)),
    "100 ms and more each way": _row(slow_down),
    "1,000 limits, every process killed": limits.row(supervised),
    "10,000 flows, every process killed": flows.row(supervised),
}

EVERYTHING: tuple[Trouble, ...] = (
    kill_worker, lose_reply, end_connections, crash_server, lose_reply, kill_postmaster, kill_one_process, kill_worker,
    restart_server, lose_reply, time_out_statements, use_up_connections, slow_down, end_connections,
)  # fmt: skip
"""Faults that one server can go through in one run, for `make test`."""


def everything_in_turn(directory: Path, count: int) -> SetUp:
    return _server(directory, in_turn(*EVERYTHING))
