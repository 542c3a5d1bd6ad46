"""SAQ."""

import asyncio
import contextlib
import os

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


async def nap(ctx, *, n):
    await asyncio.sleep(1.0)
    common.record(n)


settings = {"queue": queue, "functions": [noop, stamp, work, nap], "concurrency": int(os.environ.get("CONCURRENCY", "10"))}
options = {"ttl": -1}
if "JOB_TIMEOUT" in os.environ:  # a job that is active for longer is retried by the next sweep
    settings["timers"] = {"sweep": 5}
    options |= {"timeout": int(os.environ["JOB_TIMEOUT"]), "retries": 5}


@contextlib.asynccontextmanager
async def connected():
    await queue.connect()
    yield
    await queue.disconnect()


async def send(name, argument):
    await queue.enqueue(name, n=argument, **options)
