"""PgQueuer, on asyncpg."""

import asyncio
import contextlib

import asyncpg
import common
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

queries = None


@contextlib.asynccontextmanager
async def main():
    connection = await asyncpg.connect(common.BROKER)
    queuer = PgQueuer(AsyncpgDriver(connection))

    @queuer.entrypoint("noop")
    async def noop(job):
        common.noop(int(job.payload))

    @queuer.entrypoint("stamp")
    async def stamp(job):
        common.stamp(float(job.payload))

    @queuer.entrypoint("work")
    async def work(job):
        await asyncio.sleep(0.005)
        common.record(int(job.payload))

    yield queuer
    await connection.close()


@contextlib.asynccontextmanager
async def connected():
    global queries
    connection = await asyncpg.connect(common.BROKER)
    queries = Queries(AsyncpgDriver(connection))
    yield
    await connection.close()


async def send(name, argument):
    await queries.enqueue(name, str(argument).encode())


async def send_many(name, arguments):
    payloads = [str(argument).encode() for argument in arguments]
    await queries.enqueue([name] * len(payloads), payloads, [0] * len(payloads))
