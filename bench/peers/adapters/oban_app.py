"""Oban, the Python package."""

import asyncio
import contextlib

import common
from oban import Oban, worker

oban = None


@worker()
class Noop:
    async def process(self, job):
        common.noop(job.args["n"])


@worker()
class Stamp:
    async def process(self, job):
        common.stamp(job.args["n"])


@worker()
class Work:
    async def process(self, job):
        await asyncio.sleep(0.005)
        common.record(job.args["n"])


JOBS = {"noop": Noop, "stamp": Stamp, "work": Work}


@contextlib.asynccontextmanager
async def connected():
    global oban
    pool = await Oban.create_pool(common.BROKER)
    async with Oban(pool=pool) as oban:
        yield
    await pool.close()


async def send(name, argument):
    await JOBS[name].enqueue({"n": argument})


async def send_many(name, arguments):
    await oban.enqueue_many([JOBS[name].new({"n": argument}) for argument in arguments])
