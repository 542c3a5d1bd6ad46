"""arq."""

import asyncio
import contextlib
import os

import common
from arq import create_pool
from arq.connections import RedisSettings


async def noop(ctx, n):
    common.noop(n)


async def stamp(ctx, sent):
    common.stamp(sent)


async def work(ctx, n):
    await asyncio.sleep(0.005)
    common.record(n)


async def nap(ctx, n):
    await asyncio.sleep(1.0)
    common.record(n)


class WorkerSettings:
    functions = [noop, stamp, work, nap]  # noqa: RUF012 - as arq documents it
    redis_settings = RedisSettings.from_dsn(common.BROKER)
    max_jobs = int(os.environ.get("MAX_JOBS", "10"))
    poll_delay = float(os.environ.get("POLL_DELAY", "0.5"))
    job_timeout = int(os.environ.get("JOB_TIMEOUT", "300"))  # and 10 s later, another worker may have the job
    keep_result = 0


pool = None


@contextlib.asynccontextmanager
async def connected():
    global pool
    pool = await create_pool(WorkerSettings.redis_settings)
    yield
    await pool.aclose()


async def send(name, argument):
    await pool.enqueue_job(name, argument)
