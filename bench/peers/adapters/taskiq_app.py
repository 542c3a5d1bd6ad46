"""taskiq, on a list or a stream."""

import asyncio
import contextlib
import os

import common
from taskiq_redis import ListQueueBroker, RedisStreamBroker

broker = (RedisStreamBroker if os.environ.get("KIND") == "stream" else ListQueueBroker)(common.BROKER)


@broker.task(task_name="noop")
async def noop(n):
    common.noop(n)


@broker.task(task_name="stamp")
async def stamp(sent):
    common.stamp(sent)


@broker.task(task_name="work")
async def work(n):
    await asyncio.sleep(0.005)
    common.record(n)


@broker.task(task_name="nap")
async def nap(n):
    await asyncio.sleep(1.0)
    common.record(n)


JOBS = {"noop": noop, "stamp": stamp, "work": work, "nap": nap}


@contextlib.asynccontextmanager
async def connected():
    await broker.startup()
    yield
    await broker.shutdown()


async def send(name, argument):
    await JOBS[name].kiq(argument)
