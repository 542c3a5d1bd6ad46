"""Enqueue inside a transaction of asyncpg, and of SQLAlchemy on asyncpg: the job exists if and only if it commits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import textwrap

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine

from jobs_core import App, BackendUnavailable, Config, DuplicateJob, Flow, TransactionError, Unique, job, set_current_app
from jobs_core.backends.base import BackendOptions, State
from jobs_core.registry import Registry
from jobs_postgres.backend import PostgresBackend
from jobs_postgres.transactions import _numbered
from jobs_postgres.url import parse

registry = Registry()


@job(registry=registry)
def work(number: int = 0) -> None: ...


@job(registry=registry, unique=Unique(key="only"))
def alone() -> None: ...


@pytest.fixture
def app(postgres_url):
    app = App(Config(backend=postgres_url, enqueue_timeout=60), registry=registry)
    set_current_app(app)
    yield app
    set_current_app(None)
    app.close()


@contextlib.asynccontextmanager
async def of_connection(url):
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection, transaction.commit, transaction.rollback
    await connection.close()


@contextlib.asynccontextmanager
async def of_pool(url):
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield connection, transaction.commit, transaction.rollback


@contextlib.asynccontextmanager
async def of_connection_with_codecs(url):
    """With the codecs that many applications set, which would write JSON text once more."""
    async with of_connection(url) as (connection, commit, rollback):
        for kind in ("json", "jsonb"):
            await connection.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        yield connection, commit, rollback


def of_engine(make):
    @contextlib.asynccontextmanager
    async def opened(url):
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        session = make(engine)
        if hasattr(session, "start"):
            await session.start()
        yield session, session.commit, session.rollback
        await session.close()
        await engine.dispose()

    return opened


WAYS = {
    "asyncpg": of_connection,
    "asyncpg pool": of_pool,
    "asyncpg with codecs": of_connection_with_codecs,
    "AsyncSession": of_engine(AsyncSession),
    "async_scoped_session": of_engine(lambda engine: async_scoped_session(async_sessionmaker(engine), asyncio.current_task)),
    "AsyncConnection": of_engine(lambda engine: engine.connect()),
}


@pytest.mark.parametrize("way", WAYS)
def test_jobs_and_flows_exist_if_and_only_if_the_transaction_commits(app, postgres_server, way):
    async def enqueued(transaction):
        handles = await app.aenqueue_many([work.using(transaction=transaction).call(n) for n in range(3)])
        handles.append(await app.aenqueue(alone.using(transaction=transaction).call()))
        async with Flow(transaction=transaction) as flow:
            for n in range(1500):  # two parts, inside a savepoint
                flow.add(work.call(n))
        return handles, flow.id

    async def main():
        async with WAYS[way](postgres_server.url) as (transaction, _, rollback):
            gone = await enqueued(transaction)
            await rollback()
        async with WAYS[way](postgres_server.url) as (transaction, commit, _):
            kept = await enqueued(transaction)
            assert kept[0][0].status() is State.UNKNOWN
            await commit()
        return gone, kept

    (gone, lost), (kept, flow) = asyncio.run(main())
    assert [handle.status() for handle in gone] == [State.UNKNOWN] * 4
    assert [handle.status() for handle in kept] == [State.READY] * 4
    assert app.operate(lambda backend: backend.flow(lost)) is None
    assert app.operate(lambda backend: backend.flow(flow)).total == 1500


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_process_that_is_killed_leaves_the_job_only_if_it_has_committed(app, postgres_server, postgres_url, after):
    code = f"""
        import asyncio, asyncpg, os, signal
        from jobs_core import App, Config, job
        @job(name="work")
        def work(): ...
        async def main():
            app = App(Config(backend={postgres_url!r}))
            connection = await asyncpg.connect({postgres_server.url!r})
            transaction = connection.transaction()
            await transaction.start()
            handle = await app.aenqueue(work.using(transaction=connection).call())
            print(handle.id, flush=True)
            if {after}: await transaction.commit()
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (app.find(done.stdout.strip()) is not None) is after


def test_a_savepoint_that_is_rolled_back_takes_its_jobs_along(app, postgres_server):
    async def main():
        async with of_connection(postgres_server.url) as (connection, commit, _):
            kept = await app.aenqueue(work.using(transaction=connection).call(1))
            savepoint = connection.transaction()
            await savepoint.start()
            gone = await app.aenqueue(work.using(transaction=connection).call(2))
            await savepoint.rollback()
            await commit()
        return kept, gone

    kept, gone = asyncio.run(main())
    assert (kept.status(), gone.status()) == (State.READY, State.UNKNOWN)


def test_a_unique_key_of_another_open_transaction_is_waited_for(app, postgres_server):
    async def main():
        async with of_connection(postgres_server.url) as (one, commit, _), of_connection(postgres_server.url) as other:
            first = await app.aenqueue(alone.using(transaction=one).call())
            second = asyncio.create_task(app.aenqueue(alone.using(transaction=other[0]).call()))
            looking = await asyncpg.connect(postgres_server.url)
            blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
            while await looking.fetchval(blocked) == 0:  # it has no event for us
                assert not second.done()
            await looking.close()
            await commit()
            return first, await second

    first, second = asyncio.run(main())
    assert second.id == first.id
    assert not second.created


@pytest.mark.parametrize("way", ["asyncpg", "AsyncSession"])
def test_the_wait_for_a_unique_key_ends_with_the_timeout_and_the_transaction_goes_on(postgres_url, postgres_server, way):
    app = App(Config(backend=postgres_url, enqueue_timeout=0.2), registry=registry)

    async def main():
        async with WAYS[way](postgres_server.url) as (one, _, _), WAYS[way](postgres_server.url) as (other, commit, _):
            await app.aenqueue(alone.using(transaction=one).call())
            with pytest.raises(BackendUnavailable, match="another transaction, which has not ended, holds"):
                await app.aenqueue(alone.using(transaction=other).call())
            kept = await app.aenqueue(work.using(transaction=other).call())
            await commit()
            return kept

    assert asyncio.run(main()).status() is State.READY
    app.close()


def test_a_refused_member_undoes_its_flow_and_the_transaction_goes_on(app, postgres_server):
    holder = app.enqueue(alone.call())

    async def main():
        async with of_connection(postgres_server.url) as (connection, commit, _):
            with pytest.raises(DuplicateJob, match=holder.id):
                async with Flow(transaction=connection) as flow:
                    flow.add(work.call())
                    flow.add(alone.call())
            kept = await app.aenqueue(work.using(transaction=connection).call())
            await commit()
        return kept

    assert asyncio.run(main()).status() is State.READY
    assert app.operate(lambda backend: backend.flows(10)) == []


# -- what is refused ---------------------------------------------------------------------------------


async def refused(app, transaction, match):
    with pytest.raises(TransactionError, match=match):
        await app.aenqueue(work.using(transaction=transaction).call())


def test_a_connection_without_a_transaction_is_refused(app, postgres_server):
    async def main():
        connection = await asyncpg.connect(postgres_server.url)
        await refused(app, connection, "autocommit mode")
        with pytest.raises(TransactionError, match=r"await \.aenqueue"):
            app.enqueue(work.using(transaction=connection).call())
        await connection.close()
        await refused(app, connection, "is closed")
        url = postgres_server.url.replace("postgresql://", "postgresql+asyncpg://")
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with AsyncSession(engine) as session:
            await refused(app, session, "autocommit mode")
        await engine.dispose()

    asyncio.run(main())


@pytest.mark.parametrize("way", ["asyncpg", "AsyncConnection"])
def test_a_failed_transaction_is_refused(app, postgres_server, way):
    async def main():
        async with WAYS[way](postgres_server.url) as (transaction, _, rollback):
            execute = getattr(transaction, "exec_driver_sql", transaction.execute)
            with pytest.raises(Exception, match="division by zero"):
                await execute("SELECT 1 / 0")
            await refused(app, transaction, "an earlier statement in it has failed")
            await rollback()

    asyncio.run(main())


def test_a_transaction_on_another_database_is_refused(app, postgres_server, schema):
    elsewhere = postgres_server.url_of("jobs", schema)

    async def main():
        connection = await asyncpg.connect(postgres_server.url)
        await connection.execute(f'CREATE DATABASE "{schema}"')
        try:
            async with of_connection(elsewhere) as (transaction, _, rollback):
                await refused(app, transaction, f"has no tables of jobs in the schema {schema}")
                await rollback()
            backend = PostgresBackend(parse(f"{elsewhere}?schema={schema}", "jobs"), BackendOptions())
            await asyncio.to_thread(backend.open, None)
            backend.close()
            async with of_connection(elsewhere) as (transaction, commit, _):
                await refused(app, transaction, "it is on another database than the jobs")
                await transaction.execute("SELECT 1")  # it goes on
                await commit()
        finally:
            await connection.execute(f'DROP DATABASE "{schema}"')
            await connection.close()

    asyncio.run(main())


def test_an_error_of_the_database_is_raised_as_its_library_does(app, postgres_server, schema):
    app.enqueue(work.call())

    async def main():
        async with of_connection(postgres_server.url) as (connection, commit, _):
            await connection.execute(f"ALTER TABLE \"{schema}\".job ADD CHECK (topic <> 'broken')")
            await commit()
        async with of_connection(postgres_server.url) as (connection, _, _):
            with pytest.raises(asyncpg.CheckViolationError):
                await app.aenqueue(work.using(transaction=connection, topic="broken").call())

    asyncio.run(main())


def test_parameters_are_numbered():
    assert _numbered("SELECT f(%s, %s::jsonb, %s::text[])::text") == "SELECT f($1, $2::text::jsonb, $3::text[])::text"
    assert _numbered("SELECT 1") == "SELECT 1"
