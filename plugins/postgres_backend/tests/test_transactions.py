"""Enqueue inside the application's own transaction: the job exists if and only if it commits."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import textwrap
import threading

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, scoped_session, sessionmaker

from jobs_core import (
    App,
    BackendUnavailable,
    Config,
    DuplicateJob,
    Flow,
    FlowError,
    NotSupported,
    TransactionError,
    Unique,
    chain,
    group,
    job,
    set_current_app,
)
from jobs_core.backends.base import BackendOptions, State
from jobs_core.errors import JobDefinitionError
from jobs_core.registry import Registry
from jobs_core.testing.services.postgres import PostgresServer
from jobs_postgres import listener
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.url import parse

registry = Registry()


@job(registry=registry)
def work(number: int = 0) -> None: ...


@job(registry=registry, unique=Unique(key="only"))
def alone() -> None: ...


@pytest.fixture
def app(postgres_url):
    app = App(Config(backend=postgres_url, enqueue_timeout=60), registry=registry)
    yield app
    app.close()


@pytest.fixture
def current(app):
    """The application, as that of this process."""
    set_current_app(app)
    yield app
    set_current_app(None)


@pytest.fixture
def alchemy_url(postgres_server):
    return postgres_server.url.replace("postgresql://", "postgresql+psycopg://")


@contextlib.contextmanager
def of_psycopg(url):
    with contextlib.closing(psycopg.connect(url, row_factory=dict_row)) as connection:
        yield connection, connection.commit, connection.rollback


@contextlib.contextmanager
def of_psycopg_block(url):
    """A connection in autocommit mode, inside a block that is a transaction."""
    with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection, contextlib.ExitStack() as stack:
        stack.enter_context(connection.transaction())
        yield connection, stack.close, lambda: connection.execute("ROLLBACK")


def of_session(make, driver="psycopg"):
    @contextlib.contextmanager
    def opened(url):
        pytest.importorskip(driver)
        engine = sqlalchemy.create_engine(url.replace("postgresql://", f"postgresql+{driver}://"))
        with contextlib.closing(make(engine)) as session:
            yield session, session.commit, session.rollback
        engine.dispose()

    return opened


WAYS = {
    "psycopg": of_psycopg,
    "psycopg transaction()": of_psycopg_block,
    "Session": of_session(Session),
    "scoped_session": of_session(lambda engine: scoped_session(sessionmaker(engine))),
    "Connection": of_session(lambda engine: engine.connect()),
    "Session on psycopg2": of_session(Session, "psycopg2"),
    "Connection on psycopg2": of_session(lambda engine: engine.connect(), "psycopg2"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_job_exists_if_and_only_if_the_transaction_commits(app, postgres_server, way):
    with WAYS[way](postgres_server.url) as (transaction, commit, rollback):
        gone = app.enqueue(work.using(transaction=transaction).call(1))
        rollback()
        assert gone.status() is State.UNKNOWN
    with WAYS[way](postgres_server.url) as (transaction, commit, rollback):
        kept = app.enqueue_many([work.using(transaction=transaction).call(n) for n in range(3)])
        assert {handle.status() for handle in kept} == {State.UNKNOWN}
        commit()
        assert {handle.status() for handle in kept} == {State.READY}


def test_a_job_exists_if_and_only_if_the_transaction_of_an_event_loop_commits(app, postgres_server, alchemy_url):
    async def main():
        engine = create_async_engine(alchemy_url)
        async with AsyncSession(engine) as session, session.begin():
            kept = [await app.aenqueue(work.using(transaction=session).call(1))]
        async with engine.begin() as connection:
            kept += await app.aenqueue_many([work.using(transaction=connection).call(n) for n in range(2)])
        async with await psycopg.AsyncConnection.connect(postgres_server.url) as connection:
            kept.append(await app.aenqueue(work.using(transaction=connection).call(1)))
        async with AsyncSession(engine) as session:
            gone = await app.aenqueue(work.using(transaction=session).call(1))
            await session.rollback()
            with pytest.raises(TransactionError, match=r"await \.aenqueue"):
                app.enqueue(work.using(transaction=session).call(1))
        await engine.dispose()
        return kept, gone

    kept, gone = asyncio.run(main())
    assert [handle.status() for handle in kept] == [State.READY] * 4
    assert gone.status() is State.UNKNOWN


def test_a_job_can_be_enqueued_in_pipeline_mode_and_with_any_cursor_class(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection, connection.pipeline():
        connection.execute("SELECT 1")
        piped = app.enqueue_many([work.using(transaction=connection).call(n) for n in range(3)])
    with psycopg.connect(postgres_server.url, cursor_factory=psycopg.RawCursor) as connection:
        raw = app.enqueue(work.using(transaction=connection).call())
    with (
        contextlib.closing(psycopg.connect(postgres_server.url)) as connection,
        pytest.raises(psycopg.errors.DivisionByZero),
        connection.pipeline(),
    ):
        connection.execute("SELECT 1 / 0")
        app.enqueue(work.using(transaction=connection).call())
    assert {handle.status() for handle in [*piped, raw]} == {State.READY}


def test_two_phase_commits_carry_their_jobs():
    with PostgresServer("-c", "fsync=off", "-c", "max_prepared_transactions=2") as server:
        app = App(Config(backend=server.url), registry=registry)
        with contextlib.closing(psycopg.connect(server.url)) as connection:
            connection.tpc_begin(connection.xid(1, "one", "branch"))
            handle = app.enqueue(work.using(transaction=connection).call())
            connection.tpc_prepare()
            assert handle.status() is State.UNKNOWN
            connection.tpc_commit()
        assert handle.status() is State.READY
        app.close()


def test_a_savepoint_that_is_rolled_back_takes_its_jobs_along(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection:
        kept = app.enqueue(work.using(transaction=connection).call(1))
        with connection.transaction(force_rollback=True):
            gone = app.enqueue(work.using(transaction=connection).call(2))
    assert (kept.status(), gone.status()) == (State.READY, State.UNKNOWN)


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_process_that_is_killed_leaves_the_job_only_if_it_has_committed(app, postgres_server, postgres_url, after):
    code = f"""
        import os, signal, psycopg
        from jobs_core import App, Config, job
        @job(name="work")
        def work(): ...
        app = App(Config(backend={postgres_url!r}))
        connection = psycopg.connect({postgres_server.url!r})
        handle = app.enqueue(work.using(transaction=connection).call())
        print(handle.id, flush=True)
        if {after}: connection.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    record = app.find(done.stdout.strip())
    assert (record is not None) is after


def test_jobs_of_one_call_may_belong_to_different_transactions(app, postgres_server):
    with psycopg.connect(postgres_server.url) as one, psycopg.connect(postgres_server.url) as other:
        calls = [work.using(transaction=one).call(), work.call(), work.using(transaction=other).call()]
        handles = app.enqueue_many(calls)
        other.rollback()
    assert [handle.status() for handle in handles] == [State.READY, State.READY, State.UNKNOWN]


def asleep(backend, server):
    """Let a worker wait on a thread; return it once the worker sleeps, and where its answer will be."""
    woken = []
    waiting = threading.Thread(target=lambda: woken.append(backend.wait(["default"], 60)))
    waiting.start()
    sleeper = f"SELECT count(*) FROM {backend._connection.schema}.sleeper".encode()
    with psycopg.connect(server.url, autocommit=True) as looking:
        while looking.execute(sleeper).fetchone() == (0,):  # it has no event for us
            assert waiting.is_alive()
    return waiting, woken


def test_a_sleeping_worker_is_woken_by_the_commit(app, postgres_server, postgres_url, monkeypatch):
    monkeypatch.setattr("jobs_postgres.backend.LONGEST_SLEEP", 3600.0)
    backend = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    backend.open("worker")
    waiting, woken = asleep(backend, postgres_server)
    with psycopg.connect(postgres_server.url) as connection:
        for _ in range(3):
            app.enqueue(work.using(transaction=connection).call())
        assert not woken
    waiting.join(60)
    assert woken == [True]
    assert len(backend.reserve(["default"], 10, "r")) == 3
    backend.close()


def test_with_notify_off_workers_look_by_themselves(postgres_url, postgres_server):
    app = App(Config(backend=f"{postgres_url}&notify=off"), registry=registry)
    backend = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    backend.open("worker")
    with psycopg.connect(postgres_server.url) as connection:
        app.enqueue(work.using(transaction=connection).call())
        table = f"SELECT count(*) FROM {backend._connection.schema}.wake_at_commit".encode()
        assert connection.execute(table).fetchone() == (0,)
    assert listener.LONGEST_SLEEP <= 1.25
    assert backend.wait(["default"], 60)
    backend.close()
    app.close()


# -- flows -----------------------------------------------------------------------------------------


def flow_of(transaction, *calls, members=1):
    with Flow(transaction=transaction) as flow:
        for n in range(members):
            flow.add(work.call(n))
        last = [flow.add(call, after=flow.all) for call in calls]
    return flow.handle, last


@pytest.mark.parametrize("members", [1, 2500], ids=["one part", "three parts"])
def test_a_flow_exists_if_and_only_if_the_transaction_commits(current, postgres_server, members):
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection:
        gone, _ = flow_of(connection, work.call(), members=members)
        connection.rollback()
        kept, (last,) = flow_of(connection, work.call(), members=members)
        assert current.operate(lambda backend: backend.flow(kept.id)) is None
        connection.commit()
    assert current.operate(lambda backend: backend.flow(gone.id)) is None
    assert (kept.status(), kept.progress().total) == ("running", members + 1)
    assert last.handle.status() is State.WAITING


def test_a_flow_exists_if_and_only_if_the_transaction_of_an_event_loop_commits(current, alchemy_url):
    async def main():
        engine = create_async_engine(alchemy_url)
        async with AsyncSession(engine) as session:
            async with session.begin(), Flow(transaction=session) as kept:
                kept.add(work.call())
            async with Flow(transaction=session) as gone:
                gone.add(work.call())
            await session.rollback()
        await engine.dispose()
        return kept, gone

    kept, gone = asyncio.run(main())
    assert current.operate(lambda backend: backend.flow(kept.id)) is not None
    assert current.operate(lambda backend: backend.flow(gone.id)) is None


def test_a_chain_and_a_group_exist_if_and_only_if_the_transaction_commits(current, postgres_server, alchemy_url):
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection:
        gone = chain(work.call(), work.call()).enqueue(transaction=connection)
        connection.rollback()
        kept = group([work.call(), work.call()]).then(work.call()).enqueue("kept", transaction=connection)
        assert current.operate(lambda backend: backend.flow(kept.id)) is None
        connection.commit()
    assert current.operate(lambda backend: backend.flow(gone.id)) is None
    assert (kept.status(), kept.progress().total) == ("running", 3)

    async def main():
        engine = create_async_engine(alchemy_url)
        async with AsyncSession(engine) as session, session.begin():
            handle = await chain(work.call(), work.call()).aenqueue(transaction=session)
            assert current.operate(lambda backend: backend.flow(handle.id)) is None
        await engine.dispose()
        return handle

    assert asyncio.run(main()).progress().total == 2


@pytest.mark.parametrize("members", [1, 2500], ids=["one part", "three parts"])
def test_a_refused_member_undoes_its_flow_and_the_transaction_goes_on(current, postgres_server, members):
    holder = current.enqueue(alone.call())
    with psycopg.connect(postgres_server.url) as connection:
        with pytest.raises(DuplicateJob, match=holder.id):
            flow_of(connection, alone.call(), members=members)
        kept = current.enqueue(work.using(transaction=connection).call())
    assert kept.status() is State.READY
    assert current.operate(lambda backend: backend.flows(10)) == []
    assert current.operate(lambda backend: backend.counts(["default"]))["default"].ready == 2


def test_a_sleeping_worker_is_woken_by_the_commit_of_a_flow(current, postgres_server, postgres_url, monkeypatch):
    monkeypatch.setattr("jobs_postgres.backend.LONGEST_SLEEP", 3600.0)
    backend = PostgresBackend(parse(postgres_url, "jobs"), BackendOptions())
    backend.open("worker")
    with psycopg.connect(postgres_server.url) as connection:
        waiting, woken = asleep(backend, postgres_server)
        flow_of(connection)
    waiting.join(60)
    assert woken == [True]
    backend.close()


def test_a_member_names_no_transaction_of_its_own(current, postgres_server):
    with (
        psycopg.connect(postgres_server.url) as connection,
        pytest.raises(FlowError, match="write Flow"),
        Flow() as flow,
    ):
        flow.add(work.using(transaction=connection).call())


# -- unique keys -----------------------------------------------------------------------------------


def test_a_unique_key_of_another_open_transaction_is_waited_for(app, postgres_server):
    with psycopg.connect(postgres_server.url) as one, psycopg.connect(postgres_server.url) as other:
        first = app.enqueue(alone.using(transaction=one).call())
        second = []
        waiting = threading.Thread(target=lambda: second.append(app.enqueue(alone.using(transaction=other).call())))
        waiting.start()
        blocked = b"SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        with psycopg.connect(postgres_server.url, autocommit=True) as looking:
            while looking.execute(blocked).fetchone() == (0,):  # it has no event for us
                assert waiting.is_alive()
        one.commit()
        waiting.join(60)
    assert second[0].id == first.id
    assert not second[0].created


def test_the_wait_for_a_unique_key_ends_with_the_timeout_and_the_transaction_goes_on(postgres_url, postgres_server):
    app = App(Config(backend=postgres_url, enqueue_timeout=0.2), registry=registry)
    with psycopg.connect(postgres_server.url) as one, psycopg.connect(postgres_server.url) as other:
        app.enqueue(alone.using(transaction=one).call())
        before = other.execute("SHOW lock_timeout").fetchone()
        with pytest.raises(BackendUnavailable, match="another transaction, which has not ended, holds"):
            app.enqueue(alone.using(transaction=other).call())
        kept = app.enqueue(work.using(transaction=other).call())
        assert other.execute("SHOW lock_timeout").fetchone() == before
    assert kept.status() is State.READY
    app.close()


# -- what is refused ---------------------------------------------------------------------------------


def refused(app, transaction, match, error=TransactionError):
    with pytest.raises(error, match=match):
        app.enqueue(work.using(transaction=transaction).call())


def test_a_connection_without_a_transaction_is_refused(app, postgres_server, alchemy_url):
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        refused(app, connection, "autocommit mode")
    engine = sqlalchemy.create_engine(alchemy_url, isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        refused(app, session, "autocommit mode")
    engine.dispose()
    refused(app, connection, "is closed")


def test_a_failed_transaction_is_refused(app, postgres_server):
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        refused(app, connection, "an earlier statement in it has failed")


BUSY = "in the middle of a statement: stream"


def test_an_enqueue_while_rows_are_streamed_or_copied_is_refused_at_once_and_the_transaction_goes_on(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection:
        cursor = connection.cursor()
        for _ in cursor.stream("SELECT generate_series(1, 3)"):
            refused(app, connection, BUSY)
        with cursor.copy("COPY (SELECT generate_series(1, 3)) TO STDOUT") as copy:
            for _ in copy:
                refused(app, connection, BUSY)
        connection.execute("CREATE TEMP TABLE copied (n integer)")
        with cursor.copy("COPY copied FROM STDIN") as copy:
            copy.write_row([1])
            refused(app, connection, BUSY)
            copy.write_row([2])
        assert connection.execute("SELECT count(*) FROM copied").fetchone() == (2,)
        with connection.cursor("named") as rows:
            rows.execute("SELECT generate_series(1, 3)")
            kept = [app.enqueue(work.using(transaction=connection).call(n)) for (n,) in rows]
    assert [handle.status() for handle in kept] == [State.READY] * 3


def test_an_awaited_enqueue_while_rows_are_streamed_or_copied_is_refused_at_once(app, postgres_server):
    async def main():
        async with await psycopg.AsyncConnection.connect(postgres_server.url) as connection:
            cursor = connection.cursor()
            async for _ in cursor.stream("SELECT generate_series(1, 3)"):
                await refused_on(connection)
            async with cursor.copy("COPY (SELECT generate_series(1, 3)) TO STDOUT") as copy:
                async for _ in copy:
                    await refused_on(connection)
            return await app.aenqueue(work.using(transaction=connection).call())

    async def refused_on(connection):
        with pytest.raises(TransactionError, match=BUSY):
            await app.aenqueue(work.using(transaction=connection).call())

    assert asyncio.run(main()).status() is State.READY


def test_a_session_whose_driver_streams_is_refused_at_once(app, alchemy_url):
    engine = sqlalchemy.create_engine(alchemy_url)
    with Session(engine) as session:
        for _ in session.connection().connection.driver_connection.cursor().stream("SELECT generate_series(1, 3)"):
            refused(app, session, BUSY)
        for n in session.scalars(sqlalchemy.text("SELECT generate_series(1, 3)"), execution_options={"stream_results": True}):
            app.enqueue(work.using(transaction=session).call(n))
        session.commit()
    engine.dispose()
    assert app.operate(lambda backend: backend.counts(["default"]))["default"].ready == 3


def test_a_read_only_transaction_is_refused_and_goes_on(app, postgres_server, alchemy_url):
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection:
        connection.read_only = True
        refused(app, connection, "it is read-only, or on a standby")
        set_current_app(app)
        try:
            with pytest.raises(TransactionError, match="it is read-only, or on a standby"):
                flow_of(connection, work.call())
        finally:
            set_current_app(None)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    engine = sqlalchemy.create_engine(alchemy_url, execution_options={"postgresql_readonly": True})
    with Session(engine) as session:
        refused(app, session, "it is read-only, or on a standby")
        assert session.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_a_session_on_psycopg2_carries_flows_and_refuses_what_others_refuse(current, postgres_server, schema):
    pytest.importorskip("psycopg2")
    url = postgres_server.url.replace("postgresql://", "postgresql+psycopg2://")
    engine = sqlalchemy.create_engine(url)
    with Session(engine) as session:
        flow, _ = flow_of(session, work.call(), members=2)
        first = current.enqueue(alone.using(transaction=session).call())
        session.commit()
        assert current.enqueue(alone.using(transaction=session).call()).id == first.id
        with pytest.raises(sqlalchemy.exc.DataError):
            session.execute(sqlalchemy.text("SELECT 1 / 0"))
        refused(current, session, "an earlier statement in it has failed")
        session.rollback()
        session.execute(sqlalchemy.text(f'ALTER SCHEMA "{schema}" RENAME TO "{schema}_moved"'))
        refused(current, session, "its database has no tables of jobs in the schema")
    assert flow.progress().total == 3
    engine.dispose()
    for options, why in (
        ({"isolation_level": "AUTOCOMMIT"}, "autocommit mode"),
        ({"execution_options": {"postgresql_readonly": True}}, "it is read-only"),
    ):
        engine = sqlalchemy.create_engine(url, **options)
        with Session(engine) as session:
            refused(current, session, why)
        engine.dispose()


def test_what_sqlalchemy_refuses_to_use_is_explained(app, alchemy_url):
    engine = sqlalchemy.create_engine(alchemy_url)
    connection = engine.connect()
    connection.close()
    refused(app, connection, "SQLAlchemy has no connection for it: This Connection is closed")
    refused(app, Session(), "SQLAlchemy has no connection for it: This session is not bound")
    with Session(engine) as session:
        numbers = sqlalchemy.table("numbers", sqlalchemy.column("n"))
        session.execute(sqlalchemy.text("CREATE TEMPORARY TABLE numbers (n integer PRIMARY KEY)"))
        with pytest.raises(sqlalchemy.exc.IntegrityError), session.begin_nested():
            session.execute(sqlalchemy.insert(numbers), [{"n": 1}, {"n": 1}])
        handle = app.enqueue(work.using(transaction=session).call())  # the savepoint alone has failed
        session.commit()
    assert handle.status() is State.READY
    engine.dispose()

    async def main():
        engine = create_async_engine(alchemy_url)
        with pytest.raises(TransactionError, match="SQLAlchemy has no connection for it"):
            await app.aenqueue(work.using(transaction=engine.connect()).call())  # it is not awaited
        await engine.dispose()

    asyncio.run(main())


def test_a_session_whose_flush_has_failed_is_refused(app, alchemy_url):
    class Base(DeclarativeBase): ...

    class Row(Base):
        __tablename__ = "rows_that_collide"
        __table_args__ = {"prefixes": ["TEMPORARY"]}  # noqa: RUF012  # as SQLAlchemy documents it
        id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)

    engine = sqlalchemy.create_engine(alchemy_url)
    with engine.connect() as connection, Session(connection) as session:
        Base.metadata.create_all(connection)
        session.add(Row(id=1))
        session.flush()
        session.expunge_all()
        session.add(Row(id=1))
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            session.flush()
        refused(app, session, "an earlier statement in it has failed")
    engine.dispose()


def test_a_client_encoding_or_setting_that_would_change_jobs_is_refused_and_the_transaction_goes_on(app, postgres_server):
    with psycopg.connect(postgres_server.url, client_encoding="latin1") as connection:
        with pytest.raises(TransactionError, match="the client_encoding of its connection is latin-1"):
            app.enqueue(work.using(transaction=connection, unique=Unique(key="日本")).call())
        kept = app.enqueue(work.using(transaction=connection).call())
        connection.execute("SET LOCAL standard_conforming_strings = off")
        refused(app, connection, "standard_conforming_strings is off on its connection")
    assert kept.status() is State.READY


def test_a_transaction_on_another_database_is_refused(app, postgres_server, postgres_url, schema):
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{schema}"'.encode())
    elsewhere = postgres_server.url_of("jobs", schema)
    try:
        with contextlib.closing(psycopg.connect(elsewhere)) as connection:
            refused(app, connection, f"has no tables of jobs in the schema {schema}")
        backend = PostgresBackend(parse(f"{elsewhere}?schema={schema}", "jobs"), BackendOptions())
        backend.open(None)
        backend.close()
        with psycopg.connect(elsewhere) as connection:
            refused(app, connection, "it is on another database than the jobs")
            connection.execute("SELECT 1")  # it goes on
    finally:
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{schema}"'.encode())


def test_what_is_no_transaction_of_this_database_is_refused(app):
    refused(app, object(), "expected a connection of psycopg 3 or asyncpg, .* got object")
    refused(app, "default", "got str")
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        refused(app, connection, r"the engine is sqlite\+pysqlite")


def test_a_backend_without_transactions_says_what_to_do(postgres_server):
    app = App(Config(backend="memory://"), registry=registry)
    with psycopg.connect(postgres_server.url) as connection:
        refused(
            app,
            connection,
            r"enqueue after the commit, set \[outbox\] url, or choose a backend that has transactions",
            NotSupported,
        )
    app.close()


def test_options_that_contradict_a_transaction_are_refused(app, postgres_server):
    with psycopg.connect(postgres_server.url) as connection:
        with pytest.raises(JobDefinitionError, match="on_commit and transaction both say when"):
            app.enqueue(work.using(transaction=connection, on_commit=True).call())
        with pytest.raises(TransactionError, match=r"current_job\(\) commits with its own end"):
            app.prepare(work.using(transaction=connection).call())


def test_an_error_of_the_database_is_raised_as_its_library_does(app, postgres_server, alchemy_url, schema):
    app.enqueue(work.call())
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE \"{schema}\".job ADD CHECK (topic <> 'broken')".encode())
    with contextlib.closing(psycopg.connect(postgres_server.url)) as connection, pytest.raises(psycopg.errors.CheckViolation):
        app.enqueue(work.using(transaction=connection, topic="broken").call())
    engine = sqlalchemy.create_engine(alchemy_url)
    with Session(engine) as session, pytest.raises(sqlalchemy.exc.IntegrityError):
        app.enqueue(work.using(transaction=session, topic="broken").call())
    engine.dispose()


def test_the_role_of_the_application_needs_to_execute_one_function_only(app, postgres_server, schema):
    app.enqueue(work.call())
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{schema}" LOGIN'.encode())
    theirs = postgres_server.url_of(schema, "postgres")
    try:
        with contextlib.closing(psycopg.connect(theirs)) as connection:
            refused(app, connection, r"has no tables of jobs|may not enqueue")
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{schema}"'.encode())
        with contextlib.closing(psycopg.connect(theirs)) as connection:
            refused(app, connection, "its role may not enqueue")
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f'GRANT EXECUTE ON FUNCTION "{schema}".enqueue TO "{schema}"'.encode())
        with psycopg.connect(theirs) as connection:
            handle = app.enqueue(work.using(transaction=connection).call())
        assert handle.status() is State.READY
    finally:
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f'DROP OWNED BY "{schema}"; DROP ROLE "{schema}"'.encode())
