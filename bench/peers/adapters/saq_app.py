"""SAQ."""

import asyncio
import contextlib

import common
from saq import Queue

queue = Queue.from_url(common.BROKER)


async def noop(ctx, *, n):
    common.noop(n)


async def stamp(ctx, *, n):
    common.stamp(n)


async def work(ctx, *, n):
    await asyncio.sleep(0.005)
    common.record(n)


settings = {"queue": queue, "functions": [noop, stamp, work], "concurrency": 10}


@contextlib.asynccontextmanager
async def connected():
    await queue.connect()
    yield
    await queue.disconnect()


async def send(name, argument):
    await queue.enqueue(name, n=argument, ttl=-1)
