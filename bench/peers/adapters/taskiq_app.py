"""taskiq, on a list or a stream of Redis, or a queue of RabbitMQ."""

import asyncio
import contextlib
import os

import common
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType
from taskiq_redis import ListQueueBroker, RedisStreamBroker

KINDS = {
    "list": ListQueueBroker,
    "stream": RedisStreamBroker,
    "stream, reclaiming": lambda url: RedisStreamBroker(url, idle_timeout=10_000, unacknowledged_lock_timeout=10),
    "quorum": lambda url: AioPikaBroker(url, qos=200, task_queues=[Queue(type=QueueType.QUORUM)]),
    "classic": lambda url: AioPikaBroker(url, qos=200, task_queues=[Queue(type=QueueType.CLASSIC)]),
}
broker = KINDS[os.environ["KIND"]](common.BROKER)


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
