"""The rows for PostgreSQL with workers of `jobsctl start` and its defaults: failover, full disks, and what operators do.

The jobs do nothing; each two-hundredth takes 50 ms, and each twenty-thousandth two seconds.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psycopg

from jobs_core.errors import BackendUnavailable, QueueFull
from jobs_core.message import Message, new_message
from jobs_core.testing.services.postgres import PostgresServer

from ..support.clock import Clock
from ..support.disk import filled, small_disk
from ..support.project import until
from ..support.proxy import Proxy
from ..support.supervised import Supervised
from . import postgres
from .stage import Row, SetUp, Stage
from .troubles import cut, in_turn, lose_packets

HOUR = 3600
ROLE = "jobs"
SUPERUSER = "keeper"
"""A role for what an operator does: the settings and limits of the other one are part of the faults."""


class StartedStage(postgres.PostgresStage):
    """A supervisor with its defaults, and two workers."""

    clock: Clock
    server_clock: Clock
    disk: Path
    old_primary: PostgresServer

    def __init__(self, directory: Path, url: str) -> None:
        super().__init__(directory, url)
        self.project.configure('enqueue_timeout = "60s"\npools.default.workers = 2', backend=f'backend = "{url}"')
        self.clock = Clock(directory)
        self.make = _message

    def __enter__(self) -> StartedStage:
        self.supervised = Supervised(self.project, **self.clock.environment)
        self.workers = [self.supervised.process]  # which prints what all of them say
        return self

    def operator(self) -> psycopg.Connection:
        return psycopg.connect(self.server.url_of(SUPERUSER, "postgres"), autocommit=True)

    def execute(self, statement: str) -> None:
        with self.operator() as connection:
            connection.execute(statement.encode())

    def some(self) -> None:
        """Let a twentieth of the jobs run."""
        self.progress(self.producer.count // 20)


def _message(number: int) -> Message:
    seconds = 2.0 if number % 20_000 == 1 else 0.05 if number % 200 == 2 else 0.0
    return new_message("tasks.work", "default", [seconds] if seconds else [], {})


Trouble = Callable[[StartedStage], None]
S = TypeVar("S", bound=Stage)


@contextlib.contextmanager
def readable_clock() -> Iterator[Clock]:
    """Yield a clock that the user of the server may read, as it may not in a directory of pytest."""
    directory = Path(tempfile.mkdtemp(prefix="jobs-clock-"))
    try:
        directory.chmod(0o755)
        yield Clock(directory)
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def _server(directory: Path, *options: str, log_in: Path | None = None) -> Iterator[StartedStage]:
    """Yield the stage of a server whose clock can be moved, reached through a proxy."""
    with contextlib.ExitStack() as stack:
        clock = stack.enter_context(readable_clock())
        server = stack.enter_context(PostgresServer(*options, log_in=log_in, environment=clock.environment))
        proxy = stack.enter_context(Proxy(server.port))
        stage = StartedStage(directory / "project", f"postgresql://{ROLE}@127.0.0.1:{proxy.port}/postgres")
        stage.server, stage.proxy, stage.server_clock = server, proxy, clock
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {SUPERUSER} SUPERUSER LOGIN".encode())
        yield stage


def _row(*acts: Trouble, options: tuple[str, ...] = ()) -> Row:
    @contextlib.contextmanager
    def row(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
        with _server(directory, *options) as stage, stage:
            yield stage, in_turn(*acts)

    return row


# -- what an operator does ---------------------------------------------------------------------------


def end_connections(stage: StartedStage) -> None:
    """End every connection of jobs, so that new ones have the settings that hold now."""
    stage.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")


HOSTILE = {
    "statement_timeout": "50ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "300ms",
    "default_transaction_isolation": "serializable",
}
"""Defaults of a role with which jobs would fail, if its sessions did not set their own."""


def set_hostile_defaults(stage: StartedStage) -> None:
    for name, value in HOSTILE.items():
        stage.execute(f"ALTER ROLE {ROLE} SET {name} = '{value}'")
    end_connections(stage)
    stage.some()
    stage.execute(f"ALTER ROLE {ROLE} RESET ALL")


def turn_read_only(stage: StartedStage) -> None:
    """Let sessions of jobs begin read-only; they find by themselves that this is over."""
    told = stage.told()
    stage.execute(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    end_connections(stage)
    stage.until_told("default_transaction_read_only is on", told)
    stage.execute(f"ALTER ROLE {ROLE} RESET ALL")


def use_up_connections(stage: StartedStage) -> None:
    """Leave no connection to anybody, until jobs have noticed."""
    told = stage.told()
    with contextlib.ExitStack() as stack:

        def open_all() -> None:
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(contextlib.closing(stage.operator()))

        operator = stack.enter_context(stage.operator())
        operator.execute("ALTER ROLE jobs NOSUPERUSER CONNECTION LIMIT 0")  # or jobs would be quicker than this
        operator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jobs'")
        open_all()
        operator.execute("ALTER ROLE jobs SUPERUSER CONNECTION LIMIT -1")
        open_all()
        stage.until_told("too many clients already", told)


COLLIDE = """
    CREATE FUNCTION public.collide() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF txid_current() % 20 = 0 THEN
            RAISE 'collides' USING ERRCODE = CASE txid_current() % 40 WHEN 0 THEN '40001' ELSE '40P01' END;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER collide AFTER INSERT OR DELETE ON jobs.reserved EXECUTE FUNCTION public.collide();
    CREATE TRIGGER collide AFTER INSERT ON jobs.ready EXECUTE FUNCTION public.collide();
"""


def collide(stage: StartedStage) -> None:
    """Let each twentieth transaction fail as if it had collided with another: it is repeated, and no outage is reported."""
    told = stage.told()
    stage.execute(COLLIDE)
    stage.some()
    stage.execute("DROP FUNCTION public.collide CASCADE")
    assert not any("collides" in line for line in stage.workers[0].lines[told[0] :])


def lock_tables(stage: StartedStage) -> None:
    """Hold the strongest lock on a table until workers report it; no statement waits for it for longer than they do."""
    told = stage.told()
    with stage.operator() as connection, connection.transaction():
        connection.execute("LOCK TABLE jobs.ready, jobs.reserved IN ACCESS EXCLUSIVE MODE")
        stage.until_told("a transaction holds a lock on the tables of jobs", told)
        with stage.operator() as other:
            waiting = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND usename = 'jobs'"
            (number,) = other.execute(waiting).fetchone() or (0,)
        assert number <= 8, f"{number} statements wait for the lock: those of connections that were given up still do"


def hold_vacuum_back(stage: StartedStage) -> None:
    """Keep a transaction open, so that no dead row can be removed meanwhile."""
    with stage.operator() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM jobs.ready")
        stage.some()


def move_server_clock(seconds: int) -> Trouble:
    def act(stage: StartedStage) -> None:
        stage.server_clock.move(seconds)
        stage.some()

    return act


def move_worker_clock(seconds: int) -> Trouble:
    def act(stage: StartedStage) -> None:
        stage.clock.move(seconds)
        stage.some()

    return act


CLOCKS = (
    move_server_clock(HOUR), move_worker_clock(-HOUR), move_server_clock(0), move_server_clock(-HOUR), move_worker_clock(HOUR),
    move_server_clock(0),
)  # fmt: skip


# -- the server and the way to it --------------------------------------------------------------------

KILLS: tuple[Trouble, ...] = (
    postgres.crash_server, postgres.kill_one_process, cut, postgres.lose_reply, postgres.kill_postmaster, end_connections,
    postgres.restart_server, lose_packets(postgres.SILENCE), postgres.lose_reply, postgres.kill_one_process,
)  # fmt: skip


# -- full disks --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _small_disk(size: str) -> Iterator[Path | None]:
    """Yield a small disk that the user of the server may write to; None where this user may not mount one."""
    directory = Path(tempfile.mkdtemp(prefix="jobs-disk-"))  # pytest's own are closed to the server's user
    directory.rmdir()
    try:
        with small_disk(directory, size) as disk:
            if disk is not None:
                disk.chmod(0o777)
            yield disk
    finally:
        directory.rmdir()


def fill_disk_of_tables(stage: StartedStage) -> None:
    """Leave no room for tables: pushes are refused, with an error of their own type; then make room."""
    with filled(stage.disk):
        until(lambda: stage.producer.errors)
    assert {type(error) for error in stage.producer.errors} <= {QueueFull, BackendUnavailable}, stage.producer.errors


def fill_disk_of_log(stage: StartedStage) -> None:
    """Leave no room for the write-ahead log: the server crashes, and may end; pushes wait, since some may have been stored."""
    told = stage.told()
    with filled(stage.disk):
        stage.until_told("the backend cannot be reached", told)  # the server may crash again and again, or end
    until(lambda: stage.server.has_ended() or stage.server.serves())
    if stage.server.has_ended():
        stage.server.start()
    assert not stage.producer.errors, stage.producer.errors


def _put_tables(stage: StartedStage, disk: Path) -> None:
    """Let the tables be made on a disk."""
    space = disk / "tables"
    space.mkdir()
    stage.server.own(space)
    stage.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    stage.execute("ALTER DATABASE postgres SET default_tablespace = small")
    stage.disk = disk


@contextlib.contextmanager
def tables_on_a_full_disk(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    with _small_disk("256m") as disk, _server(directory) as stage:
        assert disk, ROOT_ALONE
        _put_tables(stage, disk)
        with stage:
            yield stage, in_turn(fill_disk_of_tables, fill_disk_of_tables)


SMALL_LOG = ("-c", "max_wal_size=8MB", "-c", "min_wal_size=2MB")
ROOT_ALONE = "a file system can be mounted by root alone"


@contextlib.contextmanager
def log_on_a_full_disk(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    with _small_disk("64m") as disk:
        assert disk, ROOT_ALONE
        with _server(directory, *SMALL_LOG, log_in=disk / "log") as stage:
            stage.disk = disk
            with stage:
                yield stage, in_turn(fill_disk_of_log, fill_disk_of_log)


# -- failover ----------------------------------------------------------------------------------------

MOST_CONNECTIONS = 30
"""Of a supervisor, two workers, a producer and a reader, with those of statements that were given up and wait for a standby."""

SYNCHRONOUS = ("-c", "synchronous_standby_names=*")


@contextlib.contextmanager
def replicated(*options: str) -> Iterator[tuple[PostgresServer, PostgresServer, str]]:
    """Yield a primary with these options, its standby, and the URL that names both."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(PostgresServer())
        standby = stack.enter_context(PostgresServer(primary=primary))
        primary.stop()
        primary.start(*options)
        with psycopg.connect(primary.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            until(lambda: connection.execute("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'").fetchone())
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        yield primary, standby, f"postgresql://{ROLE}@{hosts}/postgres?target_session_attrs=read-write"


@contextlib.contextmanager
def _failover(directory: Path, *options: str) -> Iterator[tuple[Stage, Trouble]]:
    with replicated(*options) as (primary, standby, url):
        stage = StartedStage(directory / "project", url)
        stage.server = primary

        def fail_over(stage: StartedStage) -> None:
            stage.under_load()
            primary.kill()
            standby.promote()
            stage.server, stage.old_primary = standby, primary

        with stage:
            yield stage, fail_over


def failover(directory: Path, count: int) -> SetUp:
    """Kill the primary, and promote its standby, for which each commit has waited."""
    return _failover(directory, *SYNCHRONOUS)


@contextlib.contextmanager
def standby_away(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Kill the only synchronous standby: commits wait for it, and what is repeated meanwhile leaves nothing behind."""
    with replicated(*SYNCHRONOUS) as (primary, standby, url):
        stage = StartedStage(directory / "project", url)
        stage.server = primary

        def take_away(stage: StartedStage) -> None:
            told = stage.told()
            standby.kill()
            stage.until_told("the backend cannot be reached", told)
            time.sleep(2 * postgres.SILENCE)  # in which statements are repeated
            with psycopg.connect(primary.url) as operator:
                (number,) = operator.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'jobs'").fetchone() or (0,)
            assert number <= MOST_CONNECTIONS, f"jobs has {number} connections"
            assert "wait for a synchronous standby" in stage.project.here("check", code=None)
            standby.start()
            stage.until_reached()
            assert not any("settled_pkey" in line for line in stage.workers[0].lines)

        with stage:
            yield stage, in_turn(take_away)


def failover_without_waiting(directory: Path, count: int) -> SetUp:
    """The same with a standby for which no commit waits: what it had not received is lost."""
    return _failover(directory)


BY_HAND: tuple[Trouble, ...] = (
    set_hostile_defaults, collide, turn_read_only, use_up_connections, hold_vacuum_back, lock_tables, *CLOCKS,
)  # fmt: skip
FEW = ("-c", "max_connections=30")


@contextlib.contextmanager
def by_hand(directory: Path, count: int) -> Iterator[tuple[Stage, Trouble]]:
    """Let one server go through what operators and clocks do, and a full disk where one can be mounted: for `make test`."""
    with _small_disk("256m") as disk, _server(directory, *FEW) as stage:
        if disk is not None:
            _put_tables(stage, disk)
        with stage:
            yield stage, in_turn(*([] if disk is None else [fill_disk_of_tables]), *BY_HAND)


ROWS: dict[str, Row] = {
    "server killed, connections cut and silent": _row(*KILLS * 2),
    "failover to a synchronous standby": failover,
    "synchronous standby away": standby_away,
    "disk of the tables full": tables_on_a_full_disk,
    "disk of the log full": log_on_a_full_disk,
    "no connections left": _row(*[use_up_connections] * 3, options=FEW),
    "hostile defaults of the role": _row(*(set_hostile_defaults, turn_read_only) * 3),
    "clocks moved by an hour": _row(*CLOCKS * 2),
    "tables locked, vacuum held back": _row(lock_tables, hold_vacuum_back, lock_tables),
    "deadlocks and serialization failures": _row(*[collide] * 3),
}

ASIDE: dict[str, Row] = {"failover to an asynchronous standby": failover_without_waiting}
"""Rows that lose jobs: they measure how many."""
